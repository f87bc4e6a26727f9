"""One line for each request: what was intended, what was sent, when what came back. Knows no statistics.

A generator process writes requests.<worker>.jsonl into the run's folder; the report reads them all. The columns are
Record's fields; those that are None or empty are left out.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

Phase = Literal["cold", "warmup", "measure"]
MERGED = "requests.jsonl.gz"
SHARDS = "requests.*.jsonl"


@dataclass(frozen=True)
class Record:
    """One request. Times ending in _s are from the run's beginning, those ending in _ms from when it was sent."""

    seq: int
    """Its place in the whole run's timetable; in a closed loop its place among its worker's requests."""
    worker: int
    phase: Phase
    """By its intended time, so that slow answers do not drop out of the measured phase."""
    payload: str
    intended_s: float
    sent_s: float
    e2e_ms: float
    """Up to the last byte, or to the failure."""
    waited: bool = False
    """Whether it was late because all of the generator's users were waiting for answers: the server's doing."""
    ttfb_ms: float | None = None
    """Up to the answer's status line and headers."""
    ttft_ms: float | None = None
    """Streams: up to the first chunk with text."""
    gaps_ms: tuple[float, ...] = ()
    """Streams: between chunks with text."""
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_source: Literal["server", "chunks"] | None = None
    """server: the answer's own usage. chunks: as many as chunks with text, since the answer names no number."""
    items: int = 1
    """Texts or images in the request."""
    bytes: int = 0
    status: int | None = None
    """HTTP status; None when there was no answer."""
    error: str | None = None
    """The kind of failure, one of ERRORS; None when the answer was good."""
    detail: str | None = None
    """The failure in words."""

    @property
    def lag_ms(self) -> float:
        """How much later than intended it was sent."""
        return 1e3 * (self.sent_s - self.intended_s)

    @property
    def e2e_sched_ms(self) -> float:
        """From the intended time to the last byte."""
        return self.lag_ms + self.e2e_ms

    @property
    def ttft_sched_ms(self) -> float | None:
        """From the intended time to the first chunk with text."""
        return None if self.ttft_ms is None else self.lag_ms + self.ttft_ms

    @property
    def tpot_ms(self) -> float | None:
        """Milliseconds for each token after the first: (last - first chunk) / (tokens - 1); None below 2 tokens."""
        if self.ttft_ms is None or self.tokens_out is None or self.tokens_out < 2:
            return None
        return sum(self.gaps_ms) / (self.tokens_out - 1)

    @property
    def ended_s(self) -> float:
        """When the last byte came."""
        return self.sent_s + self.e2e_ms / 1e3

    def line(self) -> str:
        """Its JSON line, without a line end. Times keep a microsecond."""
        found = {name: value for name in NAMES if (value := getattr(self, name)) is not None and value != ()}
        return json.dumps({name: _rounded(name, value) for name, value in found.items()}, separators=(",", ":"))


NAMES = tuple(each.name for each in fields(Record))

ERRORS = {
    "timeout": "no full answer in time",
    "connection": "no connection, or it broke before the answer's end",
    "refused": "429 or 503: a queue was full",
    "client_error": "another 4xx",
    "server_error": "another 5xx",
    "stream_error": "the stream itself reported an error",
    "stream_cut": "the stream ended without its end mark",
    "wrong_answer": "a 200 that cannot be read",
}
"""Kinds of failure."""


def parse(line: str) -> Record:
    """A line that Record.line wrote. Raises ValueError, TypeError when it is none."""
    found: dict[str, Any] = json.loads(line)
    return Record(**{**found, "gaps_ms": tuple(found.get("gaps_ms", ()))})


def read(folder: Path) -> list[Record]:
    """All records of a run, merged or still in shards, by intended time."""
    return sorted((parse(line) for line in _lines(folder)), key=lambda record: (record.intended_s, record.seq))


def merge(folder: Path, records: Iterable[Record]) -> None:
    """Write the records into one compressed file, and remove the shards."""
    unfinished = folder / f"{MERGED}.part"
    with gzip.GzipFile(unfinished, "wb", mtime=0) as file:
        for record in records:
            file.write(record.line().encode() + b"\n")
    unfinished.replace(folder / MERGED)
    for shard in folder.glob(SHARDS):
        shard.unlink()


def _lines(folder: Path) -> Iterator[str]:
    merged = folder / MERGED
    if merged.exists():
        with gzip.open(merged, "rt") as file:
            yield from file
        return
    for shard in sorted(folder.glob(SHARDS)):
        with shard.open() as file:
            # A worker that was killed may have left half a line.
            yield from (line for line in file if line.endswith("\n"))


def _rounded(name: str, value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3 if name.endswith("_ms") else 6)
    return [round(each, 3) for each in value] if isinstance(value, tuple) else value
