"""The command line's verbs about the gateway: keys, what the mirror found, a rolling restart; and what `serve`, `stop`
and `status` do with gateways. They parse, call one function, print.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy import RUN_DIR, examples, gateway_process, gateway_serve, keys, local, mirror_report
from deploy.gateway import Tls, nginx_conf
from deploy.gateway_process import Gateway
from deploy.logs import Follower, gateway_line
from deploy.mirror_record import RECORD_DIR
from deploy.nginx import find_nginx
from model_configs.archive_files import MODEL_FOLDER, read_entry, read_golden
from model_configs.errors import Failed, KitError
from model_configs.schema import AnyModelConfig, load_model
from printing import err, out, report, write_json

app = typer.Typer()
keys_app = typer.Typer(help="Keys that clients of a gateway send as bearer tokens.", no_args_is_help=True)
mirror_app = typer.Typer(help="What a mirror's answers are like.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(mirror_app, name="mirror")

JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the JSON document to FILE too.")]
KeysDir = Annotated[Path, typer.Option("--keys", metavar="FOLDER", help="Where the keys' files are.")]
READ_EVERY_S = 0.2


@keys_app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is.")],
    model: Annotated[list[str] | None, typer.Option("--model", help="A model that it may use, else all.")] = None,
    days: Annotated[float | None, typer.Option(help="Until it expires, else never.")] = None,
    folder: KeysDir = keys.KEYS_DIR,
    json_file: JsonFile = None,
) -> None:
    """Make a key and print it, this once. It counts at once, for every gateway that reads this folder."""
    key, text = keys.add(folder, name, tuple(model or ()), days)
    report([_key_row(key)], {"id": key.id, "name": key.name, "key": text, "expires": key.expires}, json_file)


@keys_app.command(name="list")
def list_keys(folder: KeysDir = keys.KEYS_DIR, json_file: JsonFile = None) -> None:
    """List keys. What they are is not kept."""
    rows = [_key_row(key) for key in keys.keys(folder)]
    report(rows, {"keys": rows}, json_file)


@keys_app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="Its id, or its name if no other has it.")],
    folder: KeysDir = keys.KEYS_DIR,
    json_file: JsonFile = None,
) -> None:
    """Let nobody in with a key any more, from the next request on."""
    row = _key_row(keys.revoke(folder, key))
    report([row], {"revoked": row}, json_file)


@mirror_app.command(name="report")
def mirror_report_command(
    port: Annotated[int | None, typer.Option(help="The gateway's, if several have a record.")] = None,
    least_cosine: Annotated[
        float, typer.Option(help="From which on vectors count as the same.", min=-1, max=1)
    ] = mirror_report.LEAST_COSINE,
    fail_above: Annotated[float, typer.Option(help="Share of answers that may differ.", min=0, max=1)] = 0.01,
    json_file: JsonFile = None,
) -> None:
    """How a mirror's answers differ. Exit code 1 if more do than may, 3 if there is nothing to compare."""
    summary = mirror_report.summarise(mirror_report.read_record(_record_of(port)), least_cosine)
    is_good = summary.share <= fail_above
    report(mirror_report.rows(summary), {"good": is_good, "fail_above": fail_above, **summary.document}, json_file)
    if not is_good:
        raise Failed(f"{summary.share:.2%} of the answers differ, more than {fail_above:.2%}")


@app.command()
def restart(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A model that a gateway here serves.")],
    port: Annotated[int | None, typer.Option(help="The gateway's, if several serve it.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Build what has changed and exchange the TorchServes behind a gateway, one by one, while requests come.

    A new one is started and proven before the old one gets no more requests, and the old one is stopped when its last
    has ended: none is lost. Exit code 1 if one was cut off, or a new one does not get ready; then the old ones stay.
    """
    load_model(name)
    gateway = _gateway_of(name, port)
    (first, *_) = gateway_serve.fleet(gateway)
    configs = [load_model(model.name) for model in first.models]
    paths = [_built(context, config) for config in configs]
    models = [_served(config, path) for config, path in zip(configs, paths, strict=True)]
    wanted = gateway_serve.plan(
        configs, models, paths[0].parent, gateway.port, servers=len(gateway.servers), auth=first.auth
    )
    wanted = replace(wanted, tls=gateway.tls)
    rows: list[dict[str, Any]] = []
    started = time.monotonic()
    for old, new, ended in gateway_serve.restart(gateway, wanted, lambda line: err.print(line)):
        err.print(f"{len(rows) + 1} of {len(gateway.servers)}: TorchServe on port {new} instead of {old}")
        rows.append({"old": old, "new": new, "requests": "all ended" if ended else "cut off", "s": _since(started)})
    document = {"restarted": rows, "lost": any(row["requests"] == "cut off" for row in rows), "s": _since(started)}
    report(rows, document, json_file)
    if document["lost"]:
        raise Failed(f"requests were cut off after drain_timeout_s={gateway.drain_timeout_s}")


def serve(
    configs: Sequence[AnyModelConfig],
    models: Sequence[local.ServedModel],
    store: Path,
    port: int,
    *,
    servers: int,
    auth: bool,
    certificate: Path | None,
    key: Path | None,
    keys_dir: Path,
    dry_run: bool,
) -> Gateway | None:
    """Start it and print what to ask; with dry_run only nginx's configuration. Raises KitError, Failed."""
    if (certificate is None) != (key is None):
        raise KitError("--tls-cert and --tls-key go together", "both, as PEM files")
    tls = Tls(certificate.absolute(), key.absolute()) if certificate and key else None
    wanted = gateway_serve.plan(configs, models, store, port, servers=servers, auth=auth, tls=tls, keys_dir=keys_dir)
    if dry_run:
        out.print(nginx_conf(wanted.options, find_nginx().js_module))
        return None
    gateway = gateway_serve.start(wanted, lambda line: err.print(line))
    fleet = gateway_serve.fleet(gateway)
    for model, config in zip(fleet[0].models, configs, strict=True):
        for line in examples.lines(fleet[0], model, config, has_images=_has_images(store / model.archive)):
            out.print(line)
    scheme = "https" if tls else "http"
    out.print(f"gateway: {scheme}://127.0.0.1:{port}/ping and /ready   keys: {'kit.py keys' if auth else 'none'}")
    inner = ", ".join(str(server.port) for server in fleet)
    out.print(f"TorchServe: {inner} on 127.0.0.1   logs: {gateway.folder / 'logs'}\n")
    return gateway


def stay(gateway: Gateway, ready_s: float, json_file: Path | None, *, detach: bool) -> None:
    """Print its access lines until Ctrl-C, and stop it then; or leave it running. Raises Failed when it ends."""
    out.print(f"ready in {ready_s} s\n")
    document = {"ready_s": ready_s, "port": gateway.port, "pid": gateway.nginx.pid, "servers": list(gateway.servers)}
    if json_file:
        write_json(document, json_file)
    if detach:
        out.print(json.dumps(document))
        return
    try:
        _follow(gateway)
    except KeyboardInterrupt:
        out.print("\nstopping")
    finally:
        gateway_serve.stop(gateway)


def _follow(gateway: Gateway) -> None:
    access = Follower(gateway.folder / "logs" / "access.jsonl")
    for _ in access.lines():  # what was there before is told already
        pass
    while gateway.nginx.pid is not None:
        for line in access.lines():
            out.print(gateway_line(line))
        time.sleep(READ_EVERY_S)
    if (gateway.folder / gateway_process.STATE_FILE).exists():
        raise Failed(f"the gateway's nginx ended; its logs: {gateway.folder / 'logs'}")
    out.print("stopped by kit.py stop")


def stop(gateway: Gateway) -> None:
    """Stop it and its TorchServes, and say so."""
    ended = gateway_serve.stop(gateway)
    cut = "" if ended else f"; requests were cut off after {gateway.drain_timeout_s} s"
    out.print(f"stopped the gateway on port {gateway.port} and {len(gateway.servers)} TorchServe{cut}")


def readiness_row(gateway: Gateway) -> dict[str, Any]:
    """A row as those of models: ready is what /ping says."""
    problems = gateway.problems()
    fleet = gateway_serve.fleet(gateway)
    return {
        "port": gateway.port,
        "model": "(gateway)",
        "ready": not problems,
        "workers_ready": sum(server.alive for server in fleet),
        "workers": len(gateway.servers),
        "answer_ms": None,
        "problem": "; ".join(problems),
    }


def _gateway_of(model: str, port: int | None) -> Gateway:
    found = [
        gateway
        for gateway in gateway_process.gateways()
        if port in (None, gateway.port)
        and model in [served.name for server in gateway_serve.fleet(gateway) for served in server.models]
    ]
    if not found:
        raise KitError(f"no gateway here serves {model}", f"kit.py serve {model} --gateway")
    if len(found) > 1:
        ports = ", ".join(str(gateway.port) for gateway in found)
        raise KitError(f"gateways on ports {ports} serve {model}", "choose one with --port")
    return found[0]


def _record_of(port: int | None) -> Path:
    found = [path for path in RUN_DIR.glob(f"*/{RECORD_DIR}") if port in (None, int(path.parent.name))]
    if not found:
        raise KitError("no mirror has a record here", "deploy.gateway.mirror in the YAML, and serve --gateway")
    if len(found) > 1:
        ports = ", ".join(sorted(path.parent.name for path in found))
        raise KitError(f"mirrors of the gateways on ports {ports} have records", "choose one with --port")
    return found[0]


def _built(context: typer.Context, config: AnyModelConfig) -> Path:
    path: Path = context.obj(config, config.model.format)
    return path


def _served(config: AnyModelConfig, path: Path) -> local.ServedModel:
    return local.served_model(config, path.name, read_golden(path))


def _has_images(archive: Path) -> bool:
    try:
        return bool(read_entry(archive, f"{MODEL_FOLDER}/preprocessor_config.json"))
    except KeyError:
        return False


def _key_row(key: keys.Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "models": ", ".join(key.models) or "all",
        "created": key.created,
        "expires": key.expires or "never",
        "expired": key.expired(datetime.now(timezone.utc)),
    }


def _since(started_s: float) -> float:
    return round(time.monotonic() - started_s, 1)
