"""One TorchServe worker, started as the frontend starts it and spoken to over its own socket.

The frontend runs `python ts/model_service_worker.py` in the model's folder with the folder on PYTHONPATH
(WorkerLifeCycle.java, EnvironmentUtils.java) and sends length-prefixed messages (ts/protocol/otf_message_handler.py).
Doing the same without Java proves an archive, and lets a test say exactly which requests share a batch.
Knows nothing of archives: it is given an unpacked folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CXX", "SERVEKIT_CACHE", "XDG_CACHE_HOME")
END = -1
STREAM_NEXT = "ts_stream_next"


class WorkerDied(Exception):
    """The worker ended or refused to load; the message is its own output."""


@dataclass(frozen=True)
class Request:
    """One request of a batch. form: the row has no body, as for a form that the frontend could not parse."""

    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    form: bool = False


@dataclass(frozen=True)
class Reply:
    """What the frontend would send to one client."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Worker:
    """A context manager: starts the process on entry, loads the model with load(), ends the process on exit."""

    def __init__(
        self, model_dir: Path, environment: Mapping[str, str] | None = None, ts_home: Path | None = None
    ) -> None:
        """ts_home: the folder that holds another TorchServe's `ts`; this environment's own if not given."""
        self.model_dir = model_dir.resolve()
        self._ts_home = ts_home
        self.output: list[str] = []
        self._environment = dict(environment or {})
        self._folder = tempfile.TemporaryDirectory(prefix="sk-worker-")
        self._socket: socket.socket | None = None
        self._continuous = False

    def __enter__(self) -> Worker:
        ts_dir = (self._ts_home or _installed_ts_home()) / "ts"
        path = Path(self._folder.name) / "sock.0"  # the worker wants a name with a port at its end
        command = [
            sys.executable, str(ts_dir / "model_service_worker.py"), "--sock-type", "unix", "--sock-name", str(path),
            "--metrics-config", str(ts_dir / "configs" / "metrics.yaml"),
        ]  # fmt: skip
        # No inherited PYTHONPATH: it would hide that a module is missing from the archive.
        environment = {key: os.environ[key] for key in INHERITED if key in os.environ}
        # The frontend adds TorchServe's home only when it is not in site-packages.
        python_path = f"{self.model_dir}:{self._ts_home or ''}"
        environment |= {"PYTHONPATH": python_path, "TMPDIR": self._folder.name, "TS_DECODE_INPUT_REQUEST": "false"}
        environment |= self._environment
        self.process = subprocess.Popen(
            command,
            cwd=self.model_dir,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started = threading.Event()
        self._reader = threading.Thread(target=self._read_output, daemon=True)
        self._reader.start()
        if not self._started.wait(timeout=120) or self.process.poll() is not None:
            raise WorkerDied(self._last_words())
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._socket is not None:
            self._socket.close()  # a worker whose frontend is gone ends by itself
        try:
            self.process.wait(timeout=5 if self._socket is not None else 0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._folder.cleanup()

    def load(self, name: str, timeout_s: float = 300.0) -> float:
        """Load the model as the frontend's LOAD command does. Returns seconds. Raises WorkerDied."""
        manifest = json.loads((self.model_dir / "MAR-INF" / "MANIFEST.json").read_text())["model"]
        config = yaml.safe_load((self.model_dir / manifest["configFile"]).read_text())
        self._continuous = bool(config.get("continuousBatching"))
        started = time.perf_counter()
        message = b"L" + _text(name) + _text(str(self.model_dir)) + _int(config.get("batchSize", 1))
        message += _text(manifest["handler"]) + _int(-1) + _text("") + struct.pack("!?", True)
        self._send(message, timeout_s)
        code, words = self._int(), self._text()
        if code != 200 or self._int() != END:
            raise WorkerDied(f"{code} {words}\n{self._last_words()}")
        return time.perf_counter() - started

    def predict(self, requests: Sequence[Request], timeout_s: float = 60.0) -> list[Reply]:
        """Send one batch, get one reply a request in the same order. Raises WorkerDied.

        A reply that comes in parts is put together, as a client would read it: the parts are further messages of the
        same batch, or, where the model has continuousBatching, the answers to further rounds.
        """
        parts: dict[str, list[Reply]] = {f"request-{index}": [] for index in range(len(requests))}
        self._send(self._batch(requests), timeout_s)
        while True:
            replies = self._replies()
            for key, reply in replies.items():
                if not parts[key] and reply.headers.get(STREAM_NEXT) == "false":
                    raise WorkerDied(f"{key}: the first part was the last: its client would get no status line")
                parts[key].append(reply)
            unfinished = [key for key, own in parts.items() if own and own[-1].headers.get(STREAM_NEXT) == "true"]
            if not unfinished:
                break
            if self._continuous:
                self._send(b"I" + b"".join(_text(key) + _int(END) * 2 for key in unfinished) + _int(END), timeout_s)
        return [Reply(own[0].status, b"".join(part.body for part in own), own[0].headers) for own in parts.values()]

    def _batch(self, requests: Sequence[Request]) -> bytes:
        message = b"I"
        for index, request in enumerate(requests):
            message += _text(f"request-{index}")
            content_type = next((v for k, v in request.headers.items() if k.lower() == "content-type"), "")
            for key, value in {"url_path": "", **request.headers}.items():
                message += _text(key) + _text(value)
            message += _int(END)
            if not request.form:
                message += _text("body") + _text(content_type) + _blob(request.body)
            message += _int(END)
        return message + _int(END)

    def _replies(self) -> dict[str, Reply]:
        """One message of the worker."""
        self._int()
        self._text()  # code and message of the whole batch; the frontend uses each reply's own
        replies = {}
        while (length := self._int()) != END:
            request_id = self._bytes(length).decode()
            content_type, status, _phrase = self._text(), self._int(), self._text()
            headers = {self._text(): self._text() for _ in range(self._int())}
            replies[request_id] = Reply(status, self._bytes(self._int()), {"content-type": content_type, **headers})
        return replies

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    def _read_output(self) -> None:
        for line in self.process.stdout or ():
            self.output.append(line.rstrip("\n"))
            if line.strip() == "Torch worker started.":
                self._started.set()
        self._started.set()

    def _last_words(self) -> str:
        if not self.alive:
            self._reader.join(timeout=5)
        return "\n".join(self.output[-40:])

    def _send(self, message: bytes, timeout_s: float) -> None:
        sock = self._connected()
        sock.settimeout(timeout_s)
        try:
            sock.sendall(message)
        except OSError:
            raise WorkerDied(self._wait_for_last_words()) from None

    def _bytes(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            try:
                chunk = self._connected().recv(length - len(data))
            except TimeoutError:
                raise WorkerDied(f"no answer in time\n{self._last_words()}") from None
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise WorkerDied(self._wait_for_last_words())
            data += chunk
        return bytes(data)

    def _wait_for_last_words(self) -> str:
        # It may have closed its socket and live on: what it has said so far is all there is.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        return self._last_words()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise RuntimeError("use Worker as a context manager")
        return self._socket

    def _int(self) -> int:
        value: tuple[Any, ...] = struct.unpack("!i", self._bytes(4))
        return int(value[0])

    def _text(self) -> str:
        return self._bytes(self._int()).decode()


def _installed_ts_home() -> Path:
    spec = importlib.util.find_spec("ts")
    if spec is None or not spec.submodule_search_locations:
        raise WorkerDied("torchserve is not installed")
    return Path(spec.submodule_search_locations[0]).parent


def _int(value: int) -> bytes:
    return struct.pack("!i", value)


def _blob(value: bytes) -> bytes:
    return _int(len(value)) + value


def _text(value: str) -> bytes:
    return _blob(value.encode())
