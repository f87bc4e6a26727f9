"""The instance's script, run as it is, with an instance's commands in its PATH."""

from __future__ import annotations

import hashlib
import json
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy import keys
from tests.fakes.instance import GOLDEN, Instance, script, write_archive

CLIENT: dict[str, Any] = {
    "id": "abcdefghijkl",
    "name": "a client",
    "sha256": "f" * 64,
    "models": [],
    "created": "2026-01-01T00:00:00Z",
    "expires": None,
}
SIGNAL = "cfn-signal --success {} --stack servekit-minilm --resource Instances --region eu-west-1"


class Gateway(ThreadingHTTPServer):
    """Ready after some looks; takes keys whose files are in a folder."""

    def __init__(self, folder: Path, looks: int = 2, answer: bytes = b"[[3, 4]]") -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.keys, self.looks, self.answer = folder, looks, answer
        self.bodies: list[bytes] = []
        self.bearers: list[str] = []


class Asked(BaseHTTPRequestHandler):
    server: Gateway

    def do_GET(self) -> None:
        self.server.looks -= 1
        self._reply(200 if self.path == "/ready" and self.server.looks < 0 else 503, b'{"why": "loading"}')

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        bearer = self.headers["Authorization"].removeprefix("Bearer ")
        self.server.bearers.append(bearer)
        held = {key.id: key for key in keys.keys(self.server.keys)}
        key = held.get(bearer.split("-")[1])
        known = key is not None and key.sha256 == hashlib.sha256(bearer.encode()).hexdigest()
        # nginx's JavaScript reads no other form of a time.
        known = known and bool(key and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", key.expires or ""))
        good = known and self.path == "/invocations" and self.headers["Content-Type"] == "application/json"
        self._reply(200 if good else 401, self.server.answer if good else b'{"error": "no key"}')

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(gateway: Gateway) -> Iterator[Gateway]:
    thread = threading.Thread(target=gateway.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield gateway
    finally:
        gateway.shutdown()
        thread.join()
        gateway.server_close()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with served(Gateway(tmp_path / "root/etc/servekit/keys")) as found:
        yield found


@pytest.fixture
def instance(tmp_path: Path, gateway: Gateway) -> Instance:
    return Instance(tmp_path, gateway.server_port, [CLIENT])


def boot(instance: Instance, **changes: str) -> subprocess.CompletedProcess[str]:
    if not instance.s3.exists():
        instance.s3.mkdir()
        changes.setdefault("ArchiveSha256", write_archive(instance.s3))
    return instance.boot(script(**changes))


def test_an_instance_that_answers_right_says_so(instance: Instance, gateway: Gateway) -> None:
    done = boot(instance)
    assert done.returncode == 0, done.stdout
    assert instance.calls("cfn-signal") == [SIGNAL.format("true")]
    assert instance.calls()[-1].startswith("cfn-signal"), "only after everything else"
    assert [json.loads(body) for body in gateway.bodies] == [GOLDEN.body]
    assert "answered right" in done.stdout
    root = instance.root
    assert (root / "etc/systemd/system/servekit.service").read_text().startswith("[Unit]")
    assert "systemctl enable --now servekit.service" in instance.calls()
    environment = dict(line.split("=", 1) for line in (root / "etc/servekit/environment").read_text().splitlines())
    assert environment == {
        "IMAGE": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/servekit:cpu",
        "INSTANCE": "i-0123456789abcdef0",
        "LOG_GROUP": "/servekit/servekit-minilm/container",
        "MACHINE_OPTIONS": "",
        "REGION": "eu-west-1",
        "SERVEKIT_GATEWAY": "'{\"max_concurrent\": 8}'",
    }
    assert "aws ecr get-login-password --region eu-central-1" in instance.calls(), "the image's own region"
    assert (root / "var/lib/servekit/model/a file with spaces").read_text() == "weights"


def test_keys_are_the_containers_alone_and_the_starts_own_goes(instance: Instance, gateway: Gateway) -> None:
    done = boot(instance)
    assert [json.loads(path.read_text()) for path in instance.key_files] == [CLIENT]
    assert stat.S_IMODE((instance.root / "etc/servekit").stat().st_mode) == 0o700
    assert stat.S_IMODE(instance.key_files[0].stat().st_mode) == 0o444
    (bearer,) = gateway.bearers
    everything = done.stdout + "".join(instance.calls())
    assert bearer not in everything
    assert bearer.split("-")[2] not in everything
    assert not list((instance.folder / "tmp").iterdir()), "passwords and replies are gone"


def test_a_secret_is_asked_of_secrets_manager(instance: Instance) -> None:
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:servekit-AbCdEf"
    assert boot(instance, KeysArn=arn).returncode == 0
    assert len(instance.calls(f"aws secretsmanager get-secret-value --secret-id {arn}")) == 1
    assert not instance.calls("aws ssm")


def test_what_is_not_there_is_installed(instance: Instance) -> None:
    for name in ("docker", "amazon-cloudwatch-agent-ctl"):
        (instance.folder / "bin" / name).unlink()
    done = boot(instance)
    assert instance.calls("dnf") == ["dnf install --quiet --assumeyes amazon-cloudwatch-agent"]
    assert "FAILED: CloudWatch agent" in done.stdout, "the fake dnf installs nothing"


def test_inf2_gets_its_devices_and_its_monitor(instance: Instance) -> None:
    (instance.root / "dev").mkdir()
    for number in (0, 1, 10):
        (instance.root / f"dev/neuron{number}").touch()
    assert boot(instance, Accelerator="neuron").returncode == 0
    environment = (instance.root / "etc/servekit/environment").read_text()
    options = "--cap-add=IPC_LOCK --device=/dev/neuron0 --device=/dev/neuron1 --device=/dev/neuron10"
    assert f"MACHINE_OPTIONS={options}\n" in environment
    assert "systemctl enable --now servekit.service servekit-neuron-monitor.service" in instance.calls()


def test_gpus_are_the_containers(instance: Instance) -> None:
    assert boot(instance, Accelerator="nvidia").returncode == 0
    assert "MACHINE_OPTIONS=--gpus=all\n" in (instance.root / "etc/servekit/environment").read_text()


def test_workers_may_choose_their_memory_where_there_are_several_nodes(instance: Instance) -> None:
    (instance.root / "sys/devices/system/node/node1").mkdir(parents=True)
    assert boot(instance).returncode == 0
    assert "MACHINE_OPTIONS=--cap-add=SYS_NICE\n" in (instance.root / "etc/servekit/environment").read_text()


@pytest.mark.parametrize(
    ("call", "words", "reason"),
    [
        ("docker pull", "manifest unknown", "FAILED: image: manifest unknown"),
        ("docker login", "no basic auth", "FAILED: image: no basic auth"),
        ("aws s3 sync", "AccessDenied", "FAILED: archive: AccessDenied"),
        ("aws ssm", "ParameterNotFound", "ParameterNotFound"),
        ("amazon-cloudwatch-agent-ctl", "no route", "FAILED: CloudWatch agent: no route"),
        ("systemctl enable --now docker", "no docker", "FAILED: docker: no docker"),
        ("systemctl enable --now servekit", "bad unit", "FAILED: service: bad unit"),
        ("nvidia-smi", "couldn't communicate with the driver", "FAILED: service: couldn't communicate"),
    ],
)
def test_a_command_that_fails_is_told_in_its_own_words(instance: Instance, call: str, words: str, reason: str) -> None:
    instance.environment |= {"FAKE_FAILS": call, "FAKE_WORDS": words}
    done = boot(instance, Accelerator="nvidia")
    assert done.returncode == 1
    assert reason in done.stdout
    assert instance.calls("cfn-signal") == [SIGNAL.format("false")]


def test_an_image_for_another_processor(instance: Instance) -> None:
    instance.environment["FAKE_ARCHITECTURE"] = "arm64"
    done = boot(instance)
    assert "FAILED: image: 123456789012.dkr.ecr.eu-central-1.amazonaws.com/servekit:cpu is for arm64" in done.stdout
    assert instance.calls("cfn-signal") == [SIGNAL.format("false")]
    assert not instance.calls("systemctl enable --now servekit")


def test_inf2_without_a_device(instance: Instance) -> None:
    assert "FAILED: service: no Neuron device" in boot(instance, Accelerator="neuron").stdout


@pytest.mark.parametrize("change", ["sums", "file", "more"])
def test_an_archive_that_is_not_the_one_that_was_built(instance: Instance, change: str) -> None:
    instance.s3.mkdir()
    sha256 = write_archive(instance.s3)
    if change == "sums":
        sha256 = "1" * 64
    if change == "file":
        (instance.s3 / "servekit/golden.py").write_text("import os")
    if change == "more":
        (instance.s3 / "sitecustomize.py").write_text("import os")
    done = boot(instance, ArchiveSha256=sha256)
    assert "FAILED: archive: " in done.stdout
    assert instance.calls("cfn-signal") == [SIGNAL.format("false")]
    assert not instance.calls("systemctl enable --now servekit"), "nothing of it runs"


@pytest.mark.parametrize("keys", ["", "sk-a-plain-key", "{}", '[{"id": "x"}]', '["x"]'])
def test_keys_that_are_none(instance: Instance, keys: str) -> None:
    instance.keys = keys
    done = boot(instance)
    assert "FAILED: keys: the keys are no JSON list of what `kit.py keys` made" in done.stdout
    assert instance.calls("cfn-signal") == [SIGNAL.format("false")]


def test_a_container_that_ends_is_told_by_its_own_words(instance: Instance, gateway: Gateway) -> None:
    gateway.looks = 10**6
    (instance.root / "ended").touch()
    done = boot(instance)
    assert "FAILED: ready: the container ended: error: a worker died while it loaded" in done.stdout
    assert instance.calls("cfn-signal") == [SIGNAL.format("false")]


def test_one_that_is_not_ready_in_time_says_what_it_waits_for(instance: Instance, gateway: Gateway) -> None:
    gateway.looks = 10**6
    assert 'FAILED: ready: not in time: {"why": "loading"}' in boot(instance, StartTimeout="122").stdout


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"[[4, -3]]", "FAILED: golden request: answer 0: cosine 0.000000"),
        (b"an error page", "FAILED: golden request: not JSON"),
    ],
)
def test_a_wrong_answer_is_a_failure(instance: Instance, gateway: Gateway, answer: bytes, reason: str) -> None:
    gateway.answer = answer
    done = boot(instance)
    assert reason in done.stdout
    assert instance.calls("cfn-signal") == [SIGNAL.format("false")]


def test_a_gateway_that_lets_nobody_in(instance: Instance, gateway: Gateway) -> None:
    gateway.keys = instance.folder
    assert 'FAILED: golden request: the gateway answered 401: {"error": "no key"}' in boot(instance).stdout


def test_it_is_a_clean_script(tmp_path: Path) -> None:
    for text in (script(), script(Accelerator="neuron")):
        file = tmp_path / "user-data"
        file.write_text(text)
        for command in (["bash", "-n"], [str(Path(sys.executable).with_name("shellcheck"))]):
            done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr


def test_the_fake_commands_are_clean_too() -> None:
    file = Path(__file__).parent.parent / "fakes/instance_commands.sh"
    done = subprocess.run([str(Path(sys.executable).with_name("shellcheck")), str(file)], check=False, timeout=60)
    assert done.returncode == 0
