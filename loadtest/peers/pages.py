"""peers.md, and the README's table. Knows nothing of how anything was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.benchmark import Document, Row, all_rows, described, reached, rows_of, shown, wanted
from loadtest.figures import markdown_table
from loadtest.peers.cells import Cell, Cells
from loadtest.peers.plot import write_plot

HEAD = ("what", "measured", "to reach", "reached", "note")
NONE = "–"
IN_README = (
    "1×13: against eager",
    "mixed, whole set: against eager",
    "32×65: against ONNX Runtime fp32",
    "32×65: int8 against our fp32",
    "mixed, 32 clients: this kit against the article's recipe",
    "mixed, 32 clients: this kit, int8 against the article's recipe",
    "short queries, 1 client, p50: this kit against the article's recipe",
    "short queries, 1 client, p50: this kit, int8 against the article's recipe",
    "this kit against the best other server, lowest of all",
    "this kit, int8 against the best other server, lowest of all",
    "mixed, 32 clients: this kit, of in process",
    "start with artefacts, of the eager worker's",
    "start with artefacts, against compiling at start",
    "memory with artefacts, of sentence-transformers, eager",
    "cosine to float32, mean: this kit, int8",
    "nDCG@10 lost: this kit, int8",
)
"""Rows that the README shows."""


def cells(row: Row) -> list[str]:
    """A line of a table."""
    return [row.what, shown(row), wanted(row), reached(row), row.note]


def readme(document: Document) -> str:
    """The README's table: figures beside their targets, and of which machine."""
    by_name = {row.what: row for part in document["parts"] for row in rows_of(document, part)}
    rows = [cells(by_name[name])[:-2] for name in IN_README if name in by_name]
    words = document["parts"]["http"]["measured_on"]
    table = markdown_table(("embeddings, minilm", "measured", "to reach"), rows)
    return f"{table}\n\n{words}. All of it: [docs/benchmarks/peers.md](docs/benchmarks/peers.md)."


def writer(parts: Mapping[str, Callable[..., object]]) -> Callable[[Document, Path], None]:
    """What writes peers.md and .png of what has been measured of these parts."""

    def write(document: Document, folder: Path) -> None:
        (folder / "peers.md").write_text(markdown(document, parts))
        if found := document["parts"].get("http"):
            write_plot(found, folder / "peers.png")

    return write


def markdown(document: Document, parts: Mapping[str, Callable[..., object]]) -> str:
    """peers.md."""
    there = [part for part in parts if part in document["parts"]]
    targets = [row for row in all_rows(document, there) if row.target is not None]
    sections = "\n\n".join(_section(document["parts"][part], part, described(parts[part])) for part in there)
    picture = "\n![throughput against p95](peers.png)\n" if "http" in there else ""
    return f"""# Embeddings against their peers

Written by `make bench-peers`. all-MiniLM-L6-v2, the same weights everywhere; `loadtest/peers` has what is installed for
each peer and how it is started. Medians, measured by turns; a ratio is one of medians of the same run. Clients and
servers share the CPUs.

{markdown_table(HEAD, [cells(row) for row in targets])}
{picture}
{sections}
"""


def _section(found: Mapping[str, Any], part: str, words: str) -> str:
    taken = f"it took {found['seconds'] / 60:.1f} minutes"
    lines = [f"## {part.replace('_', ' ')}", words, f"{found['measured_on']}; {taken}."]
    rows = [Row(**row) for row in found["rows"]]
    if part == "http":
        lines += [servers_table(found), *_loads(found)]
        rows = [row for row in rows if row.target is None]  # the others are many, and stand above
    elif part == "in_process":
        lines += [shapes_table(found["ms"], found["missing"])]
        rows = [row for row in rows if row.unit != "ms"]
    lines.append(markdown_table(HEAD, [cells(row) for row in rows]))
    return "\n\n".join(lines)


def shapes_table(ms: Mapping[str, Mapping[str, float]], missing: Mapping[str, str]) -> str:
    """Milliseconds: a line a side, a column a shape. A side that is missing has its reason."""
    sides = list(dict.fromkeys(name for own in ms.values() for name in own))
    lines = [[name, *(f"{own[name]:.2f}" if name in own else NONE for own in ms.values())] for name in sides]
    lines += [[name, f"not measured: {reason}", *[""] * (len(ms) - 1)] for name, reason in missing.items()]
    return markdown_table(("ms", *ms), lines)


def servers_table(found: Mapping[str, Any]) -> str:
    """What runs how, and what it uses; or why it does not."""
    head = ("server", "precision", "settings", "start s", "at rest, % of a core", "memory MiB (PSS)", "reply bytes")
    keys = ("start_s", "idle_percent", "memory_mib", "reply_bytes")
    lines = []
    for each in found["servers"]:
        settings = f"{each['settings']}; **not measured: {each['missing']}**" if each["missing"] else each["settings"]
        numbers = [NONE if each[key] is None else each[key] for key in keys]
        lines.append([each["name"], each["precision"], settings, *numbers])
    return markdown_table(head, lines)


def _loads(found: Mapping[str, Any]) -> list[str]:
    """For each workload a table of the closed loops and one of the open ones."""
    all_cells = [Cell(**each) for each in found["cells"]]
    table = Cells(all_cells, found["missing"])
    names = [each["name"] for each in found["servers"]]
    inside = [each.server for each in all_cells if each.server not in names]
    lines = []
    for workload in dict.fromkeys(each.workload for each in all_cells):
        own = [each for each in all_cells if each.workload == workload]
        closed = {each.load: each.load for each in own if each.offered_per_s is None}
        rates = {each.load: each.offered_per_s for each in own if each.offered_per_s is not None}
        lines += [
            f"### {workload.replace('_', ' ')}, closed loops",
            "Requests a second; p50 and p95 in milliseconds.",
            loads_table(table, [*names, *dict.fromkeys(inside)], workload, closed, closed_words),
        ]
        if rates:
            heads = {load: f"{load}, {rate:g}/s" for load, rate in rates.items()}
            lines += [
                f"### {workload.replace('_', ' ')}, open loops",
                "p50 and p95 in milliseconds from the intended time; of requests that failed the share.",
                loads_table(table, names, workload, heads, open_words),
            ]
    return lines


def loads_table(
    table: Cells, names: Sequence[str], workload: str, heads: Mapping[str, str], words: Callable[[Cell], str]
) -> str:
    """A line a server, a column a load; one that is missing has its reason."""
    lines = []
    for name in names:
        own = {load: table.get(name, workload, load) for load in heads}
        if any(own.values()):
            lines.append([name, *(words(each) if each else NONE for each in own.values())])
        else:
            lines.append([name, f"not measured: {table.reason(name)}", *[""] * (len(heads) - 1)])
    return markdown_table(("server", *heads.values()), lines)


def closed_words(cell: Cell) -> str:
    """Throughput, p50 and p95, and failures if there were any."""
    if cell.p50_ms is None and not cell.reply_bytes:
        return f"{cell.requests_per_s:.1f}"
    failed = f", {100 * cell.failed / cell.requests:.0f}% failed" if cell.failed else ""
    return f"{cell.requests_per_s:.1f}; {_ms(cell.p50_ms)}, {_ms(cell.p95_ms)}{failed}"


def open_words(cell: Cell) -> str:
    """p50 and p95, and failures if there were any."""
    failed = f", {100 * cell.failed / cell.requests:.0f}% failed" if cell.failed else ""
    return f"{_ms(cell.p50_ms)}, {_ms(cell.p95_ms)}{failed}"


def _ms(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"
