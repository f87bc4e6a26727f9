"""deploy/container.py, container_log.py, orphans.py: what needs no TorchServe. tests/e2e/test_container.py has the rest."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest

from deploy import orphans
from deploy.container import (
    drain,
    gateway_options,
    inner_ports,
    model_dir,
    require_usable,
    server_options,
    short_folder,
)
from deploy.container_environment import Environment
from deploy.container_log import Tee
from deploy.gateway import PublicModel
from deploy.gateway_process import Gateway
from deploy.render import config_properties
from model_configs import ROOT
from model_configs.archive_files import read_config
from model_configs.errors import KitError
from tests.fakes.archive import fake_archive

PORT = 22000


def test_where_models_are() -> None:
    assert model_dir(["serve"], Environment()) == Path("/opt/ml/model")
    assert model_dir([], Environment()) == Path("/models")
    assert model_dir([], Environment(model_dir=Path("/m"))) == model_dir(["serve"], Environment(model_dir=Path("/m")))
    for arguments in (["train"], ["serve", "serve"], ["bash"]):
        with pytest.raises(KitError, match=arguments[-1]):
            model_dir(arguments, Environment())


def test_inner_ports_are_free_and_nobody_elses() -> None:
    ports = inner_ports(Environment(port=PORT))
    assert len(set(ports.all())) == 5
    assert max(ports.all()) - min(ports.all()) == 4
    assert not set(ports.all()) & set(inner_ports(Environment(port=PORT + 1)).all())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports.metrics))
        assert not set(inner_ports(Environment(port=PORT)).all()) & set(ports.all())


def test_inner_ports_stay_where_sagemaker_wants_them() -> None:
    environment = Environment(port=PORT, metrics_port=PORT + 17, safe_ports=range(PORT, PORT + 25))
    ports = inner_ports(environment).all()
    assert set(ports) <= set(environment.safe_ports or ())
    assert not {PORT, PORT + 17} & set(ports)
    for few in (range(PORT, PORT + 4), range(PORT, PORT + 6)):
        with pytest.raises(KitError, match=f"no 5 free ports in a row in {few[0]}-{few[-1]}"):
            inner_ports(Environment(port=few[2], safe_ports=few))


def test_a_run_folder_with_a_long_name_keeps_its_sockets_elsewhere(tmp_path: Path) -> None:
    with short_folder(Path("/tmp/short")) as folder:
        assert folder == Path("/tmp/short")
    with short_folder(tmp_path / ("x" * 80)) as folder:
        assert folder.is_dir()
        assert len(str(folder)) < 50
    assert not folder.exists()


def test_where_nothing_can_be_written_or_loaded_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_usable(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(KitError, match=f"cannot write to {tmp_path}/file: ") as caught:
        require_usable(tmp_path / "file")
    assert "--tmpfs /tmp:exec" in caught.value.hint
    # As Docker's --tmpfs is, if it is not told otherwise.
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC))
    with pytest.raises(KitError, match="run is mounted noexec"):
        require_usable(tmp_path / "run")


def test_torchserve_is_on_loopback_and_metrics_only_where_they_are_asked_for() -> None:
    def addresses(environment: Environment) -> dict[str, str]:
        lines = config_properties(server_options(environment, Path("/store")), Path("/run")).splitlines()
        return {key: value for key, value in (line.split("=", 1) for line in lines) if key.endswith("_address")}

    assert all("127.0.0.1" in address for address in addresses(Environment(port=PORT)).values())
    scraped = addresses(Environment(port=PORT, metrics_port=8082))
    assert scraped.pop("metrics_address") == "http://0.0.0.0:8082"
    assert all("127.0.0.1" in address for address in scraped.values())


def test_the_gateway_waits_longer_than_torchserve_and_knows_the_dialects(tmp_path: Path) -> None:
    configs = [
        read_config(fake_archive(tmp_path / "a", "a", responseTimeout=30)),
        read_config(fake_archive(tmp_path / "b", "b", responseTimeout=600)),
    ]
    options = gateway_options(Environment(keys_dir=Path("/keys")), configs, tmp_path)
    assert options.response_timeout_s > 600
    assert options.models == (PublicModel("a", ("embeddings",)), PublicModel("b", ("embeddings",)))
    assert options.keys == (Path("/keys"),)
    assert gateway_options(Environment(), configs, tmp_path).keys == ()


class FakeGateway:
    """Writes down what it is told; whoever is under way takes takes_s."""

    def __init__(self, takes_s: float = 0) -> None:
        self.told: list[tuple[str, float]] = []
        self.takes_s = takes_s

    def drain(self) -> None:
        self.told.append(("drain", time.monotonic()))

    def stop(self, timeout_s: float) -> bool:
        self.told.append((f"stop in {timeout_s}", time.monotonic()))
        return timeout_s >= self.takes_s


def drained(gateway: FakeGateway, environment: Environment, stopping: threading.Event) -> list[str]:
    drain(cast(Gateway, gateway), environment, stopping)
    return [word for word, _ in gateway.told]


def test_a_signal_lets_requests_end_and_a_failure_does_not(caplog: pytest.LogCaptureFixture) -> None:
    stopping, gateway = threading.Event(), FakeGateway(takes_s=30)
    assert drained(gateway, Environment(drain_delay_s=1), stopping) == ["stop in 0"]
    stopping.set()
    with caplog.at_level("INFO", logger="container"):
        assert drained(FakeGateway(), Environment(), stopping) == ["drain", "stop in 22"]
        assert caplog.messages == []
        assert drained(gateway, Environment(drain_delay_s=1), stopping)[1:] == ["drain", "stop in 22"]
    assert gateway.told[2][1] - gateway.told[1][1] >= 1
    assert caplog.messages == ["requests were cut off: they took longer than 22 s"]


def test_the_dead_are_buried() -> None:
    """A grandchild whose parent has ended becomes ours, and leaves no zombie."""
    program = (
        "import os, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "import psutil\n"
        "from deploy.orphans import adopt_orphans, reap\n"
        "adopt_orphans()\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0: time.sleep(0.5)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(len(psutil.Process().children()))\n"
        "while psutil.Process().children(): reap(); time.sleep(0.01)\n"
        "print('none')\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, ROOT], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["1", "none"]


def test_reaping_leaves_the_living_alone() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        orphans.reap()
        assert psutil.pid_exists(child.pid)
        assert child.poll() is None
        child.send_signal(signal.SIGKILL)


def test_nothing_survives_the_first_process() -> None:
    program = (
        "import subprocess, sys; sys.path.insert(0, sys.argv[1])\n"
        "import psutil\n"
        "from deploy.orphans import adopt_orphans, end_children\n"
        "adopt_orphans()\n"
        "subprocess.run(['sh', '-c', 'setsid sleep 60 & setsid sh -c \"trap : TERM; sleep 60\" &'], check=True)\n"
        "print(len(psutil.Process().children(recursive=True)) >= 2)\n"
        "end_children()\n"
        "print(psutil.Process().children(recursive=True))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, ROOT], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["True", "[]"]


def test_a_servers_output_is_kept_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "server.log"
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import os, pathlib, subprocess\n"
        "from deploy.container_log import Tee, log, one_output\n"
        "with one_output():\n"
        "    log.info('ours')\n"
        "    tee = Tee(pathlib.Path(sys.argv[2]))\n"
        "    subprocess.run(['echo', 'theirs'], stdout=tee.descriptor, check=True)\n"
        "    tee.close(); tee.join(5)\n"
        "    with open('/dev/stdout', 'a') as nginx: nginx.write('by name\\n')\n"
        "print('after')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, ROOT, path], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.splitlines() == ["ours", "theirs", "by name", "after"]
    assert path.read_text() == "theirs\n"


def test_a_log_that_grows_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.container_log.MOST_BYTES", 1000)
    tee = Tee(tmp_path / "server.log")
    with os.fdopen(os.dup(tee.descriptor), "w") as server:
        for number in range(200):
            print(f"line {number}", file=server)
    tee.close()
    tee.join(10)
    assert (tmp_path / "server.log").read_text().endswith("line 199\n")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2000


def test_nobody_waits_for_a_reader_that_has_gone(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from deploy.container_log import log, one_output\n"
        "with one_output():\n"
        "    for _ in range(20000): log.info('x' * 50)\n"
        "open(sys.argv[2], 'w').write('done')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, ROOT, tmp_path / "end"], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.read(10)
        writer.stdout.close()
        deadline = time.monotonic() + 30
        while not (tmp_path / "end").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
