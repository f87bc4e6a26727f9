"""ServeKit's one command line: it parses, calls one function, prints.

Exit codes: 0 good, 1 the thing checked or measured failed, 2 usage or configuration, 3 a measurement is not valid.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml

import model_configs
from archives import STORE, assets, build, machines, verify
from archives import verbs as archive_verbs
from deploy import (
    RUN_DIR,
    cloud_verbs,
    cpus,
    examples,
    gateway_process,
    gateway_verbs,
    keys,
    local,
    logs,
    readiness,
    render,
)
from deploy import verbs as deploy_verbs
from loadtest import verbs
from model_configs import schema
from model_configs.archive_files import SUFFIXES, read_golden
from model_configs.errors import Failed, Invalid, KitError
from printing import err, explain, out, report, write_json
from servekit import cpu_plan
from servekit.cpus import read_machine

app = typer.Typer(
    help="Build, prove and serve PyTorch models on TorchServe: one YAML a model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(verbs.app)
app.add_typer(archive_verbs.app)
app.add_typer(deploy_verbs.app)
app.add_typer(gateway_verbs.app)
app.add_typer(cloud_verbs.app, name="deploy")
# Typer keeps its own copy of click since 0.29; the base of BadParameter is its public end.
UsageError: Any = typer.BadParameter.__base__

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A model of model_configs/, by name.")]
ModelNames = Annotated[list[str], typer.Argument(metavar="MODEL...", help="Models of model_configs/, by name.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the JSON document to FILE too.")]
Port = Annotated[int, typer.Option(help="Port of the inference API; the others follow from it.", min=2100, max=65000)]


@app.callback()
def main(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")] = False,
) -> None:
    """Build, prove and serve PyTorch models on TorchServe: one YAML a model."""
    # deploy/ may not import archives/, its neighbour.
    context.obj = lambda config, archive_format: _build(config, archive_format, force=False).path


@app.command()
def models(json_file: JsonFile = None) -> None:
    """List the models that have a YAML, and what is there of each."""
    rows = [_model_row(name) for name in schema.model_names()]
    report(rows, {"models": rows}, json_file)


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...")] = None,
    write_schema: Annotated[bool, typer.Option(help="Write model_configs/schema.json for editors.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Check YAMLs, all of them if none is named: keys, types, and values that do not go together."""
    if write_schema:
        schema.SCHEMA_FILE.write_text(schema.json_schema())
    rows: list[dict[str, Any]] = []
    errors = []
    for name in names or schema.model_names():
        try:
            config = schema.load_model(name)
        except KitError as error:
            errors.append(error)
            continue
        rows.append({"model": name, "valid": True, "advice": schema.advice(config), "weights": assets.state(config)})
    if errors:
        raise KitError("\n       ".join(map(str, errors)), errors[0].hint)
    for row in rows:
        for line in row["advice"]:
            out.print(f"{row['model']}: {line}", soft_wrap=True)
    report([row | {"advice": len(row["advice"])} for row in rows], {"checked": rows}, json_file)


@app.command()
def archive(
    name: ModelName,
    archive_format: Annotated[str | None, typer.Option("--format", help="mar, no-archive or tgz.")] = None,
    force: Annotated[bool, typer.Option(help="Package again even if nothing changed.")] = False,
    compile_for: Annotated[
        list[str] | None,
        typer.Option(metavar="CPU", help="amx, avx512_vnni, avx512, avx2, sve, neon; repeatable."),
    ] = None,
    artifacts_from: Annotated[
        list[Path] | None, typer.Option(metavar="ARCHIVE", help="Take what another machine compiled, too.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Build a model's archive into archives/store: weights, compiled artefact, golden request, handler."""
    config = machines.compiled_for(schema.load_model(name), compile_for or [])
    for source in artifacts_from or []:
        out.print(f"{source}: for {', '.join(machines.adopt(source, _prepared(config)))}")
    built = _build(config, archive_format, force)
    row = {
        "model": built.name,
        "archive": str(built.path.relative_to(model_configs.ROOT)),
        "MB": round(built.size_bytes / 1e6, 1),
        "sha256": built.sha256,
        "state": "built" if built.built else "unchanged",
    }
    report([row], row, json_file)


@app.command(name="verify")
def verify_command(
    name: Annotated[str, typer.Argument(metavar="MODEL|PATH", help="A model by name, or an archive's path.")],
    json_file: JsonFile = None,
) -> None:
    """Load an archive as a TorchServe worker does and ask it its golden request."""
    path = Path(name) if Path(name).exists() else _archive_path(schema.load_model(name))
    if not path.exists():
        raise KitError(f"{path} does not exist", f"kit.py archive {name}")
    try:
        result = verify.verify(path)
    except Failed as error:
        report([], {"verified": False, "archive": str(path), "problem": str(error)}, json_file)
        raise
    for line in result.worker_log:
        out.print(line)
    row = {
        "model": result.name,
        "version": result.version,
        "files": result.files,
        "load s": round(result.load_s, 2),
        "answer ms": round(result.answer_ms, 1),
        "golden": "right",
    }
    report([row], {"verified": True, **row}, json_file)


@app.command()
def serve(
    names: ModelNames,
    port: Port = 8080,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Answer without a token or key.")] = False,
    detach: Annotated[bool, typer.Option(help="Return when ready and leave the server running.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Print the torchserve call, or the gateway's nginx.conf.")] = False,
    gateway: Annotated[bool, typer.Option(help="nginx at --port, TorchServe behind it: deploy.gateway.")] = False,
    servers: Annotated[int, typer.Option(help="TorchServes behind the gateway.", min=1, max=16)] = 1,
    tls_cert: Annotated[Path | None, typer.Option(help="The gateway's certificate and its chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key, PEM.")] = None,
    keys_dir: Annotated[Path, typer.Option("--keys", help="The folder of the gateway's keys.")] = keys.KEYS_DIR,
    json_file: JsonFile = None,
) -> None:
    """Build what has changed, start TorchServe, wait until it answers right, then stream its log until Ctrl-C."""
    options = render.ServerOptions(store=STORE, ports=render.Ports(port), auth=not no_auth)
    if not gateway and (servers > 1 or tls_cert or tls_key):
        raise KitError("--servers and --tls-… are the gateway's", "add --gateway")
    configs = [schema.load_model(name) for name in names]
    served = [_served(config) for config in configs]
    if dry_run and not gateway:
        folder = RUN_DIR / str(port)
        render.write(local.options_for(options, served), folder)
        out.print(" ".join(local.command(options, served, folder)))
        return
    for line in cpus.start_lines(served * servers):
        err.print(line)
    started = time.monotonic()
    if gateway:
        front = gateway_verbs.serve(
            configs, served, STORE, port,
            servers=servers, auth=not no_auth, certificate=tls_cert, key=tls_key, keys_dir=keys_dir, dry_run=dry_run,
        )  # fmt: skip
        if front:
            gateway_verbs.stay(front, round(time.monotonic() - started, 1), json_file, detach=detach)
        return
    server = local.start(options, served)
    try:
        results = readiness.wait_ready(server, lambda line: err.print(line))
        ready_s = round(time.monotonic() - started, 1)
        out.print(f"\nready in {ready_s} s\n")
        _print_urls(server, configs)
        document = {"ready_s": ready_s, "port": port, "pid": server.pid, "models": [r.as_dict() for r in results]}
        if json_file:
            write_json(document, json_file)
        if detach:
            out.print(json.dumps(document))
            return
        logs.stream(server, out.print)
    except KeyboardInterrupt:
        out.print("\nstopping")
    except BaseException:
        local.stop(server)
        raise
    local.stop(server)


@app.command()
def stop(port: Annotated[int | None, typer.Option(help="Only the server on this port.")] = None) -> None:
    """Stop the servers that serve started on this machine."""
    gateways = [gateway for gateway in gateway_process.gateways() if port in (None, gateway.port)]
    for gateway in gateways:
        gateway_verbs.stop(gateway)
    found = [server for server in local.servers() if server.is_at(port)]
    for server in found:
        local.stop(server)
        out.print(f"stopped {' '.join(model.name for model in server.models)} on port {server.port}")
    if not gateways and not found:
        out.print("nothing runs")


@app.command()
def status(json_file: JsonFile = None) -> None:
    """Show every server here, whether its models are truly ready, and what gateways' /ping says. Exit code 1 if not."""
    _report_readiness(local.servers(), None, json_file, gateway_process.gateways())


@app.command()
def probe(
    name: ModelName,
    port: Annotated[int | None, typer.Option(help="The server on this port, if several have the model.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Ask a running model its golden request. Exit code 1 unless every worker is READY and the answer is right."""
    servers = [
        server for server in local.servers() if server.is_at(port) and name in [model.name for model in server.models]
    ]
    if not servers:
        schema.load_model(name)
        raise KitError(f"no server here has {name}", f"kit.py serve {name}")
    _report_readiness(servers, name, json_file)


@app.command(name="plan-cpu")
def plan_cpu(
    names: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Models of one server.")] = None,
    cpus_: Annotated[int | None, typer.Option("--cpus", help="CPUs of a made-up machine, else this one.")] = None,
    smt: Annotated[int, typer.Option(help="CPUs a core: 2 with hyperthreads.")] = 1,
    sockets: Annotated[int, typer.Option(help="Sockets, a NUMA node each.")] = 1,
    quota: Annotated[float | None, typer.Option(help="The container's CPU quota, in CPUs.", min=0.01)] = None,
    workers: Annotated[int | None, typer.Option(help="Workers of all models, else all sensible numbers.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of a worker, else as many as fit.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Show which CPUs each worker gets, here or on a machine that you describe."""
    try:
        machine = cpu_plan.made_up_machine(cpus_, smt, sockets, quota) if cpus_ else read_machine()
        machine = replace(machine, quota=quota or machine.quota)
        configs = [schema.load_model(name) for name in names or []]
        workers = workers or sum(config.torchserve.maxWorkers for config in configs) or None
        threads = threads or next((c.handler.threads for c in configs if c.handler.threads != "auto"), None)
        out.print(str(machine))
        if workers is None:
            found = [option.row() for option in cpu_plan.options(machine)]
            report(found, {"machine": str(machine), "options": found}, json_file)
            return
        planned = cpu_plan.plan(machine, workers, threads)
    except cpu_plan.CpuPlanError as error:
        raise KitError(str(error), "fewer workers, fewer threads, or more CPUs") from None
    for line in planned.advice():
        out.print(line)
    report(planned.rows(), planned.document(), json_file)


@app.command()
def distill(
    teacher: Annotated[Path, typer.Argument(help="A transformers folder with weights.")],
    student: Annotated[Path, typer.Argument(help="A transformers folder; random weights where it has none.")],
    data: Annotated[Path, typer.Argument(help="train, validation, test: a folder a label, or .csv/.jsonl files.")],
    to: Annotated[Path, typer.Argument(metavar="OUT", help="Where the best distilled student goes.")],
    option: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="loss=hinton, epochs=20, seeds=[0,1], …"),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Train a small classifier by a large one, and by labels alone, and report what that gains."""
    from archives.distillation import distill as distillation  # takes seconds to import
    from archives.distillation.options import DistillOptions, checked
    from archives.distillation.report import report_rows

    folders = {"teacher": teacher, "student": student, "data": data, "out": to}
    found = distillation.distill(checked(DistillOptions, {**folders, **_assignments(option or [])}))
    report(report_rows(found), found.document(), json_file)


@app.command()
def train(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="pydoc-llama, the one model that is made here.")],
    minutes: Annotated[float, typer.Option(help="For everything; the longer the better it reads.")] = 3.0,
    steps: Annotated[int | None, typer.Option(help="As many steps, however long they take.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed, steps, threads and Python give the same weights.")] = 0,
    to: Annotated[Path | None, typer.Option(help="The folder that is written, else the YAML's.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Train the demo language model on CPython's own documentation."""
    path = schema.load_model(name).model.assets.path
    if name != "pydoc-llama" or path is None:
        raise KitError(f"{name} is not made here", "kit.py train pydoc-llama")
    from archives.pydoc import train as training  # takes seconds to import

    made = training.train(to or model_configs.ROOT / path, minutes, seed, err.print, steps=steps)
    report([training.report_row(made)], made.document(), json_file)


@app.command()
def token(port: Annotated[int | None, typer.Option(help="The server on this port, if several run.")] = None) -> None:
    """Print the inference token of the server that runs here, or its gateway's key."""
    found = [server for server in local.servers() if server.is_at(port)]
    if not found:
        raise KitError("no server runs here", "kit.py serve MODEL")
    out.print(found[0].client_key or "")


def _report_readiness(
    servers: list[local.Server],
    name: str | None,
    json_file: Path | None,
    gateways: Sequence[gateway_process.Gateway] = (),
) -> None:
    rows = [gateway_verbs.readiness_row(gateway) for gateway in gateways]
    rows += [
        {"port": server.port, **readiness.check(server, model).as_dict()}
        for server in servers
        for model in server.models
        if name in (None, model.name)
    ]
    report(rows, {"ready": bool(rows) and all(row["ready"] for row in rows), "models": rows}, json_file)
    if not rows:
        raise Failed("no server runs here")
    if not all(row["ready"] for row in rows):
        raise Failed("not ready")


def _archive_path(config: schema.AnyModelConfig) -> Path:
    return STORE / f"{config.model.name}{SUFFIXES[config.model.format]}"


def _model_row(name: str) -> dict[str, Any]:
    try:
        config = schema.load_model(name)
    except KitError as error:
        return {"model": name, "version": "", "handler": "", "weights": f"broken: {error}", "archive": ""}
    path = _archive_path(config)
    return {
        "model": name,
        "version": config.model.version,
        "handler": config.model.handler,
        "weights": assets.state(config),
        "archive": str(path.relative_to(model_configs.ROOT)) if path.exists() else "not built",
    }


def _assignments(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE as YAML reads them: numbers, lists, words."""
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise KitError(f"--set {wrong[0]}: not KEY=VALUE", "kit.py distill --help")
    return {key: yaml.safe_load(value) for key, value in (pair.split("=", 1) for pair in pairs)}


def _prepared(config: schema.AnyModelConfig) -> Path:
    with err.status(f"building {config.model.name}"):
        return assets.prepare(config, assets.find_weights(config), STORE / ".prepared")


def _build(config: schema.AnyModelConfig, archive_format: str | None, force: bool) -> build.Archive:
    if archive_format not in (None, *SUFFIXES):
        raise KitError(f"--format {archive_format} is none of {', '.join(SUFFIXES)}", "kit.py archive --help")
    with err.status(f"building {config.model.name} (the first time compiles it: about 40 s)"):
        return build.build(config, archive_format=archive_format, force=force)


def _served(config: schema.AnyModelConfig) -> local.ServedModel:
    if config.model.format == "tgz":
        raise KitError(f"{config.model.name}: TorchServe loads no tar.gz", "set model.format to mar or no-archive")
    built = _build(config, None, False)
    return local.served_model(config, built.path.name, read_golden(built.path))


def _print_urls(server: local.Server, configs: list[schema.AnyModelConfig]) -> None:
    for model, config in zip(server.models, configs, strict=True):
        has_images = build.has_entry(_archive_path(config), "model/preprocessor_config.json")
        for line in examples.lines(server, model, config, has_images=has_images):
            out.print(line)
    out.print(f"metrics: http://{render.LOOPBACK}:{server.ports.metrics}/metrics   logs: {server.folder / 'logs'}\n")


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def run(arguments: list[str]) -> int:
    """Run one command line. Returns the exit code."""
    flags = {"-v", "--verbose"}  # taken anywhere: people add it to the end of the line that failed
    verbose = not flags.isdisjoint(arguments)
    try:
        # Commands return nothing; Ctrl-C in one makes typer return its exit code here.
        code: int | None = app([each for each in arguments if each not in flags], standalone_mode=False)
    except Failed as error:
        explain(str(error), traceback=verbose)
        return 1
    except Invalid as error:
        explain(f"not valid: {error}", traceback=verbose)
        return 3
    except KitError as error:
        explain(str(error), error.hint, traceback=verbose)
        return 2
    except UsageError as error:
        explain(error.format_message(), "kit.py --help, or kit.py VERB --help", traceback=verbose)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return code or 0


if __name__ == "__main__":
    # Verbs that run a server stop it on their way out.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    sys.exit(run(sys.argv[1:]))
