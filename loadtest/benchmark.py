"""What benchmarks that compare have in common: figures with targets, turns, and parts that are measured one by one.

A part that is measured again takes the place of what its document had; the others stay. Knows nothing of what is
measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.table import Table

from loadtest.figures import BENCHMARKS, write_readme
from loadtest.passport import in_words, passport

DIGITS = {"×": 2, "ms": 2, "%": 1, "": 3}
"""Of figures in these units; others have one."""
TABLE_COLUMNS = 160
Document = dict[str, Any]
Scale = TypeVar("Scale")
Result = TypeVar("Result")
out = Console(highlight=False)
progress = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Row:
    """One figure; a whole number is shown as one. value: None when it could not be had, and note says why.

    target: what it is to be at least, or at most.
    """

    what: str
    value: float | int | None
    unit: str
    note: str = ""
    target: float | None = None
    at_most: bool = False


@dataclass(frozen=True)
class Found:
    """What a part has measured. more: for its tables and plots, by names of its own."""

    rows: list[Row]
    more: Document = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark(Generic[Scale]):
    """A benchmark's command: make bench-NAME, which writes NAME.json and what write does.

    work: its own folder; there --quick writes. readme: the table between README's marks.
    """

    name: str
    parts: Mapping[str, Callable[[Scale], Found]]
    full: Scale
    quick: Scale
    work: Path
    write: Callable[[Document, Path], None]
    readme: Callable[[Document], str]
    cells: Callable[[Row], list[str]]
    head: Sequence[str]

    def main(self, words: str) -> None:
        """Read the command line, measure the parts, write; the last line is the JSON document. words: for --help."""
        parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--only", nargs="+", choices=self.parts, metavar="PART", help=", ".join(self.parts))
        parser.add_argument("--out", type=Path, metavar="DIR", help="instead of docs/benchmarks")
        parser.add_argument("--quick", action="store_true", help="very short: only to try it out")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON document to FILE too")
        arguments = parser.parse_args()
        folder = arguments.out or (self.work / "quick" if arguments.quick else BENCHMARKS)
        document = self.measure(
            arguments.only or list(self.parts), self.quick if arguments.quick else self.full, folder
        )
        if folder == BENCHMARKS and all(part in document["parts"] for part in self.parts):
            write_readme(f"bench-{self.name}", self.readme(document))
        table = Table(*self.head, box=None)
        for row in all_rows(document, self.parts):
            table.add_row(*self.cells(row))
        Console(highlight=False, width=max(TABLE_COLUMNS, out.width)).print(table)
        if arguments.json:
            arguments.json.write_text(json.dumps(document, indent=2) + "\n")
        print(json.dumps(document))

    def measure(self, parts: Sequence[str], scale: Scale, folder: Path) -> Document:
        """Measure some parts; the document holds those that folder already has too."""
        earlier = folder / f"{self.name}.json"
        document: Document = json.loads(earlier.read_text()) if earlier.exists() else {"parts": {}}
        for part in parts:
            progress.print(f"{part}: {described(self.parts[part])}")
            started = time.perf_counter()
            found = self.parts[part](scale)
            card = passport()
            document["parts"][part] = {
                "passport": card,
                "measured_on": in_words(card),
                "seconds": round(time.perf_counter() - started, 1),
                "rows": [asdict(row) for row in found.rows],
                **found.more,
            }
            # After each, so that a later part that fails costs nothing.
            folder.mkdir(parents=True, exist_ok=True)
            earlier.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
            self.write(document, folder)
        return document


def in_turns(
    calls: Mapping[str, Callable[[], Result]], turns: int, *, rotate: bool = False, first: int = 0
) -> dict[str, list[Result]]:
    """What each call returned, one after the other, turns times: A B A B, so that drift favours none.

    rotate: another one begins each turn. first: which begins the first.
    """
    results: dict[str, list[Result]] = {name: [] for name in calls}
    for turn in range(turns):
        for name in rotated(list(calls), first + turn if rotate else first):
            progress.print(f"  turn {turn + 1} of {turns}: {name}")
            results[name].append(calls[name]())
    return results


def until(
    calls: Mapping[str, Callable[[], list[float]]],
    budget_s: float,
    at_least: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """All values of each call, called in turns until budget_s is over and each was called at_least times."""
    values: dict[str, list[float]] = {name: [] for name in calls}
    end, turns = clock() + budget_s, 0
    while turns < at_least or clock() < end:
        for name in rotated(list(calls), turns):
            values[name] += calls[name]()
        turns += 1
    return values


def rotated(names: Sequence[str], by: int) -> list[str]:
    """The same order from another one on."""
    start = by % len(names) if names else 0
    return [*names[start:], *names[:start]]


def ratio(
    what: str, above: Sequence[float], below: Sequence[float], note: str = "", target: float | None = None
) -> Row:
    """Of medians."""
    return Row(what, statistics.median(above) / statistics.median(below), "×", note, target)


def shown(row: Row) -> str:
    """A figure with its unit, with as many digits as it deserves."""
    if row.value is None:
        return "–"
    number = str(row.value) if isinstance(row.value, int) else f"{row.value:.{DIGITS.get(row.unit, 1)}f}"
    return f"{number}{'' if row.unit in ('×', '%') else ' '}{row.unit}".strip()


def wanted(row: Row) -> str:
    """The target, in words."""
    if row.target is None:
        return ""
    return f"{'≤' if row.at_most else '≥'} {row.target:g}{'' if row.unit in ('×', '%') else ' '}{row.unit}".strip()


def reached(row: Row) -> str:
    """Whether the target was met."""
    if row.target is None:
        return ""
    if row.value is None:
        return "–"
    return "yes" if (row.value <= row.target if row.at_most else row.value >= row.target) else "no"


def rows_of(document: Document, part: str) -> list[Row]:
    """A part's rows out of the document; none of a part that has not been measured."""
    return [Row(**row) for row in document["parts"].get(part, {}).get("rows", ())]


def all_rows(document: Document, parts: Sequence[str] | Mapping[str, object]) -> list[Row]:
    """The rows of these parts, in this order."""
    return [row for part in parts for row in rows_of(document, part)]


def described(part: Callable[..., object]) -> str:
    """A part's own words, unindented."""
    return "\n".join(line.strip() for line in (part.__doc__ or "").strip().splitlines())
