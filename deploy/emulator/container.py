"""One container: a process with a model's environment and its read-only data, watched by /ping.

Whatever the image, the command of the options runs. One container stands for all instances of a variant. Knows nothing
of endpoints.
"""

from __future__ import annotations

import http.client
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.emulator import marked, model_data
from deploy.emulator.errors import StartFailed
from deploy.emulator.faults import Injector
from deploy.emulator.options import HOST, Options

PING_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 0.25
PING_INTERVAL_S = 5.0
START_POLL_S = 0.2
FAILURES_TO_UNHEALTHY = 3
KILL_AFTER_S = 30.0
DEFAULT_DOWNLOAD_S = 1200.0
DEFAULT_STARTUP_S = 480.0
DEFAULT_VOLUME_GIB = 30.0
CONTAINER_VARIABLE = "SERVEKIT_EMULATED_CONTAINER"
"""In a real container nothing survives its first process; here all that it started carries its name."""
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "JAVA_HOME", "LD_LIBRARY_PATH", "SERVEKIT_EMULATED_BY")
"""Of the emulator's own environment; a container has none of its host's, but this one needs its programs."""


@dataclass(frozen=True)
class Spec:
    """What a container is made from. name: unique; definition: the model's ContainerDefinition; role: its ARN."""

    name: str
    definition: dict[str, Any]
    variant: dict[str, Any]
    region: str
    role: str | None


class Container:
    """Starts in start(), serves on 127.0.0.1:port until stop(); one whose process dies is started again."""

    def __init__(
        self, spec: Spec, options: Options, faults: Injector, s3: Any, report: Callable[[str], None] = print
    ) -> None:
        """report: gets a line for everything that a real endpoint's logs would tell."""
        self.spec = spec
        self._options = options
        self._faults = faults
        self._s3 = s3
        self._report = report
        self._folder = options.folder / "containers" / spec.name
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._ending = threading.Lock()
        self._healthy = False
        self._data_state: dict[str, tuple[int, int]] = {}
        self._told = 0
        self.port = 0
        self.log = options.folder / "logs" / f"{spec.name}.log"
        self.violations: list[str] = []
        """What it did that a real container could not."""

    @property
    def healthy(self) -> bool:
        """Whether it passes its health checks."""
        return self._healthy

    @property
    def pid(self) -> int | None:
        """Of its first process."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Download, start, wait for /ping. Raises StartFailed; then nothing of it is left."""
        try:
            self._prepare()
            self._wait_until_healthy(self._spawn())
        except BaseException:
            self.stop()
            raise
        threading.Thread(target=self._watch, name=f"watch {self.spec.name}", daemon=True).start()

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """A connection to it, not opened yet."""
        return http.client.HTTPConnection(HOST, self.port, timeout=timeout_s)

    def ping(self) -> bool:
        """GET /ping: 200 within 2 s, on a socket that was accepted within 250 ms."""
        deadline = time.monotonic() + PING_TIMEOUT_S
        try:
            with closing(self.connect(CONNECT_TIMEOUT_S)) as connection:
                connection.connect()
                connection.sock.settimeout(max(0.01, deadline - time.monotonic()))
                connection.request("GET", "/ping")
                return connection.getresponse().status == 200 and time.monotonic() <= deadline
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> None:
        """SIGTERM, SIGKILL after 30 s, and take its folder away. Its log stays. More than once does no harm."""
        with self._starting:
            self._stopping.set()
        self._healthy = False
        with self._ending:
            process, self._process = self._process, None
            if process is not None:
                self._end(process)
            model_data.make_removable(self._folder)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        grace_s = KILL_AFTER_S * self._options.limit_scale
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._violation(f"was not gone {grace_s:g} s after SIGTERM")
        marked.kill(CONTAINER_VARIABLE, self.spec.name)
        process.wait()
        if changed := model_data.changes(self._data_state, self._model_folder):
            self._violation(f"wrote to read-only /opt/ml/model: {', '.join(changed[:5])}")

    def _prepare(self) -> None:
        self._model_folder.mkdir(parents=True)
        (self._folder / "run").mkdir()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = model_data.source(self.spec.definition)
        except ValueError as error:
            raise StartFailed(str(error)) from None
        if found:
            variant = self.spec.variant
            volume_gib = variant.get("VolumeSizeInGB", DEFAULT_VOLUME_GIB)
            timeout_s = variant.get("ModelDataDownloadTimeoutInSeconds", DEFAULT_DOWNLOAD_S)
            model_data.download(self._s3, found, self._model_folder, volume_gib, timeout_s * self._options.limit_scale)
        self._data_state = model_data.state(self._model_folder)

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.port = _free_port()
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                shlex.split(self._options.container),
                cwd=self._folder / "run",
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._process

    def _environment(self) -> dict[str, str]:
        run = str(self._folder / "run")
        host = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        path = f"{Path(sys.executable).parent}{os.pathsep}{host.get('PATH', os.defpath)}"
        return {
            **host,
            "PATH": path,
            "HOME": run,
            "TMPDIR": run,
            "AWS_REGION": self.spec.region,
            "AWS_DEFAULT_REGION": self.spec.region,
            **self.spec.definition.get("Environment", {}),
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "SERVEKIT_HOST": HOST,  # this process has no network of its own
            "SERVEKIT_MODEL_DIR": str(self._model_folder),
            "SERVEKIT_RUN_DIR": run,
            CONTAINER_VARIABLE: self.spec.name,
        }

    def _wait_until_healthy(self, process: subprocess.Popen[bytes]) -> None:
        asked_s = self.spec.variant.get("ContainerStartupHealthCheckTimeoutInSeconds", DEFAULT_STARTUP_S)
        deadline = time.monotonic() + asked_s * self._options.limit_scale
        fails = self._faults.take("fail_starts")
        name = self.spec.variant["VariantName"]
        failed = (
            f"The primary container for production variant {name} did not pass the ping health check. "
            "Please check CloudWatch logs for this endpoint."
        )
        while time.monotonic() < deadline and not fails and not self._stopping.is_set():
            if (code := process.poll()) is not None:
                # SageMaker would start it again until the time is over; nothing would change.
                raise StartFailed(f"{failed} (It ended with code {code}: {self.last_words()})")
            if self.ping():
                self._healthy = True
                if changed := model_data.changes(self._data_state, self._model_folder):
                    raise StartFailed(f"{failed} (It wrote to read-only /opt/ml/model: {', '.join(changed[:5])})")
                return
            time.sleep(START_POLL_S)
        raise StartFailed(f"{failed} (/ping was never 200 within {asked_s} s: {self.last_words()})")

    def new_lines(self) -> list[str]:
        """What it has written since the last time."""
        if not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(self._told)
            data = file.read()
        self._told += len(data)
        return [line for line in data.decode(errors="replace").splitlines() if line]

    def last_words(self, lines: int = 3) -> str:
        """The end of its log."""
        words = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return " / ".join(words[-lines:]) or "it said nothing"

    def _watch(self) -> None:
        failures = 0
        while not self._stopping.wait(PING_INTERVAL_S * self._options.limit_scale):
            process = self._process
            if process is not None and process.poll() is not None:
                self._report(f"{self.spec.name}: died with code {process.returncode}, started again")
                self._healthy = False
                marked.kill(CONTAINER_VARIABLE, self.spec.name)
                with self._starting:
                    if self._stopping.is_set():
                        return
                    self._spawn()
            good = self.ping()
            failures = 0 if good else failures + 1
            if good != self._healthy and (good or failures >= FAILURES_TO_UNHEALTHY):
                self._healthy = good
                self._report(f"{self.spec.name}: {'healthy again' if good else 'fails its health checks'}")

    def _violation(self, words: str) -> None:
        self.violations.append(f"{self.spec.name} {words}")
        self._report(f"violation: {self.violations[-1]}")

    @property
    def _model_folder(self) -> Path:
        return self._folder / "model"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
