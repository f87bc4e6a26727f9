"""Python processes that run beside a server: started, found again by their pid files, ended.

A module that runs like this first does what can fail, then calls `detach`, and the command that started it returns.
Knows nothing of what they do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from model_configs import ROOT
from model_configs.errors import Failed

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0


def start(module: str, folder: Path) -> None:
    """Run `python -m MODULE FOLDER` in FOLDER until it has detached itself. Raises Failed with what it says."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with _log(folder, module).open("ab") as log:
        started = subprocess.run(
            [sys.executable, "-m", module, str(folder)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            check=False,
            timeout=START_TIMEOUT_S,
        )
    if started.returncode != 0:
        raise Failed(f"{module} did not start:\n{_log(folder, module).read_text(errors='replace').strip()[-2000:]}")


def detach(module: str, folder: Path) -> None:
    """Go on as a process that nobody waits for. Before any thread is started: they would be left behind."""
    if os.fork():
        os._exit(0)
    _pid_file(folder, module).write_text(str(os.getpid()))


def find(module: str, folder: Path) -> psutil.Process | None:
    """The process of this folder, if it runs; its pid may have been given to another."""
    try:
        process = psutil.Process(int(_pid_file(folder, module).read_text()))
        ours = process.cmdline()[-3:] == ["-m", module, str(folder)] and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, ValueError, psutil.Error):
        return None
    return process if ours else None


def stop(module: str, folder: Path) -> None:
    """End it, if it runs."""
    if process := find(module, folder):
        process.terminate()
        for left in running_after([process], STOP_TIMEOUT_S):
            left.kill()
            running_after([left], STOP_TIMEOUT_S)
    _pid_file(folder, module).unlink(missing_ok=True)


def running_after(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that have not ended in this time. One that has, and that nobody has asked how, counts as ended: the
    first process of a machine may take seconds to ask."""
    deadline = time.monotonic() + timeout_s
    left = list(processes)
    while (left := [process for process in left if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name(module: str) -> str:
    return module.rpartition(".")[2]


def _pid_file(folder: Path, module: str) -> Path:
    return folder / f"{_name(module)}.pid"


def _log(folder: Path, module: str) -> Path:
    return folder / "logs" / f"{_name(module)}.log"
