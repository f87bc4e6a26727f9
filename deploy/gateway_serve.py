"""Models behind a gateway on this machine: TorchServes on inner ports, nginx at the port that clients know. Starts
both, exchanges TorchServes for new ones while requests come, stops both. Knows nothing of how archives are built.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy import RUN_DIR, gateway_process, health, keys, local, readiness
from deploy.gateway import OPENAI_PATHS, SPARE_S, GatewayOptions, PublicModel, Tls
from deploy.gateway_process import OWN_KEYS, Gateway
from deploy.local import Fleet, Front, ServedModel, Server
from deploy.nginx import find_nginx
from deploy.render import Ports, ServerOptions
from model_configs.errors import Failed, KitError
from model_configs.gateway import GatewaySettings, file_of
from model_configs.schema import AnyModelConfig

FIRST_INNER, INNER_STEP = 100, 10
"""Where ports of TorchServes begin, from the gateway's on, and how far they are apart."""
LAST_PORT = 65500
TORCHSERVE_MAX_REQUEST = 6_553_500
"""Bytes of a body that TorchServe takes unless told otherwise (ConfigManager.java)."""
WELL_TIMEOUT_S = 30.0
OWN_KEY_NAME = "kit.py on this machine"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is served behind a gateway. auth: clients need a key, and TorchServe wants its token of nginx."""

    options: GatewayOptions
    store: Path
    models: tuple[ServedModel, ...]
    auth: bool = True
    tls: bool = False
    run_dir: Path = RUN_DIR


def plan(
    configs: Sequence[AnyModelConfig],
    models: Sequence[ServedModel],
    store: Path,
    port: int,
    *,
    servers: int = 1,
    auth: bool = True,
    tls: Tls | None = None,
    keys_dir: Path = keys.KEYS_DIR,
    run_dir: Path = RUN_DIR,
) -> Plan:
    """The gateway that these models' YAMLs ask for. Raises KitError where they differ, or a file cannot be read."""
    settings = {config.model.name: config.deploy.gateway if config.deploy else GatewaySettings() for config in configs}
    (first, own), *others = settings.items()
    for name, other in others:
        if other != own:
            raise KitError(f"deploy.gateway differs between {first} and {name}", "give both the same, or two ports")
    folder = run_dir / str(port)
    options = GatewayOptions(
        folder=folder,
        port=port,
        models=tuple(PublicModel(each.model.name, OPENAI_PATHS.get(each.model.handler, ())) for each in configs),
        settings=own,
        slots=servers,
        keys=(keys_dir.absolute(), folder / OWN_KEYS) if auth else (),
        tls=tls,
        response_timeout_s=max(config.torchserve.responseTimeout for config in configs) + SPARE_S,
    )
    wanted = [tls.certificate, tls.key] if tls else []
    wanted += [file_of(path) for path in (own.mirror.key_file, own.mirror.ca_file) if path] if own.mirror else []
    for path in wanted:
        if not os.access(path, os.R_OK):
            raise KitError(f"{path} cannot be read", "a file that is there, and this user's to read")
    return Plan(options, store, tuple(models), auth, tls is not None, run_dir)


def start(wanted: Plan, say: Say = lambda line: None) -> Gateway:
    """Start TorchServes, wait until each is ready, then the gateway. Raises KitError, Failed: nothing runs then."""
    port = wanted.options.port
    find_nginx()
    if any(gateway.port == port for gateway in gateway_process.gateways(wanted.run_dir)):
        raise KitError(f"a gateway already runs on port {port}", f"kit.py stop --port {port}, or another --port")
    if not local.is_free(port):
        raise KitError(f"port {port} is in use", "choose another with --port")
    gateway_process.prepare(wanted.options.folder)
    meeting = _meeting(wanted)
    with ExitStack() as undo:
        undo.callback(gateway_process.sweep, wanted.options.folder)
        started = []
        for _ in range(wanted.options.slots):
            server = _start_server(wanted, meeting)
            undo.callback(local.stop, server)
            started.append(server)
        for server in started:
            readiness.wait_ready(server, say)
        if wanted.auth:
            _give_own_key(wanted.options.folder)
        gateway = gateway_process.start(wanted.options, started)
        _wait_well(gateway)
        undo.pop_all()
    return gateway


def restart(gateway: Gateway, wanted: Plan, say: Say = lambda line: None) -> Iterator[tuple[int, int, bool]]:
    """Exchange TorchServes one after the other: a new one is started and proven before the old one gets no more.

    Yields for each the old port, the new one, and whether every request of the old one ended by itself. Raises Failed
    where a new one does not get ready: it is stopped, and the old ones serve on. Raises KitError while another restart
    is under way. The gateway's own settings stay.
    """
    with _only_restart(gateway):
        yield from _exchange(gateway, wanted, say)


def _exchange(gateway: Gateway, wanted: Plan, say: Say) -> Iterator[tuple[int, int, bool]]:
    meeting = _meeting(wanted)
    for slot, old in enumerate(gateway.servers):
        fresh = _start_server(wanted, meeting)
        try:
            readiness.wait_ready(fresh, say)
            gateway_process.start_before(gateway, fresh, wanted.options)
        except BaseException:
            gateway_process.unplugged(gateway, fresh.port, 0)
            local.stop(fresh)
            raise
        gateway = gateway_process.plug(gateway, slot, fresh)
        health.watch(gateway.folder, fleet(gateway))
        ended = gateway_process.unplugged(gateway, old, gateway.drain_timeout_s)
        if former := local.read_server(wanted.run_dir / str(old)):
            local.stop(former)
        yield old, fresh.port, ended


def stop(gateway: Gateway) -> bool:
    """Let requests under way end, then end the gateway and its TorchServes. Whether all ended by themselves."""
    servers = fleet(gateway)
    ended = gateway.stop(gateway.drain_timeout_s)
    for server in servers:
        local.stop(server)
    return ended


def fleet(gateway: Gateway) -> list[Server]:
    """The TorchServes of its slots, also those that have died."""
    found = (local.read_server(gateway.folder.parent / str(port)) for port in gateway.servers)
    return [server for server in found if server]


def free_ports(port: int, run_dir: Path = RUN_DIR) -> Ports:
    """Ports for a TorchServe behind a gateway. Raises KitError where none are free."""
    taken = {server.port for server in local.servers(run_dir)}  # one that starts does not listen yet
    for first in range(port + FIRST_INNER, LAST_PORT, INNER_STEP):
        ports = Ports(first)
        if first not in taken and all(map(local.is_free, ports.all())):
            return ports
    raise KitError(f"no ports are free beyond {port + FIRST_INNER}", "choose a lower --port")


@contextmanager
def _only_restart(gateway: Gateway) -> Iterator[None]:
    """Raises KitError while another one exchanges this gateway's TorchServes."""
    with (gateway.folder / "restart.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KitError(f"the gateway on port {gateway.port} is being restarted", "wait for its end") from None
        yield


def _start_server(wanted: Plan, meeting: Path) -> Server:
    largest = max(wanted.options.settings.max_body_bytes, TORCHSERVE_MAX_REQUEST)
    options = ServerOptions(
        wanted.store,
        free_ports(wanted.options.port, wanted.run_dir),
        wanted.auth,
        properties={"max_request_size": str(largest)},
    )
    fleet_ = Fleet(Front(wanted.options.port, wanted.tls), wanted.options.slots, meeting)
    return local.start(options, list(wanted.models), wanted.run_dir, fleet=fleet_)


def _meeting(wanted: Plan) -> Path:
    """Where workers agree on their CPUs: anew for each restart, since those who leave hold theirs to the end."""
    folder = wanted.options.folder / "meeting" / str(time.time_ns())
    folder.mkdir(mode=0o700, parents=True)
    return folder


def _give_own_key(folder: Path) -> None:
    """A key that ends with this gateway, for the kit's own verbs and for trying out, where TorchServe has its token."""
    _, text = keys.add(folder / OWN_KEYS, OWN_KEY_NAME)
    gateway_process.write_secret(folder / local.KEY_FILE, json.dumps({"inference": {"key": text}}))


def _wait_well(gateway: Gateway) -> None:
    """Until /ping says so too; TorchServe was proven just before. Raises Failed."""
    deadline = time.monotonic() + WELL_TIMEOUT_S
    while problems := gateway.problems():
        if time.monotonic() > deadline:
            raise Failed(f"the gateway's /ping is not 200: {'; '.join(problems)}")
        time.sleep(0.1)
