"""Processes that carry a mark in their environment: found whoever their parent is now, and ended for good."""

from __future__ import annotations

import time

import psutil

KILL_TIMEOUT_S = 10.0
POLL_S = 0.02


def kill(variable: str, value: str) -> None:
    """End every process that has it, and wait until they are gone, or wait only for a parent that never asks."""
    left = [process for process in psutil.process_iter() if mark(process, variable) == value]
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while any(map(_runs, left)) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def mark(process: psutil.Process, variable: str) -> str | None:
    """A variable of a process's environment, None where it has none or is another user's."""
    try:
        return process.environ().get(variable)
    except psutil.Error:
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
