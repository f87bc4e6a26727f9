"""What a container's first process owes the others: to adopt those whose parent ended, and to bury the dead.

Works outside a container as well. Knows nothing of what the processes are.
"""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress

import psutil

PR_SET_CHILD_SUBREAPER = 36
KILL_TIMEOUT_S = 5


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs, as a container's first process is anyway."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children() -> None:
    """Kill all that is left, as the kernel does when a container's first process ends."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    # Again, since one that is about to be killed may start another, which is then ours.
    while (left := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=KILL_TIMEOUT_S)


def reap() -> None:
    """Take children that have ended off the process table."""
    for child in psutil.Process().children():
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)
        except (psutil.NoSuchProcess, ChildProcessError):  # somebody else has waited for it meanwhile
            continue
