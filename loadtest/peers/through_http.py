"""Closed and open loops against every server by turns, and this kit's embedder in process beside them. Figures only."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any

from loadtest import short_runs
from loadtest.benchmark import Found, Row, in_turns, progress
from loadtest.peers import cells, models, processes, servers, sides
from loadtest.peers.cells import Cell, Cells
from loadtest.peers.in_process import BATCH, texts_of
from loadtest.peers.servers import COMPILED, KIT, KIT_INT8, RECIPE, Running, Server, Servers
from loadtest.peers.sides import Side
from loadtest.plan import Target
from loadtest.short_runs import ShortRun, ShortRuns
from model_configs.errors import Failed
from model_configs.loadtest import LoadTest

WORKLOADS = {"short_queries": "short queries", "documents": "documents", "mixed": "mixed"}
"""Folders of loadtest/payloads, and what they are called."""
CLIENTS = (1, 8, 32)
SHARES = (0.25, 0.5, 0.75)
"""Of what this kit answers at most in a closed loop: the open loop's rates, the same ones for every server."""
IN_PROCESS = {KIT: "in process", KIT_INT8: "in process, int8"}
PATIENCE_S = 600.0
"""For the first requests of a server that compiles at them, and for a queue that an overloaded one has to empty."""
ANSWER_S = 20.0
USERS = 256
RECIPE_TARGETS = {KIT: (2.7, 16.0), KIT_INT8: (4.5, 26.0)}
"""Requests/s on the mixed set with 32 clients, and p50 of short queries with one."""
OTHERS_TARGET, P95_TARGET, HTTP_TARGET = 1.2, 1.0, 85.0


@dataclass(frozen=True)
class Scale:
    """How long. warmup_s: of each run; settle_s: of each server's first runs; idle_s: to measure servers at rest."""

    turns: int
    warmup_s: float
    closed_s: float
    one_client_s: float
    open_s: float
    settle_s: float
    idle_s: float
    workloads: Sequence[str] = tuple(WORKLOADS)
    shares: Sequence[float] = SHARES


def measure(scale: Scale) -> Found:
    """Every server that can be had, all workloads, all loads."""
    known = servers.all_servers()
    with ExitStack() as stack:
        there = stack.enter_context(servers.started(known))
        embedders = stack.enter_context(sides.started(eager=False, onnx=(), precisions=("fp32", "int8")))
        runs = stack.enter_context(ShortRuns(models.WORK / "logs" / "generator.log"))
        bench = Bench(scale, there, embedders.running, runs)
        bench.settle()
        idle = at_rest(there.running, scale.idle_s)
        for place, workload in enumerate(scale.workloads):
            bench.closed(workload, place)
            bench.open(workload, place)
        memory = {name: processes.memory_mib(running.pid) for name, running in there.running.items()}
    table = Cells(bench.cells, there.missing)
    described = [describe(server, there, idle, memory, bench.cells) for server in known]
    more = {"cells": [asdict(each) for each in bench.cells], "servers": described, "missing": dict(there.missing)}
    return Found(rows(table, known, scale.workloads), more)


class Bench:
    """The servers, and the cells so far. A server that fails in the midst of it is missing from then on."""

    def __init__(self, scale: Scale, there: Servers, embedders: Mapping[str, Side], runs: ShortRuns) -> None:
        self.scale, self.there, self.embedders, self.runs = scale, there, embedders, runs
        self.cells: list[Cell] = []

    def settle(self) -> None:
        """Every shape of load once, unmeasured: what compiles does so now, and Java warms up."""
        for name, running in list(self.there.running.items()):
            progress.print(f"  warming up {name}")
            for workload in self.scale.workloads:
                for clients in (1, 32):
                    self._guarded(name, partial(self.runs.measure, running.target, self._warm(workload, clients)))

    def closed(self, workload: str, place: int) -> None:
        """Clients that wait for their answers; with most of them the embedder without HTTP too."""
        for step, clients in enumerate(CLIENTS):
            name = load_name(clients)
            progress.print(f"{WORKLOADS[workload]}, {name}")
            seconds = self.scale.one_client_s if clients == 1 else self.scale.closed_s
            load = LoadTest(
                payloads=workload, arrivals="closed", clients=clients, warmup_s=self.scale.warmup_s, duration_s=seconds,
                timeout_s=ANSWER_S,
            )  # fmt: skip
            self._measure(workload, name, load, place + step, inside=clients == max(CLIENTS))

    def open(self, workload: str, place: int) -> None:
        """Requests at times that do not wait for answers."""
        best = max((own.requests_per_s for each in CLIENTS if (own := self._own(workload, each))), default=None)
        if best is None:
            return
        for step, share in enumerate(self.scale.shares):
            rate = round(share * best, 1)
            progress.print(f"{WORKLOADS[workload]}, {share:.0%}: {rate} requests/s")
            load = LoadTest(
                payloads=workload, arrivals="poisson", rate=rate, users=USERS, warmup_s=self.scale.warmup_s,
                duration_s=self.scale.open_s, timeout_s=ANSWER_S,
            )  # fmt: skip
            self._measure(workload, share_name(share), load, place + step)

    def _own(self, workload: str, clients: int) -> Cell | None:
        return Cells(self.cells, {}).get(KIT, workload, load_name(clients))

    def _warm(self, workload: str, clients: int) -> LoadTest:
        return LoadTest(
            payloads=workload, arrivals="closed", clients=clients, warmup_s=0.0, duration_s=self.scale.settle_s,
            timeout_s=PATIENCE_S,
        )  # fmt: skip

    def _measure(self, workload: str, name: str, load: LoadTest, first: int, *, inside: bool = False) -> None:
        """All servers by turns. inside: the embedders without HTTP take turns with them."""
        calls: dict[str, Callable[[], ShortRun | list[float] | None]] = {
            server: partial(self._guarded, server, partial(self._run, running.target, load))
            for server, running in self.there.running.items()
        }
        texts = whole_batches(texts_of(workload))
        for server, side in self.embedders.items() if inside else ():
            calls[IN_PROCESS[server]] = partial(rates_for, side, texts, load.duration_s)
        for label, results in in_turns(calls, self.scale.turns, rotate=True, first=first).items():
            rates = [rate for each in results if isinstance(each, list) for rate in each]
            runs = [each for each in results if isinstance(each, ShortRun)]
            if rates:
                self.cells.append(cells.inside(label, workload, name, rates, len(rates) * len(texts)))
            elif runs and label in self.there.running:
                self.cells.append(cells.cell(label, workload, name, runs, load.rate))

    def _run(self, target: Target, load: LoadTest) -> ShortRun:
        """A run, and then a request that waits until the queue which the run may have left is empty."""
        run = self.runs.measure(target, load)
        if run.summary.requests and run.summary.failed == run.summary.requests:
            raise Failed(f"every request failed: {run.summary.samples}")
        if load.rate is not None or run.summary.failed:
            short_runs.ask_once(target, load.model_copy(update={"timeout_s": PATIENCE_S}))
        return run

    def _guarded(self, server: str, call: Callable[[], ShortRun]) -> ShortRun | None:
        if server not in self.there.running:
            return None
        try:
            return call()
        except Failed as error:
            del self.there.running[server]
            self.there.missing[server] = f"failed under load: {servers.in_a_line(str(error))}"
            progress.print(f"  {server}: {self.there.missing[server]}")
            return None


def whole_batches(texts: Sequence[str]) -> list[str]:
    """As many of the texts as fill batches."""
    return list(texts[: max(BATCH, len(texts) // BATCH * BATCH)])


def rates_for(side: Side, texts: Sequence[str], seconds: float) -> list[float]:
    """Texts a second of each time through all of them, a batch at a time, once and then until the time is over."""
    ms = side.texts_ms(texts, BATCH, 1)
    while sum(ms) < 1e3 * seconds:
        ms += side.texts_ms(texts, BATCH, 1)
    return [len(texts) / (each / 1e3) for each in ms]


def at_rest(running: Mapping[str, Running], seconds: float) -> dict[str, float]:
    """Share of a core that each server uses while nobody asks it anything."""
    before = {name: processes.cpu_s(each.pid) for name, each in running.items()}
    time.sleep(seconds)
    return {name: 100 * (processes.cpu_s(each.pid) - before[name]) / seconds for name, each in running.items()}


def load_name(clients: int) -> str:
    """A closed loop's."""
    return f"{clients} client{'s' * (clients > 1)}"


def share_name(share: float) -> str:
    """An open loop's."""
    return f"{share:.0%} of our best"


def describe(
    server: Server, there: Servers, idle: Mapping[str, float], memory: Mapping[str, float], cells: Sequence[Cell]
) -> dict[str, Any]:
    """A server's line in the table of servers."""
    sizes = [each.reply_bytes for each in cells if each.server == server.name and each.reply_bytes]
    running = there.running.get(server.name)
    return {
        "name": server.name,
        "precision": server.precision,
        "settings": server.settings,
        "start_s": None if running is None else round(running.start_s, 1),
        "idle_percent": round(idle[server.name], 2) if server.name in idle else None,
        "memory_mib": round(memory[server.name]) if server.name in memory else None,
        "reply_bytes": round(statistics.fmean(sizes)) if sizes else None,
        "missing": there.missing.get(server.name, ""),
    }


def rows(table: Cells, known: Sequence[Server], workloads: Sequence[str]) -> list[Row]:
    """What the issue asks of HTTP."""
    return [
        *chain.from_iterable(recipe_rows(table, ours) for ours in (KIT, KIT_INT8)),
        *chain.from_iterable(others_rows(table, known, ours, workloads) for ours in (KIT, KIT_INT8)),
        *chain.from_iterable(in_process_rows(table, ours, workloads) for ours in (KIT, KIT_INT8)),
    ]


def recipe_rows(table: Cells, ours: str) -> list[Row]:
    """Against the article's recipe, eager and compiled."""
    throughput, p50 = RECIPE_TARGETS[ours]
    one, most = load_name(1), load_name(max(CLIENTS))
    against = f"{ours} against the article's recipe"
    return [
        table.throughput(f"mixed, {most}: {against}", ours, RECIPE, "mixed", most, throughput),
        table.latency(f"short queries, {one}, p50: {against}", ours, RECIPE, "short_queries", one, "p50", p50),
        table.throughput(f"mixed, {most}: {against}, compiled", ours, COMPILED, "mixed", most),
        table.latency(f"short queries, {one}, p50: {against}, compiled", ours, COMPILED, "short_queries", one, "p50"),
    ]


def others_rows(table: Cells, known: Sequence[Server], ours: str, workloads: Sequence[str]) -> list[Row]:
    """Against the best other server of the same precision: each closed loop, and the worst of them first."""
    precision = next(server.precision for server in known if server.name == ours)
    others = [server.name for server in known if server.precision == precision and server.name != ours]
    rates, lows = [], []
    for workload in workloads:
        for clients in CLIENTS:
            load = load_name(clients)
            best = table.best(others, workload, load)
            name = best.server if best else others[0]
            where = f"{WORKLOADS[workload]}, {load}"
            rate = table.throughput(
                f"{where}: {ours} against the best other", ours, name, workload, load, OTHERS_TARGET
            )
            low = table.latency(f"{where}, p95: {ours} against the same", ours, name, workload, load, "p95", P95_TARGET)
            rates.append(noted(rate, name if best else ""))
            lows.append(noted(low, name if best else ""))
    worst = [lowest(f"{ours} against the best other server, lowest of all", rates, OTHERS_TARGET)]
    worst.append(lowest(f"{ours}, p95 against the same, lowest of all", lows, P95_TARGET))
    return [*worst, *rates, *lows]


def noted(row: Row, words: str) -> Row:
    """The row with words before its note."""
    return Row(row.what, row.value, row.unit, "; ".join(filter(None, (words, row.note))), row.target, row.at_most)


def lowest(what: str, found: Sequence[Row], target: float) -> Row:
    """The smallest of ratios, and which it is."""
    known = [(row.value, row) for row in found if row.value is not None]
    if not known:
        return Row(what, None, "×", found[0].note if found else "not measured", target)
    value, row = min(known, key=lambda pair: pair[0])
    return Row(what, value, "×", f"{row.what.partition(':')[0]}; {row.note}", target)


def in_process_rows(table: Cells, ours: str, workloads: Sequence[str]) -> list[Row]:
    """What HTTP leaves of the embedder's own throughput at the same batch."""
    most = load_name(max(CLIENTS))
    found = []
    for workload in workloads:
        what = f"{WORKLOADS[workload]}, {most}: {ours}, of in process"
        own, inside = table.get(ours, workload, most), table.get(IN_PROCESS[ours], workload, most)
        if own is None or inside is None:
            found.append(Row(what, None, "%", table.reason(ours), HTTP_TARGET))
            continue
        note = f"{own.requests_per_s:.1f} of {inside.requests_per_s:.1f} texts/s"
        found.append(Row(what, 100 * own.requests_per_s / inside.requests_per_s, "%", note, HTTP_TARGET))
    return found
