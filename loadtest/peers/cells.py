"""One server under one load: what its turns add up to, and ratios of cells. Knows nothing of how they were measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.benchmark import Row
from loadtest.percentiles import percentile
from loadtest.short_runs import ShortRun


@dataclass(frozen=True)
class Cell:
    """Medians of turns for rates; percentiles of all turns' answers together, None where these are too few for one."""

    server: str
    workload: str
    load: str
    """As it is called in tables: 8 clients, or 50 %."""
    offered_per_s: float | None
    """Of an open loop."""
    requests_per_s: float
    turns_per_s: list[float]
    p50_ms: float | None
    p95_ms: float | None
    """In an open loop from the intended time."""
    requests: int
    failed: int
    reply_bytes: float
    lag_p99_ms: float
    """How late the generator sent, at the worst of its turns."""
    why: str = ""
    """The first failure, in words."""


def cell(server: str, workload: str, load: str, runs: Sequence[ShortRun], offered_per_s: float | None = None) -> Cell:
    """Of all turns of a server under a load."""
    good = [record for run in runs for record in run.records if record.error is None]
    closed = offered_per_s is None
    times = sorted(record.e2e_ms if closed else record.e2e_sched_ms for record in good)
    rates = [run.summary.answered_per_s for run in runs]
    failures = [words for run in runs for kind, text in run.summary.samples.items() for words in [f"{kind}: {text}"]]
    return Cell(
        server=server,
        workload=workload,
        load=load,
        offered_per_s=offered_per_s,
        requests_per_s=statistics.median(rates),
        turns_per_s=rates,
        p50_ms=percentile(times, 0.5).value,
        p95_ms=percentile(times, 0.95).value,
        requests=sum(run.summary.requests for run in runs),
        failed=sum(run.summary.failed for run in runs),
        reply_bytes=statistics.fmean(record.bytes for record in good) if good else 0.0,
        lag_p99_ms=0.0 if closed else max(run.generator.lag_p99_ms for run in runs),
        why=failures[0][:200] if failures else "",
    )


def inside(label: str, workload: str, load: str, rates: Sequence[float], texts: int) -> Cell:
    """Of an embedder without a server: texts a second of each time through all texts."""
    return Cell(label, workload, load, None, statistics.median(rates), list(rates), None, None, texts, 0, 0.0, 0.0)


class Cells:
    """Cells by server, workload and load."""

    def __init__(self, cells: Sequence[Cell], missing: Mapping[str, str]) -> None:
        self._cells = {(each.server, each.workload, each.load): each for each in cells}
        self._missing = missing

    @classmethod
    def of(cls, more: Mapping[str, Any]) -> Cells:
        """Out of a part's document."""
        return cls([Cell(**each) for each in more["cells"]], more["missing"])

    def get(self, server: str, workload: str, load: str) -> Cell | None:
        """None where that was not measured."""
        return self._cells.get((server, workload, load))

    def reason(self, *servers: str) -> str:
        """Why one of them has no figures."""
        return next((self._missing[name] for name in servers if name in self._missing), "not measured")

    def throughput(
        self, what: str, ours: str, theirs: str, workload: str, load: str, target: float | None = None
    ) -> Row:
        """How many times as many requests a second."""
        own, other = self.get(ours, workload, load), self.get(theirs, workload, load)
        if own is None or other is None or not other.requests_per_s:
            return Row(what, None, "×", self.reason(ours, theirs), target)
        return Row(what, own.requests_per_s / other.requests_per_s, "×", failures(own, other), target)

    def latency(
        self, what: str, ours: str, theirs: str, workload: str, load: str, share: str, target: float | None = None
    ) -> Row:
        """How many times as low a percentile is. share: p50 or p95."""
        own, other = self.get(ours, workload, load), self.get(theirs, workload, load)
        if own is None or other is None:
            return Row(what, None, "×", self.reason(ours, theirs), target)
        low, high = getattr(own, f"{share}_ms"), getattr(other, f"{share}_ms")
        if low is None or high is None:
            return Row(what, None, "×", f"too few answers for a {share}", target)
        return Row(what, high / low, "×", failures(own, other), target)

    def best(self, servers: Sequence[str], workload: str, load: str) -> Cell | None:
        """The one with the most requests a second."""
        found = [each for name in servers if (each := self.get(name, workload, load))]
        return max(found, key=lambda each: each.requests_per_s, default=None)


def failures(*cells: Cell) -> str:
    """Which of them had any."""
    return "; ".join(f"{each.server}: {each.failed} of {each.requests} failed" for each in cells if each.failed)
