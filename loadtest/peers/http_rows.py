"""What the cells of all servers say against the issue's targets. Pure; knows nothing of how they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from loadtest.benchmark import Row
from loadtest.peers.cells import Cells
from loadtest.peers.servers import COMPILED, KIT, KIT_INT8, RECIPE, Server

WORKLOADS = {"short_queries": "short queries", "documents": "documents", "mixed": "mixed"}
"""Folders of loadtest/payloads, and what they are called."""
CLIENTS = (1, 8, 32)
IN_PROCESS = {KIT: "in process", KIT_INT8: "in process, int8"}
RECIPE_TARGETS = {KIT: (2.7, 16.0), KIT_INT8: (4.5, 26.0)}
"""Requests/s on the mixed set with 32 clients, and p50 of short queries with one."""
OTHERS_TARGET, P95_TARGET, HTTP_TARGET = 1.2, 1.0, 85.0


def load_name(clients: int) -> str:
    """A closed loop's."""
    return f"{clients} client{'s' * (clients > 1)}"


def share_name(share: float) -> str:
    """An open loop's."""
    return f"{share:.0%} of our best"


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
