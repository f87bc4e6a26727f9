"""A server in a process of its own: started, asked until it answers, ended with all that it has started; what it uses.

Knows nothing of what kind of server it is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from deploy.http_client import Client, Unreachable
from loadtest.dialects import call
from loadtest.peers import environments
from loadtest.plan import Target
from loadtest.workload import JSON, Payload
from model_configs.errors import Failed
from model_configs.loadtest import LoadTest
from servekit.cpus import read_machine

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.25
WORD = "hello world"


@contextmanager
def running(
    command: Sequence[str], target: Target, folder: Path, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """A server of a process of its own, once it answers; ended with all that it has started. Raises Failed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = {"OMP_NUM_THREADS": str(read_machine().available), "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as words:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **threads, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(process, target, log)
        yield process.pid
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], target: Target, log: Path) -> None:
    """Until it answers a request. Raises Failed when it ends, or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    said = ""
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"it ended while it started: {environments.last_words(log)}")
        try:
            status, body = post(target, WORD)
        except Failed as error:
            said = str(error)
        else:
            if status == 200:
                return
            said = f"status {status}: {body[:200]!r}"
        time.sleep(POLL_S)
    raise Failed(f"it did not answer in {START_TIMEOUT_S:.0f} s: {said}")


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        group = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        group = []
    process.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(group, timeout=STOP_TIMEOUT_S)
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def post(target: Target, text: str, timeout_s: float = START_TIMEOUT_S) -> tuple[int, bytes]:
    """Ask for one text's vector as the load does. Raises Failed when there is no answer at all."""
    payload = Payload("one", json.dumps({"inputs": text}).encode(), JSON, 1)
    asked = call(target, LoadTest(payloads=""), payload)
    token = None
    if target.token_file:
        token = str(json.loads(Path(target.token_file).read_text())["inference"]["key"])
    try:
        reply = Client(target.url, token, timeout_s).post(asked.path, asked.body, asked.content_type)
    except Unreachable as error:
        raise Failed(str(error)) from None
    return reply.status, reply.body


def cpu_s(pid: int) -> float:
    """Of a process and all below it, those that have ended too."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def shared_out_mib(pid: int) -> float:
    """Proportional set size of a process and all below it: what several processes share counts for each in part."""
    root = psutil.Process(pid)
    total = 0
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / (1 << 20)


def resident_mib(pid: int) -> float:
    """Resident set size of one process, whoever shares it."""
    return float(psutil.Process(pid).memory_info().rss) / (1 << 20)
