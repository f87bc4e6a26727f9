"""What the gateway costs a request: python -m loadtest.bench_gateway [MODEL], about a minute for digits.

One TorchServe, asked its golden request by one client in turn: itself, through a gateway with keys and limits, and
through one that copies every request to a second endpoint, which is scripted. Blocks of the three alternate, so that
what else happens on the machine happens to all. Prints a table of medians and their ratios; the last line is the JSON
document. What several clients at once get is the load test's to say: kit.py loadtest MODEL --port.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from archives import STORE, build
from deploy import gateway_process, gateway_serve
from deploy.local import Server, served_model
from loadtest.clients import HttpClient, Token
from loadtest.dialects import Call
from loadtest.passport import in_words, passport
from model_configs import ROOT
from model_configs.archive_files import read_golden
from model_configs.gateway import GatewaySettings, Mirror
from model_configs.schema import load_model
from printing import report

PORT, COPYING_PORT, SECOND_PORT = 22600, 22610, 22620
BLOCKS, REQUESTS, WARMUP = 30, 40, 40
LIMITS = GatewaySettings(requests_per_minute=10_000_000, burst=1000, max_concurrent=1000)


def main(name: str) -> None:
    """Measure and print. Raises KitError, Failed."""
    with tempfile.TemporaryDirectory() as folder, sides(name, Path(folder)) as urls:
        clients = {side: HttpClient(url, Token(key_file)) for side, (url, key_file) in urls.items()}
        call = golden_call(name)
        taken: dict[str, list[float]] = {side: [] for side in clients}
        for block in range(BLOCKS + 1):
            for side, client in clients.items():
                times = [seconds(client, call) for _ in range(REQUESTS if block else WARMUP)]
                taken[side] += times if block else []
        for client in clients.values():
            client.close()
    direct = median(taken["TorchServe"])
    rows = [
        {"asked": side, "median ms": round(1e3 * median(times), 3), "ratio": round(median(times) / direct, 3)}
        for side, times in taken.items()
    ]
    card = passport()
    print(in_words(card))
    report(rows, {"model": name, "requests": BLOCKS * REQUESTS, "sides": rows, "machine": card}, None)


@contextmanager
def sides(name: str, folder: Path) -> Iterator[dict[str, tuple[str, Path | None]]]:
    """The URLs and key files of the three, behind which is one TorchServe."""
    config = load_model(name)
    archive = build.build(config)
    models = [served_model(config, archive.path.name, read_golden(archive.path))]
    plan = gateway_serve.plan([config], models, STORE, PORT, keys_dir=folder / "keys", run_dir=folder)
    plan = replace(plan, options=replace(plan.options, settings=LIMITS))
    gateway = gateway_serve.start(plan)
    try:
        (server,) = gateway_serve.fleet(gateway)
        with copying(plan, server, folder) as copying_url:
            yield {
                "TorchServe": (f"http://127.0.0.1:{server.port}", server.folder / "key_file.json"),
                "gateway": (server.url, server.client_key_file),
                "gateway that copies": (copying_url, server.client_key_file),
            }
    finally:
        gateway_serve.stop(gateway)


@contextmanager
def copying(plan: gateway_serve.Plan, server: Server, folder: Path) -> Iterator[str]:
    """A second gateway before the same TorchServe, which copies everything to a scripted server."""
    second = [sys.executable, "-m", "tests.fakes.scripted_server", "--port", str(SECOND_PORT)]
    mirror = Mirror(url=f"http://127.0.0.1:{SECOND_PORT}", sample=1.0)
    options = replace(
        plan.options,
        folder=folder / str(COPYING_PORT),
        port=COPYING_PORT,
        settings=LIMITS.model_copy(update={"mirror": mirror}),
    )
    with subprocess.Popen(
        [*second, "--log", str(folder / "second.jsonl")], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        try:
            gateway = gateway_process.start(options, [server])
            try:
                yield f"http://127.0.0.1:{COPYING_PORT}"
            finally:
                gateway.stop(5)
        finally:
            process.terminate()


def golden_call(name: str) -> Call:
    """The golden request of a model's archive."""
    golden = read_golden(build.build(load_model(name)).path)
    body = json.dumps(golden.body).encode()
    return Call("golden", f"/predictions/{name}", "application/json", body, 1, False)


def seconds(client: HttpClient, call: Call) -> float:
    """One request's time. Raises RuntimeError for one that fails: its time says nothing."""
    began = time.perf_counter()
    answer: Any = client.send(call, 30.0)
    if answer.error:
        raise RuntimeError(f"{answer.error}: {answer.detail}")
    return time.perf_counter() - began


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["digits"]))
