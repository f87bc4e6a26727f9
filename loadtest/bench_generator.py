"""What the load generator can be believed: python -m loadtest.bench_generator, `make bench-loadtest`.

Against a server that is scripted and writes down the truth, each on a CPU of its own where there are two: lag and CPU
of an open loop at rising rates, the error of TTFT with 64 streams in flight, what a stall of 2 s looks like to an open
and to a closed loop, and what a request costs three HTTP clients. Writes docs/benchmarks/load-generator.{json,md} and
the README's table; the last line is the JSON document.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from loadtest import lab, records
from loadtest.figures import BENCHMARKS, markdown_table, write_readme
from loadtest.passport import in_words, passport
from loadtest.percentiles import interpolated
from loadtest.plan import Target
from loadtest.run import Run
from loadtest.serving import Served
from loadtest.stats import measured
from model_configs import ROOT
from model_configs.loadtest import LoadTest
from model_configs.schema import load_model

PORT = 18990
RATES = (200, 400, 800, 1200)
STREAM_S = 0.2 + 49 * 0.05
STREAMS = 64
STREAM = "first=200,gap=50,tokens=50"
STALL = "delay=5,stall=2000,at=8000"
COST_REQUESTS = 2000
COST_CLIENT = """
import sys, time
kind, url, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
from locust import FastHttpUser
from locust.env import Environment
import requests
sys.path[:0] = ["."]
from loadtest.clients import HttpClient, Token
from loadtest.dialects import Call
if kind == "http.client":
    client, call = HttpClient(url, Token(None)), Call("p", "/predictions/x", "text/plain", b"hello", 1, False)
    send = lambda: client.send(call, 5.0)
elif kind == "requests":
    session = requests.Session()
    send = lambda: session.post(url + "/predictions/x", data=b"hello", headers={"Content-Type": "text/plain"}).content
else:
    FastHttpUser.abstract, FastHttpUser.host = True, url
    user = FastHttpUser(Environment(user_classes=[FastHttpUser]))
    send = lambda: user.client.post("/predictions/x", data=b"hello", headers={"Content-Type": "text/plain"})
for _ in range(50):
    send()
began = time.process_time()
for _ in range(n):
    send()
print(1e6 * (time.process_time() - began) / n)
"""
out = Console(highlight=False)


def measure(script: str, load: dict[str, Any], *, stream: bool = False) -> tuple[Run, list[records.Record]]:
    """A run against the scripted server, and the records of its measured phase."""
    kind = "openai-completions" if stream else "predictions"
    target = Target.model_validate(
        {"kind": kind, "url": f"http://127.0.0.1:{PORT}", "model": script, "version": "1.0", "stream": stream}
    )
    keys = {"payloads": "pydoc-llama", "warmup_s": 2, "timeout_s": 10, **load}
    with tempfile.TemporaryDirectory() as folder:
        run = lab.measure(Served(load_model("digits"), target), LoadTest.model_validate(keys), Path(folder))
        return run, measured(records.read(Path(folder)))


def at_rate(rate: int) -> dict[str, Any]:
    """Lag and CPU at a rate."""
    run, _ = measure("delay=5", {"arrivals": "poisson", "rate": rate, "duration_s": 15})
    found = run.generator
    return {
        "rate": rate,
        "lag_p50_ms": round(found.lag_p50_ms, 2),
        "lag_p99_ms": round(found.lag_p99_ms, 2),
        "lag_max_ms": round(found.lag_max_ms, 2),
        "cpu_share": found.cpu_share,
        "achieved": round(run.summary.achieved_per_s / rate, 4),
        "failed": run.summary.failed,
    }


def streams(log: Path) -> dict[str, Any]:
    """The error of TTFT and TPOT with STREAMS in flight: the client's figures less the server's own."""
    load = {"arrivals": "constant", "rate": STREAMS / STREAM_S, "duration_s": 15}
    run, found = measure(STREAM, load, stream=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    truth = sorted((line for line in lines if STREAM in line["path"]), key=lambda line: line["received_s"])[
        -len(found) :
    ]
    # Requests are 41 ms apart, so the n-th that was sent is the n-th that was received.
    sent = sorted(found, key=lambda record: record.sent_s)
    errors = sorted(
        abs((record.ttft_ms or 0) - 1e3 * (line["first_s"] - line["received_s"]))
        for record, line in zip(sent, truth, strict=True)
    )
    tpot = run.summary.latencies["tpot_ms"].percentiles["p50"].value
    return {
        "in_flight": round(run.summary.in_flight_mean, 1),
        "requests": len(found),
        "ttft_error_p50_ms": round(interpolated(errors, 0.5), 2),
        "ttft_error_p99_ms": round(interpolated(errors, 0.99), 2),
        "ttft_error_max_ms": round(errors[-1], 2),
        "tpot_p50_ms": round(tpot or 0, 2),
        "lag_p99_ms": round(run.generator.lag_p99_ms, 2),
        "cpu_share": run.generator.cpu_share,
    }


def stall() -> dict[str, Any]:
    """p95 of the same stall, in an open and a closed loop of 50 requests/s."""
    opened, _ = measure(STALL, {"arrivals": "constant", "rate": 50, "duration_s": 10})
    closed, _ = measure(
        f"{STALL},closed=1", {"arrivals": "closed", "clients": 5, "think_time_s": 0.095, "duration_s": 10}
    )
    return {
        "open_p95_ms": round(opened.summary.latencies["e2e_sched_ms"].percentiles["p95"].value or 0, 1),
        "open_requests": opened.summary.requests,
        "closed_p95_ms": round(closed.summary.latencies["e2e_ms"].percentiles["p95"].value or 0, 1),
        "closed_requests": closed.summary.requests,
    }


def cost_of(client: str) -> float:
    """Microseconds of CPU for a small request, the median of 3 processes."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        COST_CLIENT,
        client,
        f"http://127.0.0.1:{PORT}",
        str(COST_REQUESTS),
    ]
    runs = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout for _ in range(3)]
    return round(median(float(each.splitlines()[-1]) for each in runs), 1)


def markdown(document: dict[str, Any]) -> str:
    """docs/benchmarks/load-generator.md."""
    rates = [
        [e["rate"], f"{e['achieved']:.1%}", e["lag_p50_ms"], e["lag_p99_ms"], e["lag_max_ms"], f"{e['cpu_share']:.0%}"]
        for e in document["rates"]
    ]
    flow, held = document["streams"], document["stall"]
    return f"""# The load generator

{in_words(document["passport"])}. One generator process on one CPU, the scripted server on the other; made by
`make bench-loadtest`.

## Open loop, answers after 5 ms

{markdown_table(["requests/s", "sent in time", "lag p50 ms", "lag p99 ms", "lag max ms", "of a core"], rates)}

## Streams

{flow["requests"]} streams of 50 tokens, {flow["in_flight"]:.0f} in flight: the client's TTFT is off the server's own by
{flow["ttft_error_p50_ms"]} ms (p50), {flow["ttft_error_p99_ms"]} ms (p99), {flow["ttft_error_max_ms"]} ms at most; TPOT
{flow["tpot_p50_ms"]} ms where the script says 50. It took {flow["cpu_share"]:.0%} of a core.

## A stall of 2 s in 10 s

50 requests/s in an open loop: p95 {held["open_p95_ms"]:.0f} ms of {held["open_requests"]} requests. Five users who
wait for their answers, 50 requests/s while all goes well: p95 {held["closed_p95_ms"]:.0f} ms of
{held["closed_requests"]} requests.

## CPU of a small request

{markdown_table(["client", "µs"], [[name, value] for name, value in document["client_cost_us"].items()])}
"""


def readme(document: dict[str, Any]) -> str:
    """The README's table."""
    at_400 = next(each for each in document["rates"] if each["rate"] == 400)
    flow, held = document["streams"], document["stall"]
    rows = [
        ["400 requests/s, open loop", f"p99 lag {at_400['lag_p99_ms']} ms, {at_400['cpu_share']:.0%} of a core"],
        [f"{flow['in_flight']:.0f} streams in flight", f"TTFT off by {flow['ttft_error_p99_ms']} ms at p99"],
        ["a 2 s stall in 10 s", f"p95 {held['open_p95_ms']:.0f} ms; a closed loop says {held['closed_p95_ms']:.0f} ms"],
    ]
    return markdown_table(["one load generator process", "against a scripted server's truth"], rows)


def main() -> None:
    """Measure and write."""
    cpus = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "truth.jsonl"
        command = [sys.executable, "-m", "tests.fakes.scripted_server", "--port", str(PORT), "--log", str(log)]
        if len(cpus) > 1:
            os.sched_setaffinity(0, {cpus[0]})
        with subprocess.Popen(command, cwd=ROOT) as server:
            os.sched_setaffinity(server.pid, {cpus[-1]})
            time.sleep(1)
            try:
                document = {
                    "passport": passport() | {"usable_cpus": len(cpus)},
                    "rates": [at_rate(rate) for rate in RATES],
                    "streams": streams(log),
                    "stall": stall(),
                    "client_cost_us": {name: cost_of(name) for name in ("http.client", "FastHttpUser", "requests")},
                }
            finally:
                server.terminate()
    (BENCHMARKS / "load-generator.json").write_text(json.dumps(document, indent=2) + "\n")
    (BENCHMARKS / "load-generator.md").write_text(markdown(document))
    write_readme("bench-loadtest", readme(document))
    out.print(markdown(document))
    print(json.dumps(document))


if __name__ == "__main__":
    main()
