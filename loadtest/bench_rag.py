"""Retrieval against the script of PyTorch's article on RAG on Graviton, and as a service: python -m loadtest.bench_rag.

script: a query and the indexing, both sides in a process of their own, by turns. http: 16 clients against the article's
pipeline in a plain TorchServe handler. quality: what int8 and an approximate index find of what answers questions.
Documents are CPython's own topics, the encoder all-MiniLM-L6-v2. Every ratio is one of medians of the same run.
Writes rag.json, .md and .png; parts that --only leaves out stay as they were. The last line is the JSON document.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from archives import STORE, assets, indexing
from archives.indexing import embedding
from archives.indexing.evaluate import evaluate, read_questions
from loadtest import lab, rag_servers, rag_sides, workload
from loadtest.benchmark import Benchmark, Found, Row, described, in_turns, ratio, rows_of, shown
from loadtest.figures import markdown_table
from loadtest.rag_sides import Asked, Indexed, Side
from loadtest.run import Run
from loadtest.serving import Served
from model_configs import ROOT
from model_configs.errors import Failed
from model_configs.loadtest import LoadTest
from model_configs.schema import load_model

MODEL = "pydoc-rag"
WORK = ROOT / ".run" / "bench-rag"
PAYLOADS = "rag"
QUESTIONS = Path(indexing.__file__).with_name("pydoc_questions.jsonl")
K = 5
CLIENTS = 16
KIT, KIT_INT8 = "this kit", "this kit, int8"
EAGER, COMPILED = "the article's script, eager", "the article's script, torch.compile"
STOCK, STOCK_BATCHED = "the article's pipeline in a handler", "the same, a batch in one call"
IN_README = ("against the article's script", "against the article's pipeline")


@dataclass(frozen=True)
class Scale:
    """How long. warmup, timed: queries of a turn, the article's; seconds of a closed loop; turns that count."""

    name: str = "full"
    warmup: int = 100
    timed: int = 100
    index_turns: int = 3
    query_turns: int = 5
    http_warmup_s: float = 5.0
    http_s: float = 20.0
    http_turns: int = 3


QUICK = Scale("quick", warmup=10, timed=10, index_turns=1, query_turns=2, http_warmup_s=2.0, http_s=4.0, http_turns=1)


def script(scale: Scale) -> list[Row]:
    """The article's script and this kit in process, in the article's order: all documents, then queries, one at a time.

    One question again and again, as the article has it, and the questions of loadtest/payloads/rag in turn.
    """
    config = load_model(MODEL)
    weights = assets.find_weights(config)
    questions = [json.loads(each.body)["query"] for each in workload.load(workload.find(PAYLOADS))]
    with ExitStack() as stack:
        eager = stack.enter_context(rag_sides.Peer(weights, "eager", WORK / "eager.log"))
        compiled = stack.enter_context(rag_sides.Peer(weights, "compile", WORK / "compile.log"))
        sides: dict[str, Side] = {
            EAGER: eager,
            KIT: rag_sides.kit(rag_sides.variant(config), WORK / "flat"),
            COMPILED: compiled,
            KIT_INT8: rag_sides.kit(rag_sides.variant(config, precision="int8"), WORK / "int8"),
        }
        indexed = in_turns({name: side.index for name, side in sides.items()}, scale.index_turns)
        same = in_turns(
            {name: asking(side, questions[:1], scale.warmup, scale.timed) for name, side in sides.items()},
            scale.query_turns,
        )
        other = in_turns(
            {name: asking(side, questions, len(questions), len(questions)) for name, side in sides.items()},
            scale.query_turns,
        )
    versions = ", ".join(f"{name} {number}" for name, number in eager.versions.items())
    threads = f"{torch.get_num_threads()} threads here, {eager.threads} there"
    return [
        *indexing_rows(indexed, f"{versions}; {threads}"),
        *query_rows("one question", same),
        *query_rows(f"{len(questions)} questions", other),
        *graph_rows(indexed, other),
        *same_passages(other),
    ]


def http(scale: Scale) -> list[Row]:
    """16 clients in a closed loop, each query a request, by turns; the servers idle while others are measured.

    The article's pipeline: TorchServe's default settings and logging, batchSize 16, maxBatchDelay 100.
    """
    config = load_model(MODEL)
    embedder = embedding.embedder_for(config, STORE)
    rag_sides.make_index(config, embedder, indexing.index_folder(config))
    load = LoadTest(
        payloads=PAYLOADS, arrivals="closed", clients=CLIENTS, warmup_s=scale.http_warmup_s, duration_s=scale.http_s
    )
    store = WORK / "store"
    with (
        rag_servers.stock(config, store, batched=False) as stock,
        rag_servers.kit(config) as own,
        rag_servers.stock(config, store, batched=True) as batched,
    ):
        servers = {STOCK: stock, KIT: own, STOCK_BATCHED: batched}
        runs = in_turns({name: loading(served, load) for name, served in servers.items()}, scale.http_turns)
    return http_rows(runs)


def quality(scale: Scale) -> list[Row]:
    """Questions whose topics are known: recall and nDCG of the float32 encoder's exact index, and of what is faster."""
    config = load_model(MODEL)
    questions = read_questions(QUESTIONS)
    variants = {"fp32, flat": ("fp32", "flat"), "int8, flat": ("int8", "flat"), "fp32, hnsw": ("fp32", "hnsw")}
    rows = []
    for name, (precision, kind) in variants.items():
        folder = WORK / ("int8" if precision == "int8" else kind)
        side = rag_sides.kit(rag_sides.variant(config, precision, kind), folder)
        found = evaluate(questions, side.search)
        recall = "" if kind == "flat" else f"{side.info.recall:.3f} of the exact index's 10 nearest"
        rows += [
            Row(f"recall@5, {name}", 100 * found.recall_at_5, "%", f"{found.questions} questions"),
            Row(f"nDCG@10, {name}", found.ndcg_at_10, "", recall),
        ]
    return rows


PARTS: dict[str, Callable[[Scale], list[Row]]] = {"script": script, "http": http, "quality": quality}


def asking(side: Side, questions: Sequence[str], warmup: int, timed: int) -> Callable[[], Asked]:
    """A turn of queries."""
    return lambda: side.ask(questions, warmup, timed, K)


def loading(served: Served, load: LoadTest) -> Callable[[], Run]:
    """A turn of load. Raises Failed when a request failed."""

    def run() -> Run:
        with tempfile.TemporaryDirectory() as folder:
            run = lab.measure(served, load, Path(folder))
        if run.summary.failed:
            raise Failed(f"{served.target.model}: {run.summary.failed} requests failed: {run.summary.samples}")
        return run

    return run


def indexing_rows(indexed: Mapping[str, Sequence[Indexed]], note: str) -> list[Row]:
    """Texts a second of each side, the median of its turns, and how much faster the kit is."""
    speeds = {name: [turn.texts_per_s for turn in turns] for name, turns in indexed.items()}
    texts = {name: f"{turns[0].texts} texts" for name, turns in indexed.items()}
    first = f"{indexed[COMPILED][0].seconds:.0f} s the first time, compiling"
    notes = texts | {EAGER: f"{texts[EAGER]}; {note}", COMPILED: f"{texts[COMPILED]}; {first}"}
    return [
        *(Row(f"indexing, {name}", statistics.median(own), "texts/s", notes[name]) for name, own in speeds.items()),
        ratio("indexing, against the article's script", speeds[KIT], speeds[EAGER]),
        ratio("indexing, against it under torch.compile", speeds[KIT], speeds[COMPILED]),
        ratio("indexing, int8 against the article's script", speeds[KIT_INT8], speeds[EAGER]),
    ]


def query_rows(what: str, asked: Mapping[str, Sequence[Asked]]) -> list[Row]:
    """The median query of each side over all turns, and how much faster the kit's is."""
    ms = {name: [each for turn in turns for each in turn.ms] for name, turns in asked.items()}
    return [
        *(Row(f"{what}: {name}", statistics.median(own), "ms", quartiles(own)) for name, own in ms.items()),
        ratio(f"{what}: against the article's script", ms[EAGER], ms[KIT]),
        ratio(f"{what}: against it under torch.compile", ms[COMPILED], ms[KIT]),
        ratio(f"{what}: int8 against the article's script", ms[EAGER], ms[KIT_INT8]),
    ]


def graph_rows(indexed: Mapping[str, Sequence[Indexed]], asked: Mapping[str, Sequence[Asked]]) -> list[Row]:
    """What was compiled for the documents' batches, and once more for single queries: the article's third challenge."""
    rows = []
    for name in (COMPILED, KIT):
        by_documents, all_of_them = indexed[name][-1].graphs, asked[name][-1].graphs
        note = f"{by_documents} for the documents, {all_of_them - by_documents} more for queries"
        rows.append(Row(f"graphs compiled, {name}", all_of_them, "", note))
    return rows


def same_passages(asked: Mapping[str, Sequence[Asked]]) -> list[Row]:
    """Whether it is the same search at all: the share of the article's passages that are found."""
    reference = asked[EAGER][-1].found
    return [
        Row(
            f"same passages as the article's script, eager: {name}",
            100 * overlap(reference, asked[name][-1].found),
            "%",
        )
        for name in (KIT, COMPILED, KIT_INT8)
    ]


def overlap(reference: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """The share of the reference's texts that were found for the same question; white space does not count."""
    pairs = [
        ({" ".join(text.split()) for text in wanted}, {" ".join(text.split()) for text in own})
        for wanted, own in zip(reference, found, strict=True)
    ]
    return sum(len(wanted & own) for wanted, own in pairs) / sum(len(wanted) for wanted, _ in pairs)


def http_rows(runs: Mapping[str, Sequence[Run]]) -> list[Row]:
    """Throughput and latency of each server, the median of its turns, and how much more the kit answers."""
    rates = {name: [run.summary.answered_per_s for run in own] for name, own in runs.items()}
    rows = []
    for name, own in runs.items():
        turns = f"turns from {min(rates[name]):.1f} to {max(rates[name]):.1f}"
        requests = sum(run.summary.requests for run in own)
        rows += [
            Row(f"{CLIENTS} clients: {name}", statistics.median(rates[name]), "requests/s", f"{requests}; {turns}"),
            *(Row(f"{CLIENTS} clients, {share}: {name}", latency_ms(own, share), "ms") for share in ("p50", "p95")),
        ]
    return [
        *rows,
        ratio(f"{CLIENTS} clients: against the article's pipeline", rates[KIT], rates[STOCK]),
        ratio(f"{CLIENTS} clients: against it, a batch in one call", rates[KIT], rates[STOCK_BATCHED]),
    ]


def latency_ms(runs: Sequence[Run], share: str) -> float:
    """The median over runs of a percentile."""
    values = [run.summary.latencies["e2e_ms"].percentiles[share].value for run in runs]
    return statistics.median(value for value in values if value is not None)


def quartiles(values: Sequence[float]) -> str:
    """How far the middle half lies apart."""
    low, _, high = statistics.quantiles(values, n=4)
    return f"quartiles {low:.2f} to {high:.2f}, {len(values)} queries"


HEAD = ("what", "measured", "note")


def cells(row: Row) -> list[str]:
    """A line of a table."""
    return [row.what, shown(row), row.note]


def markdown(document: dict[str, Any]) -> str:
    """rag.md."""
    there = [part for part in PARTS if part in document["parts"]]
    ratios = [row for part in there for row in rows_of(document, part) if row.unit == "×"]
    sections = "\n\n".join(
        f"## {part}\n\n{described(PARTS[part])}\n\n{document['parts'][part]['measured_on']}.\n\n"
        f"{markdown_table(HEAD, [cells(row) for row in rows_of(document, part)])}"
        for part in there
    )
    return f"""# Retrieval

Written by `make bench-rag`. CPython's `pydoc_data.topics` in passages of up to 1000 characters, all-MiniLM-L6-v2,
k = {K}.
Medians, measured by turns; a ratio is one of medians of the same run. Clients and servers share the CPUs.

{markdown_table(HEAD[:-1], [cells(row)[:-1] for row in ratios])}

![ratios](rag.png)

{sections}
"""


def write_plot(document: dict[str, Any], target: Path) -> None:
    """rag.png: every ratio."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    there = [part for part in PARTS if part in document["parts"]]
    ratios = [row for part in there for row in rows_of(document, part) if row.unit == "×"][::-1]
    figure, axes = pyplot.subplots(figsize=(10, 4.5), layout="constrained")
    bars = axes.barh(range(len(ratios)), [row.value for row in ratios], color="#4c78a8")
    axes.set_yticks(range(len(ratios)), [row.what for row in ratios], fontsize=8)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast")
    axes.margins(x=0.1)
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def write(document: dict[str, Any], folder: Path) -> None:
    """rag.md and .png."""
    (folder / "rag.md").write_text(markdown(document))
    write_plot(document, folder / "rag.png")


def readme(document: dict[str, Any]) -> str:
    """The README's table: ratios to the article's, and what answers are found."""
    rows = [
        (row.what, shown(row))
        for part in PARTS
        for row in rows_of(document, part)
        if row.what.endswith(IN_README) or row.what.startswith("recall@5")
    ]
    return markdown_table(("retrieval, pydoc-rag", "measured"), rows)


def _without_more(part: Callable[[Scale], list[Row]]) -> Callable[[Scale], Found]:
    """The part, as Benchmark takes it."""

    @wraps(part)
    def measure(scale: Scale) -> Found:
        return Found(part(scale))

    return measure


BENCHMARK = Benchmark(
    "rag", {name: _without_more(part) for name, part in PARTS.items()}, Scale(), QUICK, WORK, write, readme, cells, HEAD
)

if __name__ == "__main__":
    BENCHMARK.main(__doc__)
