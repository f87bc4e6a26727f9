"""What a container's first process owes the others: to adopt those whose parent ended, and to bury the dead.

Works outside a container as well. Knows nothing of what the processes are.
"""

from __future__ import annotations

import ctypes
import os

import psutil

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs, as a container's first process is anyway."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> None:
    """Take children that have ended off the process table."""
    for child in psutil.Process().children():
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)
        except (psutil.NoSuchProcess, ChildProcessError):  # somebody else has waited for it meanwhile
            continue
