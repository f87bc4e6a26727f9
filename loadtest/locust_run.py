"""One closed-loop Locust run against a server of this machine, and what it says, in Locust's own words and in numbers.

Knows nothing of what is served.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deploy.local import Server
from model_configs import ROOT
from model_configs.errors import Failed

TABLE = re.compile(r"^Type +Name .*?^ +Aggregated.*?$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class LocustResult:
    """text: Locust's table as it prints it; percentiles as Locust counts them, in buckets of two digits."""

    text: str
    requests: int
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def percentile(histogram: dict[float, int], share: float) -> float:
    """The smallest value that at least share of the counted values do not exceed."""
    wanted, seen = share * sum(histogram.values()), 0
    for value in sorted(histogram):
        seen += histogram[value]
        if seen >= wanted:
            return value
    raise ValueError("an empty histogram has no percentiles")


def run_locust(server: Server, model: str, payloads: Path, users: int, seconds: float) -> LocustResult:
    """Users in a closed loop for seconds. Raises Failed when a request failed or none was answered."""
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "stats.json"
        command = [
            sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary",
            "--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds:.0f}s", "--stop-timeout", "60",
            "--host", f"http://127.0.0.1:{server.port}", "--model", model, "--payloads", str(payloads),
            "--json-file", str(document.with_suffix("")),
        ]  # fmt: skip
        environment = {**os.environ, "SERVEKIT_TOKEN": server.token("inference") or ""}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        output = result.stdout + result.stderr
        tables = TABLE.findall(output)
        if result.returncode != 0 or not tables:
            raise Failed(f"locust ended with {result.returncode}:\n{output[-4000:]}")
        (stats,) = json.loads(document.read_text())
    histogram = {float(ms): count for ms, count in stats["response_times"].items()}
    seconds_measured = stats["last_request_timestamp"] - stats["start_time"]
    return LocustResult(
        text=tables[0],
        requests=stats["num_requests"],
        requests_per_s=round(stats["num_requests"] / seconds_measured, 2),
        p50_ms=percentile(histogram, 0.50),
        p95_ms=percentile(histogram, 0.95),
        p99_ms=percentile(histogram, 0.99),
    )
