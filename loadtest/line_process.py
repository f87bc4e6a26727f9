"""A program in a process of its own that is told a JSON line at a time and answers each with one.

It says a first line when it is ready, and sleeps while it is told nothing. Knows nothing of what is said.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from model_configs import ROOT
from model_configs.errors import Failed

END_S = 5.0
"""From the end of its output to its own."""
LAST_LINES = 20
"""Lines of its log that are shown when it has died."""


class LineProcess:
    """The program, running; a context manager. hello: what it said first."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """name: for errors. log: a file for what it says beside. Raises Failed when it ends before it is ready."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self.name, self._log = name, log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        try:
            self.hello = self._read()
        except Failed:
            self.__exit__()
            raise

    def __enter__(self) -> LineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def told(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer. Raises Failed when it has died."""
        with suppress(BrokenPipeError):  # _read says why it has died
            print(json.dumps(words), file=self._process.stdin, flush=True)
        return self._read()

    def _ended(self) -> int | str:
        """The exit code, negative for a signal."""
        try:
            return self._process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            return "its output closed"

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            code = self._ended()
            words = self._log.read_text(errors="replace").strip().splitlines()[-LAST_LINES:]
            raise Failed("\n".join([f"{self.name} ended with {code}:", *words]))
        read: dict[str, Any] = json.loads(line)
        return read
