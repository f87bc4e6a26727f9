"""Starts the scripted server for a test. It is a process of its own, so that the meter does not share its clock."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_configs import ROOT


@dataclass(frozen=True)
class Scripted:
    """port: of 127.0.0.1; log: what really happened."""

    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def truth(self, script: str, at_least: int = 0) -> list[dict[str, Any]]:
        """The log's lines of one script, in the order in which requests came. A line comes after its answer."""
        deadline_s = time.monotonic() + 5
        while True:
            lines = [json.loads(line) for line in self.log.read_text().splitlines()]
            found = [line for line in lines if script in line["path"]]
            if len(found) >= at_least or time.monotonic() > deadline_s:
                return sorted(found, key=lambda line: line["received_s"])
            time.sleep(0.01)


@contextmanager
def scripted_server(port: int, folder: Path) -> Iterator[Scripted]:
    """Runs until the end of the block."""
    log = folder / "truth.jsonl"
    command = [sys.executable, "-m", "tests.fakes.scripted_server", "--port", str(port), "--log", str(log)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield Scripted(port, log)
        finally:
            process.terminate()
