"""A gateway's processes: nginx at the public port, one small nginx before each TorchServe, the health process, and
the mirror's if there is one. Start them, find them again, stop them without leaving anything behind.

The nginx before a TorchServe puts in its token, and is what a rolling restart exchanges. Its socket is a slot of the
gateway's, by a link that is replaced in one step: what holds clients' connections is never restarted, not even
reloaded, since nginx that reloads ends the connections that wait for their next request, and a client that sends one
at that moment loses it. Knows nothing of what models answer.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from deploy import RUN_DIR, background, health, mirror
from deploy.gateway import SCRIPT, GatewayOptions, VersionedModel, nginx_conf, torchserve_conf
from deploy.local import Server, is_free
from deploy.mirror_record import RECORD_DIR
from deploy.nginx import GATEWAY, Nginx, find_nginx
from deploy.render import TEMPLATES
from model_configs.errors import Failed, KitError

STATE_FILE = "gateway.json"
OWN_KEYS = "keys"
KEPT = ("logs", RECORD_DIR)
"""What stays of a gateway's folder when it has stopped."""
TOKEN_TIMEOUT_S = 60.0
"""For Java to start, which then writes TorchServe's tokens."""


@dataclass(frozen=True)
class Gateway:
    """A gateway that was started here. servers: the TorchServe of each slot, by its port."""

    port: int
    folder: Path
    tls: bool
    mirrors: bool
    servers: tuple[int, ...]
    response_timeout_s: int
    drain_timeout_s: int

    @property
    def alive(self) -> bool:
        """Whether everything that it is made of runs."""
        modules = [health.MODULE, mirror.MODULE] if self.mirrors else [health.MODULE]
        return all(nginx.pid for nginx in [self.nginx, *map(self.before, self.servers)]) and all(
            background.find(module, self.folder) for module in modules
        )

    @property
    def nginx(self) -> Nginx:
        """The one that clients reach."""
        return Nginx(self.folder, GATEWAY)

    def before(self, server: int) -> Nginx:
        """The one before a TorchServe, by that one's port."""
        return Nginx(self.folder, f"torchserve-{server}")

    def problems(self) -> list[str]:
        """Why /ping is not 200 now; empty if it is. Never raises."""
        if self.nginx.pid is None:
            return [f"the gateway's nginx does not run; its log: {self.folder / 'logs'}"]
        document = health.state(self.folder)
        return list(document["problems"]) if document else ["the health process does not answer"]

    def drain(self) -> None:
        """/ready says 503 from now on, and requests are still answered."""
        (self.folder / health.DRAINING_FILE).touch()

    def stop(self, timeout_s: float) -> bool:
        """Drain, take no more connections, let requests under way end for timeout_s, then end every process.

        Whether all requests ended by themselves. TorchServe is not stopped.
        """
        self.drain()
        self.nginx.quit()
        ended = self.nginx.wait(timeout_s)
        sweep(self.folder)
        return ended


def sweep(folder: Path) -> None:
    """End every process of a gateway's folder, and leave nothing in it but logs and the mirror's record."""
    for module in (health.MODULE, mirror.MODULE):
        background.stop(module, folder)
    nginxes = _nginxes(folder)
    for process in nginxes:
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            process.kill()
    background.running_after(nginxes, background.STOP_TIMEOUT_S)
    for path in folder.glob("*"):
        if path.name in KEPT:
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def start(options: GatewayOptions, servers: Sequence[Server]) -> Gateway:
    """Start it in front of TorchServes, as many as there are slots, which need not answer yet; listens on return.

    Raises KitError where nginx is missing or the port is taken, Failed where nginx refuses its configuration.
    """
    installed = find_nginx()
    if len(servers) != options.slots:
        raise ValueError(f"{len(servers)} servers for {options.slots} slots")
    if not is_free(options.port, options.host):
        raise KitError(f"port {options.port} is in use", "choose another with --port")
    folder = prepare(options.folder)
    gateway = Gateway(
        options.port,
        folder,
        options.tls is not None,
        options.settings.mirror is not None,
        tuple(server.port for server in servers),
        options.response_timeout_s,
        options.settings.drain_timeout_s,
    )
    shutil.copy(TEMPLATES / SCRIPT, folder / SCRIPT)
    write_secret(folder / f"{GATEWAY}.conf", nginx_conf(options, installed.js_module))
    gateway.nginx.test()
    write(gateway)
    try:
        health.watch(folder, servers)
        background.start(health.MODULE, folder)
        if options.settings.mirror:
            mirror.write_settings(folder, options.settings.mirror)
            background.start(mirror.MODULE, folder)
        for slot, server in enumerate(servers):
            start_before(gateway, server, options)
            plug(gateway, slot, server)
        gateway.nginx.start(inherit_output=options.log_to_output)
    except BaseException:
        sweep(folder)
        raise
    return gateway


def prepare(folder: Path) -> Path:
    """The gateway's folder, nobody else's to read, with what nginx needs in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name in ("logs", "temp"):
        (folder / name).mkdir(exist_ok=True)
    return folder


def start_before(gateway: Gateway, server: Server, options: GatewayOptions) -> None:
    """Start the nginx before a TorchServe; nobody asks it yet. Raises Failed."""
    nginx = gateway.before(server.port)
    models = [VersionedModel(model.name, model.version) for model in server.models]
    text = torchserve_conf(options, nginx.name, server.port, _token(server), models, find_nginx().js_module)
    write_secret(gateway.folder / f"{nginx.name}.conf", text)
    nginx.start(inherit_output=options.log_to_output)


def plug(gateway: Gateway, slot: int, server: Server) -> Gateway:
    """Requests of this slot go to this TorchServe from now on. Returns the gateway as it is now."""
    link = gateway.folder / f"slot-{slot}.sock"
    fresh = gateway.folder / f"slot-{slot}.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(f"{gateway.before(server.port).name}.sock")
    fresh.replace(link)
    ports = tuple(server.port if place == slot else port for place, port in enumerate(gateway.servers))
    changed = replace(gateway, servers=ports)
    write(changed)
    return changed


def unplugged(gateway: Gateway, server: int, timeout_s: float) -> bool:
    """End the nginx before a TorchServe that no slot leads to any more, when the last request of it has ended.

    Whether that was so within timeout_s: else requests were cut off.
    """
    nginx = gateway.before(server)
    nginx.quit()
    ended = nginx.wait(timeout_s)
    nginx.kill()
    for suffix in ("conf", "sock"):
        (gateway.folder / f"{nginx.name}.{suffix}").unlink(missing_ok=True)
    return ended


def gateways(run_dir: Path = RUN_DIR) -> list[Gateway]:
    """Every gateway that was started and not stopped, by port."""
    found = []
    for path in run_dir.glob(f"*/{STATE_FILE}"):
        state = json.loads(path.read_text())
        found.append(Gateway(**{**state, "folder": path.parent, "servers": tuple(state["servers"])}))
    return sorted(found, key=lambda gateway: gateway.port)


def write(gateway: Gateway) -> None:
    """Remember it."""
    fresh = gateway.folder / f"{STATE_FILE}.new"
    fresh.write_text(json.dumps({**vars(gateway), "folder": str(gateway.folder)}) + "\n")
    fresh.replace(gateway.folder / STATE_FILE)


def _token(server: Server) -> str | None:
    """TorchServe's inference token, which may not have been written yet. Raises Failed."""
    deadline = time.monotonic() + TOKEN_TIMEOUT_S
    while server.auth and server.token("inference") is None:
        if time.monotonic() > deadline or not server.alive:
            raise Failed(f"TorchServe on port {server.port} has written no token")
        time.sleep(0.05)
    return server.token("inference")


def write_secret(path: Path, text: str) -> None:
    """A file that is its owner's alone from the start."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _nginxes(folder: Path) -> list[psutil.Process]:
    """Masters, and workers whose master was killed: nothing else has this working directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == "nginx" and process.cwd() == str(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
