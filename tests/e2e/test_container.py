"""docker/entrypoint.py as a process: SageMaker's contract, with a real TorchServe, nginx and Prometheus."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
import requests
import yaml

from archives import build
from model_configs import ROOT
from model_configs.schema import load_model
from tests.unit.test_compose import EXPRESSIONS, plain

pytestmark = pytest.mark.deploy
PORT = 22100
SHARED_PORT = 22110
"""Of the container that several tests share: it is still there when others start their own."""
METRICS_PORT, PROMETHEUS_PORT = 22101, 22102
READY_S = 90
JSON = {"Content-Type": "application/json"}
GOES_ON = {"inputs": "The with statement", "parameters": {"max_new_tokens": 60}, "stream": True}


@dataclass
class Container:
    """A running entrypoint. pings: what /ping said until it was ready."""

    process: subprocess.Popen[bytes]
    run_dir: Path
    output: Path
    pings: list[int]
    port: int

    def get(self, path: str) -> int:
        """The status, 0 where nobody listens."""
        try:
            return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=2).status_code
        except requests.ConnectionError:
            return 0

    def post(self, path: str, body: object) -> requests.Response:
        return requests.post(f"http://127.0.0.1:{self.port}{path}", json=body, timeout=30)

    def descendants(self) -> list[psutil.Process]:
        """All that it has started: it adopts those whose parent ends."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait(self, timeout_s: float = 30) -> int:
        """Its exit code. What it had started has ended too."""
        known = self.descendants()
        code = self.process.wait(timeout_s)
        assert [process for process in known if process.is_running()] == []
        return code


@contextmanager
def started(
    folder: Path, run_dir: Path, *arguments: str, port: int = PORT, within: Sequence[str] = (), **environment: str
) -> Iterator[Container]:
    """within: a command that runs it."""
    output = run_dir.with_name(f"{run_dir.name}.log")
    own = {key: value for key, value in os.environ.items() if not key.startswith(("TS_", "SAGEMAKER_"))}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*within, sys.executable, "docker/entrypoint.py", *arguments],
            cwd=ROOT,
            env={
                **own,
                "SERVEKIT_MODEL_DIR": str(folder),
                "SERVEKIT_RUN_DIR": str(run_dir),
                "SERVEKIT_HOST": "127.0.0.1",
                "SAGEMAKER_BIND_TO_PORT": str(port),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Container(process, run_dir, output, [], port)
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def wait_until(ready: Callable[[], object], container: Container) -> None:
    deadline = time.monotonic() + READY_S
    while not ready():
        assert container.process.poll() is None, container.output.read_text()
        assert time.monotonic() < deadline, container.output.read_text()
        time.sleep(0.05)


def state_of(folder: Path) -> dict[str, tuple[str, int]]:
    """Checksum and time of every file."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pydoc-llama as SageMaker lays it down: a folder that is only read."""
    built = build.build(load_model("pydoc-llama"), archive_format="no-archive")
    folder = tmp_path_factory.mktemp("ml") / "model"
    shutil.copytree(built.path, folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    return folder


@pytest.fixture(scope="module")
def before(model_folder: Path) -> dict[str, tuple[str, int]]:
    return state_of(model_folder)


@pytest.fixture(scope="module")
def container(model_folder: Path, before: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    run_dir = tmp_path_factory.mktemp("container") / "run"
    changes = {"SAGEMAKER_TS_BATCH_SIZE": "4", "TS_INSTALL_PY_DEP_PER_MODEL": "true"}
    changes["SERVEKIT_METRICS_PORT"] = str(METRICS_PORT)
    with started(model_folder, run_dir, "serve", port=SHARED_PORT, **changes) as running:

        def ready() -> bool:
            running.pings.append(running.get("/ping"))
            return running.pings[-1] == 200

        wait_until(ready, running)
        yield running


def test_ping_is_503_until_the_model_answers_right(container: Container) -> None:
    heard = [status for status in container.pings if status]
    assert heard[0] == 503
    assert set(heard) == {503, 200}
    wait_until(lambda: "ready: pydoc-llama, 1 workers" in container.output.read_text(), container)


def test_invocations_whole_and_streamed(container: Container) -> None:
    whole = container.post("/invocations", GOES_ON | {"stream": False})
    assert whole.status_code == 200, whole.text
    text = whole.json()[0]["generated_text"]
    with requests.post(
        f"http://127.0.0.1:{container.port}/invocations", json=GOES_ON, stream=True, timeout=30
    ) as reply:
        pieces = list(reply.iter_content(chunk_size=None))
    events = [json.loads(line.removeprefix(b"data:")) for line in b"".join(pieces).splitlines() if line.strip()]
    assert len(pieces) > 5
    assert events[-1]["generated_text"] == text == "".join(event["token"]["text"] for event in events)
    assert container.post("/invocations", {"nothing": 1}).status_code == 422


def test_nothing_but_inference_is_open(container: Container) -> None:
    for path in ("/models", "/metrics", "/workflows", "/predictions", "/api-description", "/"):
        assert container.get(path) in (404, 405), path


def test_the_environment_changes_the_model(container: Container) -> None:
    log = container.output.read_text()
    assert "engine torch, 4 rows" in log
    assert "TS_INSTALL_PY_DEP_PER_MODEL is not followed: dependencies are in the image" in log


def test_prometheus_scrapes_it_and_every_panel_has_its_query(container: Container, tmp_path: Path) -> None:
    assert shutil.which("prometheus"), "prometheus is missing: apt-get install prometheus"
    config = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{METRICS_PORT}"]}]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(ROOT / "docker" / "prometheus" / "alerts.yaml", tmp_path)
    url = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query?query="

    def query(expression: str) -> list[object]:
        reply = requests.get(url + quote(plain(expression).replace("[1m]", "[5s]")), timeout=10).json()
        assert reply["status"] == "success", reply
        found: list[object] = reply["data"]["result"]
        return found

    with subprocess.Popen(
        ["prometheus", f"--config.file={tmp_path}/prometheus.yaml", f"--storage.tsdb.path={tmp_path}/data",
         f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as prometheus:  # fmt: skip
        try:
            wait_until(lambda: _answers(url) and query('up{job="servekit"} == 1'), container)
            container.post("/invocations", GOES_ON)
            first_token = EXPRESSIONS["Time to first token 1"]
            wait_until(
                lambda: query("sum(rate(ts_inference_requests_total[5s])) > 0") and query(first_token), container
            )
            filled = {name for name, expression in EXPRESSIONS.items() if query(expression)}
        finally:
            prometheus.terminate()
    assert {
        "Inference requests 0",
        "Responses by code 0",
        "Time per output token 2",
        "Workers 0",
        "Queue time 2",
    } <= filled


def _answers(url: str) -> bool:
    try:
        return requests.get(url + "up", timeout=2).ok
    except requests.ConnectionError:
        return False


def test_a_signal_under_load_fails_no_request(
    container: Container, model_folder: Path, before: dict[str, tuple[str, int]]
) -> None:
    """Every request that was begun before the signal gets its whole answer."""
    begun: list[float] = []
    ended: list[str] = []
    refused = threading.Event()

    def ask() -> None:
        while not refused.is_set():
            started_at = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", container.port, timeout=30)
            try:
                connection.request("POST", "/invocations", json.dumps(GOES_ON), JSON)
                begun.append(started_at)
                reply = connection.getresponse()
                text = reply.read()
            except (OSError, http.client.HTTPException) as error:
                if not told or started_at < told[0]:
                    ended.append(f"lost: {error!r}")
                refused.set()
                return
            finally:
                connection.close()
            whole = reply.status == 200 and b'"generated_text":"' in text
            ended.append("whole" if whole else f"{reply.status} {text[-100:]!r}")

    told: list[float] = []
    clients = [threading.Thread(target=ask) for _ in range(6)]
    for client in clients:
        client.start()
    time.sleep(1.5)
    told.append(time.monotonic())
    container.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.join(30)
    assert container.wait() == 0, container.output.read_text()
    assert time.monotonic() - told[0] < 30
    assert set(ended) == {"whole"}
    assert len(ended) >= 6
    assert state_of(model_folder) == before
    assert container.get("/ping") == 0


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (
            ["serve"],
            {"SAGEMAKER_BIND_TO_PORT": "http"},
            "SAGEMAKER_BIND_TO_PORT=http: not a whole number from 1 to 65535",
        ),
        (["serve"], {"SAGEMAKER_TS_MIN_WORKERS": "4"}, "maxWorkers=1 is less than minWorkers=4"),
        (["train"], {}, "what is 'train'?"),
    ],
)
def test_what_cannot_be_meant_is_told_in_a_line(
    model_folder: Path, tmp_path: Path, arguments: list[str], environment: dict[str, str], words: str
) -> None:
    with started(model_folder, tmp_path / "run", *arguments, port=PORT, **environment) as running:
        assert running.wait() == 2
    said = running.output.read_text().splitlines()
    assert len(said) == 2
    assert said[0].startswith("error: ")
    assert words in said[0]
    assert said[1].startswith("hint: ")


def test_a_model_that_does_not_load_ends_the_container_with_its_error(model_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    shutil.copytree(model_folder, broken)
    (broken / "llama_handler.py").chmod(0o644)
    (broken / "llama_handler.py").write_text("raise KeyError('the weights are gone')\n")
    with started(broken, tmp_path / "run", "serve") as running:
        assert running.wait(60) == 1
    said = running.output.read_text()
    assert "error: a worker died while it loaded:" in said
    assert "KeyError: 'the weights are gone'" in said.splitlines()[-1]


@pytest.mark.skipif(os.geteuid() != 0, reason="a process namespace of its own needs root")
def test_as_the_first_process_while_the_model_loads(model_folder: Path, tmp_path: Path) -> None:
    """In a process namespace of its own, where signals without a handler are lost and the dead are its to bury."""
    alone = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")
    with started(model_folder, tmp_path / "run", "serve", within=alone) as running:
        wait_until(lambda: running.get("/ping") == 503, running)
        (first,) = psutil.Process(running.process.pid).children()
        assert first.cmdline()[-2:] == ["docker/entrypoint.py", "serve"]
        wait_until(lambda: psutil.STATUS_ZOMBIE not in {p.status() for p in running.descendants()}, running)
        first.send_signal(signal.SIGTERM)
        assert running.wait() == 0
    assert "Traceback" not in running.output.read_text()


@pytest.mark.parametrize("victim", ["java", "nginx"])
def test_what_ends_ends_the_container(model_folder: Path, tmp_path: Path, victim: str) -> None:
    run_dir = tmp_path / "run"
    with started(model_folder, run_dir, "serve") as running:
        wait_until(lambda: running.get("/ping") == 503, running)
        for process in running.descendants():
            if process.name() == victim:
                process.kill()
        assert running.wait(60) == 1
    words = {"java": "TorchServe ended", "nginx": "the gateway ended"}[victim]
    assert words in running.output.read_text()
