"""ServeKit's one command line: it parses, calls one function, prints.

Exit codes: 0 good, 1 the thing checked or measured failed, 2 usage or configuration.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

import model_configs
from archives import STORE, assets, build, verify
from deploy import RUN_DIR, local, logs, readiness, render
from model_configs import schema
from model_configs.errors import Failed, KitError

app = typer.Typer(
    help="Build, prove and serve PyTorch models on TorchServe: one YAML a model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
out = Console(**PLAIN, width=None if sys.stdout.isatty() else 160)
err = Console(**PLAIN, stderr=True)
# Typer keeps its own copy of click since 0.29; the base of BadParameter is its public end.
UsageError: Any = typer.BadParameter.__base__

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A model of model_configs/, by name.")]
ModelNames = Annotated[list[str], typer.Argument(metavar="MODEL...", help="Models of model_configs/, by name.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the JSON document to FILE too.")]
Port = Annotated[int, typer.Option(help="Port of the inference API; the others follow from it.", min=2100, max=65000)]


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")] = False,
) -> None:
    """Build, prove and serve PyTorch models on TorchServe: one YAML a model."""


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
    rows, errors = [], []
    for name in names or schema.model_names():
        try:
            config = schema.load_model(name)
        except KitError as error:
            errors.append(error)
            continue
        rows.append({"model": name, "valid": True, "advice": schema.advice(config), "weights": _weights_state(config)})
    if errors:
        raise KitError("\n       ".join(map(str, errors)), errors[0].hint)
    report(rows, {"checked": rows}, json_file)


@app.command()
def archive(
    name: ModelName,
    archive_format: Annotated[str | None, typer.Option("--format", help="mar, no-archive or tgz.")] = None,
    force: Annotated[bool, typer.Option(help="Package again even if nothing changed.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Build a model's archive into archives/store: weights, compiled artefact, golden request, handler."""
    built = _build(schema.load_model(name), archive_format, force)
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
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Answer without a token.")] = False,
    detach: Annotated[bool, typer.Option(help="Return when ready and leave the server running.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Write the configuration, print the torchserve call.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Build what has changed, start TorchServe, wait until it answers right, then stream its log until Ctrl-C."""
    options = render.ServerOptions(store=STORE, ports=render.Ports(port), auth=not no_auth)
    served = [_served(name) for name in names]
    if dry_run:
        folder = RUN_DIR / str(port)
        render.write(options, folder)
        out.print(" ".join(local.command(options, served, folder)))
        return
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    started = time.monotonic()
    server = local.start(options, served)
    try:
        results = readiness.wait_ready(server, lambda line: err.print(line))
        ready_s = round(time.monotonic() - started, 1)
        out.print(f"\nready in {ready_s} s\n")
        _print_urls(server)
        document = {"ready_s": ready_s, "port": port, "pid": server.pid, "models": [r.as_dict() for r in results]}
        if json_file:
            _write_json(document, json_file)
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
    found = [server for server in local.servers() if port in (None, server.port)]
    for server in found:
        local.stop(server)
        out.print(f"stopped {' '.join(model.name for model in server.models)} on port {server.port}")
    if not found:
        out.print("nothing runs")


@app.command()
def status(json_file: JsonFile = None) -> None:
    """Show every server here and whether its models are truly ready. Exit code 1 if one is not."""
    _report_readiness(local.servers(), None, json_file)


@app.command()
def probe(
    name: ModelName,
    port: Annotated[int | None, typer.Option(help="The server on this port, if several have the model.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Ask a running model its golden request. Exit code 1 unless every worker is READY and the answer is right."""
    servers = [
        server
        for server in local.servers()
        if port in (None, server.port) and name in [model.name for model in server.models]
    ]
    if not servers:
        schema.load_model(name)
        raise KitError(f"no server here has {name}", f"kit.py serve {name}")
    _report_readiness(servers, name, json_file)


@app.command()
def token(port: Annotated[int | None, typer.Option(help="The server on this port, if several run.")] = None) -> None:
    """Print the inference token of the server that runs here."""
    found = [server for server in local.servers() if port in (None, server.port)]
    if not found:
        raise KitError("no server runs here", "kit.py serve MODEL")
    out.print(found[0].token("inference") or "")


def report(rows: list[dict[str, Any]], document: dict[str, Any], json_file: Path | None) -> None:
    """A table for people, then one JSON document as the last line; to json_file too if there is one."""
    if rows:
        table = Table(*rows[0], box=None, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        out.print(table)
    out.print(json.dumps(document))
    if json_file:
        _write_json(document, json_file)


def _report_readiness(servers: list[local.Server], name: str | None, json_file: Path | None) -> None:
    rows = [
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
    return STORE / f"{config.model.name}{build.SUFFIXES[config.model.format]}"


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
        "weights": _weights_state(config),
        "archive": str(path.relative_to(model_configs.ROOT)) if path.exists() else "not built",
    }


def _build(config: schema.AnyModelConfig, archive_format: str | None, force: bool) -> build.Archive:
    if archive_format not in (None, *build.SUFFIXES):
        raise KitError(f"--format {archive_format} is none of {', '.join(build.SUFFIXES)}", "kit.py archive --help")
    with err.status(f"building {config.model.name} (the first time compiles it: about 35 s)"):
        return build.build(config, archive_format=archive_format, force=force)


def _served(name: str) -> local.ServedModel:
    config = schema.load_model(name)
    if config.model.format == "tgz":
        raise KitError(f"{name}: TorchServe loads no tar.gz", "set model.format to mar or no-archive")
    built = _build(config, None, False)
    return local.served_model(config, built.path.name, verify.read_golden(built.path))


def _weights_state(config: schema.AnyModelConfig) -> str:
    source = config.model.assets
    if source.package is None and source.path and not (model_configs.ROOT / Path(source.path).expanduser()).is_dir():
        return f"missing: {source.path}" + (f", else from the hub: {source.hub}" if source.hub else "")
    if source.package is None and not source.path:
        return f"from the hub: {source.hub}"
    try:
        assets.find_weights(config)
    except KitError as error:
        return f"missing: {error}"
    return "here"


def _print_urls(server: local.Server) -> None:
    token = server.token("inference")
    auth = f" -H 'Authorization: Bearer {token}'" if token else ""
    for model in server.models:
        url = f"http://{render.LOOPBACK}:{server.port}/predictions/{model.name}"
        openai = f"{url}/{model.version}/v1"
        out.print(f"{model.name}  {url}")
        out.print(f"{' ' * len(model.name)}  {openai}  (OpenAI base URL)\n")
        out.print(f"curl{auth} -H 'Content-Type: text/plain' -d 'hello' {url}")
        body = f'{{"input": ["hello", "world"], "model": "{model.name}"}}'
        out.print(f"curl{auth} -H 'Content-Type: application/json' -d '{body}' {openai}/embeddings\n")
    out.print(f"metrics: http://{render.LOOPBACK}:{server.ports.metrics}/metrics   logs: {server.folder / 'logs'}\n")


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "–"
    return "–" if value in (None, "") else str(value)


def _write_json(document: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")


def _explain(error: Exception, message: str, verbose: bool, hint: str = "") -> None:
    if verbose:
        err.print_exception()
    err.print("error:", style="bold red", end=" ")
    err.print(message)
    if hint:
        err.print("hint:", style="bold", end=" ")
        err.print(hint)


def run(arguments: list[str]) -> int:
    """Run one command line. Returns the exit code."""
    flags = {"-v", "--verbose"}  # taken anywhere: people add it to the end of the line that failed
    verbose = not flags.isdisjoint(arguments)
    try:
        app([argument for argument in arguments if argument not in flags], standalone_mode=False)
    except Failed as error:
        _explain(error, str(error), verbose)
        return 1
    except KitError as error:
        _explain(error, str(error), verbose, error.hint)
        return 2
    except UsageError as error:
        _explain(error, error.format_message(), verbose, "kit.py --help, or kit.py VERB --help")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
