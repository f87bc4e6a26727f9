"""What comes out of a container: one stream, of lines of its own, of TorchServe's and of nginx's.

Knows nothing of what the lines say.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from threading import Thread

MOST_BYTES = 10 << 20
"""The file is begun anew beyond that, and the one before it kept."""
LAST_LINES_S = 1.0
log = logging.getLogger("container")
"""The container's own lines."""


@contextmanager
def one_output() -> Iterator[None]:
    """Until the end, standard output is a pipe of our own, which is copied to what it was before.

    nginx opens /dev/stdout by its name. What a container is given there may be somebody else's, and then cannot be
    opened; if it is a file, whoever opens it anew and whoever had it before write over each other.
    """
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [logging.StreamHandler(sys.stdout)]
    given = os.dup(sys.stdout.fileno())
    read, write = os.pipe()
    os.dup2(write, sys.stdout.fileno())
    os.close(write)
    copying = Thread(target=_copy, args=(read, given), daemon=True)
    copying.start()
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(given, sys.stdout.fileno())
        copying.join(LAST_LINES_S)  # others may still hold their end


class Tee:
    """A file descriptor for a server to print to; every line goes to standard output and into a file.

    Its end is what readiness reads when a worker dies.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._file = RotatingFileHandler(path, maxBytes=MOST_BYTES, backupCount=1)
        self._read, self.descriptor = os.pipe()
        self._thread = Thread(target=self._copy, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close our end, once the server has its own: the copying ends when the server does."""
        os.close(self.descriptor)

    def join(self, timeout_s: float) -> None:
        """Wait for the server's last lines."""
        self._thread.join(timeout_s)

    def _copy(self) -> None:
        with os.fdopen(self._read, errors="replace") as lines:
            for line in lines:
                record = logging.LogRecord(log.name, logging.INFO, "", 0, line.rstrip("\n"), (), None)
                self._file.handle(record)
                log.handle(record)
        self._file.close()


def _copy(read: int, to: int) -> None:
    wanted = True
    with os.fdopen(read, "rb", buffering=0) as source, os.fdopen(to, "wb", buffering=0) as target:
        while chunk := source.read(1 << 16):
            while wanted and chunk:
                try:
                    chunk = chunk[target.write(chunk) :]
                except OSError:  # nobody reads any more, and those who write must not wait for that
                    wanted = False
