"""Closed and open loops against every server by turns, and this kit's embedder in process beside them. Figures only."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from loadtest import short_runs
from loadtest.benchmark import Found, in_turns, progress
from loadtest.peers import cells, models, processes, servers, sides
from loadtest.peers.cells import Cell, Cells
from loadtest.peers.environments import Missing
from loadtest.peers.http_rows import CLIENTS, IN_PROCESS, WORKLOADS, load_name, rows, share_name
from loadtest.peers.in_process import BATCH, texts_of
from loadtest.peers.servers import KIT, Running, Server, Servers
from loadtest.peers.sides import Side
from loadtest.plan import Target
from loadtest.short_runs import ShortRun, ShortRuns
from model_configs.errors import Failed, KitError
from model_configs.loadtest import LoadTest

SHARES = (0.25, 0.5, 0.75)
"""Of what this kit answers at most in a closed loop: the open loop's rates, the same ones for every server."""
PATIENCE_S = 600.0
"""For the first requests of a server that compiles at them, and for a queue that an overloaded one has to empty."""
ANSWER_S = 20.0
USERS = 256
LOWEST_RATE = 0.5
"""Requests a second; less would be none in some seconds."""


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
        memory = {name: processes.shared_out_mib(running.pid) for name, running in there.running.items()}
        idle = at_rest(there.running, scale.idle_s)
        start_s = {name: running.start_s for name, running in there.running.items()}
        for server in known:
            if server.restless and server.name in there.running:
                there.stop(server)
        for place, workload in enumerate(scale.workloads):
            bench.closed(workload, place)
            bench.open(workload, place)
    table = Cells(bench.cells, there.missing)
    uses = {"start_s": start_s, "idle_percent": idle, "memory_mib": memory}
    described = [describe(server, there.missing.get(server.name, ""), uses, bench.cells) for server in known]
    more = {"cells": [asdict(each) for each in bench.cells], "servers": described, "missing": dict(there.missing)}
    return Found(rows(table, known, scale.workloads), more)


class Bench:
    """The servers, and the cells so far. A server that fails in the midst of it is missing from then on."""

    def __init__(self, scale: Scale, there: Servers, embedders: Mapping[str, Side], runs: ShortRuns) -> None:
        self.scale, self.there, self.embedders, self.runs = scale, there, embedders, runs
        self.cells: list[Cell] = []

    def settle(self) -> None:
        """Every shape of load once, unmeasured: what compiles does so now, and Java warms up."""
        for name in list(self.there.running):
            progress.print(f"  warming up {name}")
            for workload in self.scale.workloads:
                self._visit(name, {load_name(clients): self._warm(workload, clients) for clients in (1, max(CLIENTS))})

    def closed(self, workload: str, place: int) -> None:
        """Clients that wait for their answers, and the embedders without HTTP at as many texts as there are clients."""
        progress.print(WORKLOADS[workload])
        loads = {
            load_name(clients): LoadTest(
                payloads=workload,
                arrivals="closed",
                clients=clients,
                warmup_s=self.scale.warmup_s,
                duration_s=self.scale.one_client_s if clients == 1 else self.scale.closed_s,
                timeout_s=ANSWER_S,
            )
            for clients in CLIENTS
        }
        self._measure(workload, loads, place, self.embedders)

    def open(self, workload: str, place: int) -> None:
        """Requests at times that do not wait for answers."""
        table = Cells(self.cells, {})
        own = [each for clients in CLIENTS if (each := table.get(KIT, workload, load_name(clients)))]
        best = max((each.requests_per_s for each in own), default=0.0)
        loads = {
            share_name(share): LoadTest(
                payloads=workload,
                arrivals="poisson",
                rate=round(share * best, 1),
                users=USERS,
                warmup_s=self.scale.warmup_s,
                duration_s=self.scale.open_s,
                timeout_s=ANSWER_S,
            )
            for share in self.scale.shares
            if share * best >= LOWEST_RATE
        }
        progress.print(f"{WORKLOADS[workload]}, at {', '.join(f'{load.rate:g}/s' for load in loads.values())}")
        self._measure(workload, loads, place, {})

    def _warm(self, workload: str, clients: int) -> LoadTest:
        return LoadTest(
            payloads=workload,
            arrivals="closed",
            clients=clients,
            warmup_s=0.0,
            duration_s=self.scale.settle_s,
            timeout_s=PATIENCE_S,
        )

    def _measure(self, workload: str, loads: Mapping[str, LoadTest], first: int, embedders: Mapping[str, Side]) -> None:
        """Server by server, each under all loads, by turns; embedders take their turns with them."""
        calls: dict[str, Callable[[], dict[str, ShortRun] | list[float]]] = {
            server: partial(self._visit, server, loads) for server in (*self.there.running, *self.there.asleep)
        }
        texts = whole_batches(texts_of(workload))
        for server, side in embedders.items():
            calls[IN_PROCESS[server]] = partial(rates_for, side, texts, self.scale.closed_s)
        for name, results in in_turns(calls, self.scale.turns, rotate=True, first=first).items():
            rates = [rate for each in results if isinstance(each, list) for rate in each]
            if rates:
                most = load_name(max(CLIENTS))
                self.cells.append(cells.inside(name, workload, most, rates, len(rates) * len(texts)))
            if name not in self.there.missing:
                for load, asked in loads.items():
                    runs = [each[load] for each in results if isinstance(each, dict) and load in each]
                    self.cells += [cells.cell(name, workload, load, runs, asked.rate)] if runs else []

    def _visit(self, name: str, loads: Mapping[str, LoadTest]) -> dict[str, ShortRun]:
        """A server under each of these loads; one that is asleep is started for it."""
        try:
            if name in self.there.running:
                return self._under(self.there.running[name].target, loads)
            if name in self.there.asleep:
                with self.there.asleep[name].start() as began:
                    clients = max(CLIENTS)
                    self.runs.measure(began.target, self._warm(next(iter(loads.values())).payloads, clients))
                    return self._under(began.target, loads)
        except (Failed, KitError, Missing) as error:
            self.there.fail(name, f"failed under load: {servers.in_a_line(str(error))}")
        return {}

    def _under(self, target: Target, loads: Mapping[str, LoadTest]) -> dict[str, ShortRun]:
        """A run under each, and then a request that waits until the queue which the run may have left is empty."""
        found = {}
        for name, load in loads.items():
            run = self.runs.measure(target, load)
            if run.summary.requests and run.summary.failed == run.summary.requests:
                raise Failed(f"every request failed: {run.summary.samples}")
            if load.rate is not None or run.summary.failed:
                short_runs.ask_once(target, load.model_copy(update={"timeout_s": PATIENCE_S}))
            found[name] = run
        return found


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


def describe(
    server: Server, missing: str, uses: Mapping[str, Mapping[str, float]], cells: Sequence[Cell]
) -> dict[str, Any]:
    """A server's line in the table of servers. uses: what by server, in the units of their names."""
    sizes = [each.reply_bytes for each in cells if each.server == server.name and each.reply_bytes]
    return {
        "name": server.name,
        "precision": server.precision,
        "settings": server.settings,
        **{what: round(own[server.name], 1) if server.name in own else None for what, own in uses.items()},
        "reply_bytes": round(statistics.fmean(sizes)) if sizes else None,
        "missing": missing,
    }
