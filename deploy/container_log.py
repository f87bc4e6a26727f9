"""A server's output in a container: on the container's own as it comes, and its end in a file that readiness reads.

Knows nothing of what the lines say.
"""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from threading import Thread

MOST_BYTES = 10 << 20
"""The file is begun anew beyond that, and the one before it kept."""
log = logging.getLogger("container")
"""The container's own lines."""


def start_logging() -> None:
    """Write the container's lines to standard output, each at once."""
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [logging.StreamHandler(sys.stdout)]


class Tee:
    """A file descriptor for a server to print to; every line goes to standard output and into the file."""

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
