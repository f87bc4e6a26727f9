"""One closed-loop Locust run against a server of this machine, and what it says, in Locust's own words and in numbers.

Knows nothing of what is served.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.local import Server
from model_configs import ROOT
from model_configs.errors import Failed

TABLE = re.compile(r"^Type +Name +# reqs.*?^ +Aggregated.*?$", re.MULTILINE | re.DOTALL)
TOTAL = re.compile(r"^ +Aggregated +(\d+) +\d+\(.*?\|.*?\| +([\d.]+)", re.MULTILINE)
PERCENTILES = re.compile(r"^Type +Name +50%.*?^ +Aggregated +([\d ]+)$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class LocustResult:
    """text: Locust's table as it prints it. Its percentiles are rounded to two digits."""

    text: str
    requests: int
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def parse_summary(output: str) -> LocustResult | None:
    """What `locust --headless --only-summary` prints; None when it holds no finished requests."""
    table, total, percentiles = TABLE.search(output), TOTAL.search(output), PERCENTILES.search(output)
    if not (table and total and percentiles):
        return None
    # 50, 66, 75, 80, 90, 95, 98, 99, 99.9, 99.99 and 100 %, then the count once more
    ms = [float(value) for value in percentiles.group(1).split()]
    return LocustResult(table.group(), int(total.group(1)), float(total.group(2)), ms[0], ms[5], ms[7])


def run_locust(server: Server, model: str, payloads: Path, users: int, seconds: float) -> LocustResult:
    """Users in a closed loop for seconds. Raises Failed when a request failed or none was answered."""
    command = [
        sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary",
        "--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds:.0f}s", "--stop-timeout", "60",
        "--host", f"http://127.0.0.1:{server.port}", "--model", model, "--payloads", str(payloads),
    ]  # fmt: skip
    environment = {**os.environ, "SERVEKIT_TOKEN": server.token("inference") or ""}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    output = result.stdout + result.stderr
    found = parse_summary(output)
    if result.returncode != 0 or found is None:
        raise Failed(f"locust ended with {result.returncode}:\n{output[-4000:]}")
    return found
