"""The Llama handler against what else there is, in this process and through HTTP: python -m loadtest.bench_llama.

engine: a decode step, against transformers.generate and the memory's speed. serving: streams through TorchServe against
the engine alone. batching: continuous against micro-batches under Poisson arrivals. stock: against the article's way.
peers: against llama.cpp. cuda: Llama-2-7B's shape on a GPU. Every ratio is one of medians that were taken by turns.
Writes llama.json, .md and .png; parts that --only leaves out stay as they were. The last line is the JSON document.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from loadtest.figures import BENCHMARKS, markdown_table, write_readme
from loadtest.llama_model import SMOLLM_135M, TINY, prompt_ids, write_model
from model_configs import ROOT

# What a part needs is imported where it is used: `cuda` also runs where there is only torch and transformers.

WORK = ROOT / ".run" / "bench-llama"
TRAINED = ROOT / "archives" / "shipped" / "pydoc-llama"
CLIENTS = 8
BATCHES = (1, 8)
MODEL = "SmolLM-135M's shape (30 layers, hidden 576, 9/3 heads, ffn 1536, vocabulary 49152, tied, float32)"
SEED = 1
RATE_SHARE = 0.7
"""Of what continuous batching can take, which is measured first."""
TTFT_SLO_S = 0.5
SHORTEST, LONGEST = 8, 256
TIMEOUT_S = 300.0
LAG_LIMIT_S = 0.1
"""A load generator that is later than this, at the 99th percentile, measures itself: a fifth of the SLO."""
TABLE_COLUMNS = 180
out = Console(highlight=False)
progress = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Scale:
    """How large and how long. Lengths in tokens, times in seconds; turns that count."""

    name: str = "full"
    shape: dict[str, Any] = field(default_factory=lambda: dict(SMOLLM_135M))
    prompt: int = 32
    read_bytes: int = 500_000_000
    engine_tokens: int = 32
    engine_turns: int = 6
    serving_requests: int = 16
    serving_tokens: int = 64
    serving_turns: int = 4
    batch_size: int = 16
    """Of both ways to batch, the article's."""
    capacity_requests: int = 48
    arrivals_s: float = 30.0
    drain_s: float = 25.0
    """After the last arrival, until clients give up."""
    batching_turns: int = 3
    stock_tokens: int = 32
    stock_turns: int = 3
    peer_turns: int = 5
    quality_texts: int = 24
    cuda_prompt: int = 512
    cuda_tokens: int = 50
    cuda_turns: int = 5
    cuda_read_bytes: int = 8_000_000_000

    @property
    def weights(self) -> Path:
        """The random model, made if need be."""
        return write_model(WORK / self.name / "model", self.shape)

    @property
    def store(self) -> Path:
        """Where the servers' archives are."""
        return WORK / self.name / "store"

    def prompts(self, rows: int) -> list[list[int]]:
        """Random ones, one for each row."""
        return [prompt_ids(self.prompt, seed, self.shape["vocab_size"]) for seed in range(rows)]


QUICK = Scale(
    name="quick", shape=dict(TINY), read_bytes=16_000_000, engine_tokens=16, engine_turns=2, serving_requests=8,
    serving_tokens=8, serving_turns=1, batch_size=4, capacity_requests=8, arrivals_s=3.0, drain_s=5.0, batching_turns=1,
    stock_tokens=8, stock_turns=1, peer_turns=1, quality_texts=2, cuda_prompt=32, cuda_tokens=8, cuda_turns=1,
    cuda_read_bytes=64_000_000,
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One figure. value: None when it could not be had, and note says why. target: it is to be at least that."""

    what: str
    value: float | None
    unit: str
    target: float | None = None
    note: str = ""


def timed(what: str, times_ms: Sequence[float]) -> Row:
    """The median of steps' milliseconds."""
    return Row(what, statistics.median(times_ms), "ms/step", note=_quartiles(times_ms))


def speed(what: str, rows: int, times_ms: Sequence[float]) -> Row:
    """Tokens a second at the median step."""
    return Row(what, 1e3 * rows / statistics.median(times_ms), "tokens/s")


def ratio(what: str, above: Sequence[float], below: Sequence[float], target: float | None = None) -> Row:
    """Of medians."""
    return Row(what, statistics.median(above) / statistics.median(below), "×", target)


def engine(scale: Scale) -> list[Row]:
    """A step of each engine at batch 1 and 8, by turns with reading memory."""
    from loadtest import llama_servers, llama_steps

    weights = scale.weights
    kernels = llama_servers.artefacts(weights, scale.store)
    make = partial(llama_steps.make_engine, weights, kernels, max(BATCHES), max_length=256)
    engines = {"fp32": make(), "bf16 weights": make(amp="bf16"), "int8 weights": make(quantize="int8")}
    reference = llama_steps.load_transformers(weights)
    calls: dict[str, Callable[[], list[float]]] = dict(llama_steps.readers(scale.read_bytes))
    for rows in BATCHES:
        prompts = scale.prompts(rows)
        calls[f"transformers.generate, batch {rows}"] = partial(
            llama_steps.transformers_steps, reference, prompts, scale.engine_tokens
        )
        for name, own in engines.items():
            calls[f"{name}, batch {rows}"] = partial(llama_steps.engine_steps, own, prompts, scale.engine_tokens)
    times = llama_steps.in_turns(calls, scale.engine_turns)
    gb_s, how = llama_steps.bandwidth_gb_s(times, scale.read_bytes)

    def share(name: str) -> float:
        seconds = statistics.median(times[f"{name}, batch 1"]) / 1e3
        return 100 * engines[name].model.weight_bytes / seconds / 1e9 / gb_s

    fp32 = {rows: times[f"fp32, batch {rows}"] for rows in BATCHES}
    theirs = {rows: times[f"transformers.generate, batch {rows}"] for rows in BATCHES}
    mode = engines["fp32"].mode
    return [
        Row("memory bandwidth", gb_s, "GB/s", note=f"{scale.read_bytes / 1e6:.0f} MB {how}, all threads"),
        *(timed(name, own) for name, own in times.items() if "batch" in name),
        *(speed(name, rows, times[name]) for rows in BATCHES for name in times if name.endswith(f"batch {rows}")),
        ratio("decode, batch 1, against transformers.generate", theirs[1], fp32[1], 3.5),
        Row("decode, batch 1, of the bandwidth limit", share("fp32"), "%", 55.0, f"mode: {mode}"),
        ratio("decode, batch 8, against transformers.generate", theirs[8], fp32[8], 4.0),
        ratio("int8 weights, batch 1, against our fp32", fp32[1], times["int8 weights, batch 1"], 1.7),
        Row("bf16 weights, batch 1, of the bandwidth limit", share("bf16 weights"), "%"),
        Row("int8 weights, batch 1, of the bandwidth limit", share("int8 weights"), "%"),
        *int8_rows(TRAINED, kernels, scale.quality_texts),
    ]


def int8_rows(trained: Path, kernels: Path, texts: int) -> list[Row]:
    """What int8 weights change in a trained model, on text that was held out of its training."""
    names = ("int8, perplexity loss", "int8, same likeliest token", "int8, same greedy answers")
    if not (trained / "config.json").exists():
        return [Row(name, None, "%", note="the trained demo model, pydoc-llama, is not here") for name in names]
    from transformers import AutoConfig, AutoTokenizer

    from archives.pydoc.text import corpus
    from loadtest import llama_steps

    tokenizer = AutoTokenizer.from_pretrained(trained, local_files_only=True)
    most = AutoConfig.from_pretrained(trained, local_files_only=True).max_position_embeddings // 2
    ids = [tokenizer(each.text, truncation=True, max_length=most)["input_ids"] for each in corpus().held_out]
    chosen = [each for each in ids if len(each) >= 32][:texts]
    found = llama_steps.int8_quality(trained, kernels, chosen, answer_tokens=32)
    lost = 100 * (found.narrow_perplexity / found.perplexity - 1)
    return [
        Row(names[0], lost, "%", note=f"{found.perplexity:.3f} → {found.narrow_perplexity:.3f} a token"),
        Row(names[1], 100 * found.same_best, "%", note=f"of {found.tokens} held-out positions"),
        Row(names[2], 100 * found.same_answers, "%", note=f"of {found.answers} answers of 32 tokens"),
    ]


def serving(scale: Scale) -> list[Row]:
    """The same requests by 8 streaming clients and by the engine alone, which has all of them from the start."""
    from loadtest import llama_clients, llama_servers, llama_steps

    weights = scale.weights
    prompts = scale.prompts(scale.serving_requests)
    tokens = [scale.serving_tokens] * len(prompts)
    requests = [llama_clients.Planned(0, tuple(ids), scale.serving_tokens) for ids in prompts]
    kernels = llama_servers.artefacts(weights, scale.store)
    own = llama_steps.make_engine(weights, kernels, CLIENTS, max_length=512)
    answers: list[llama_clients.Answer] = []

    def alone() -> list[float]:
        started = time.perf_counter()
        made = llama_steps.engine_tokens(own, prompts, tokens)
        return [sum(map(len, made)) / (time.perf_counter() - started)]

    with llama_servers.continuous(weights, scale.store, scale.batch_size) as endpoint:

        def served() -> list[float]:
            answers[:] = llama_clients.closed_loop(endpoint, requests, CLIENTS, TIMEOUT_S)
            return [llama_clients.tokens_per_s(answers)]

        rates = llama_steps.in_turns({"alone": alone, "served": served}, scale.serving_turns)
    work = f"{len(requests)} requests of {scale.prompt} + {scale.serving_tokens} tokens, {CLIENTS} at a time"
    share = 100 * statistics.median(rates["served"]) / statistics.median(rates["alone"])
    return [
        Row(
            "engine alone, 8 rows",
            statistics.median(rates["alone"]),
            "tokens/s",
            note=f"{work}; {_turns(rates['alone'])}",
        ),
        Row(
            "through TorchServe, 8 streaming clients",
            statistics.median(rates["served"]),
            "tokens/s",
            note=_turns(rates["served"]),
        ),
        Row("time to the first token, median", 1e3 * statistics.median(each.ttft_s for each in answers), "ms"),
        Row("through TorchServe, of the engine alone", share, "%", 85.0),
    ]


def batching(scale: Scale) -> list[Row]:
    """Both ways to batch under the same timetables, by turns; each turn has a seed of its own."""
    from loadtest import arrivals, llama_clients, llama_servers

    weights = scale.weights
    answers: dict[str, list[list[Any]]] = {"continuous": [], "micro-batches": []}
    with (
        llama_servers.continuous(weights, scale.store, scale.batch_size) as continuous,
        llama_servers.micro_batching(weights, scale.store, scale.batch_size, delay_ms=10) as micro,
    ):
        endpoints = {"continuous": continuous, "micro-batches": micro}
        llama_clients.closed_loop(micro, _mixed(scale, [0.0] * CLIENTS, SEED), CLIENTS, TIMEOUT_S)  # a warm JVM
        started = time.perf_counter()
        full_house = _mixed(scale, [0.0] * scale.capacity_requests, SEED)
        llama_clients.closed_loop(continuous, full_house, scale.batch_size, TIMEOUT_S)
        capacity = len(full_house) / (time.perf_counter() - started)
        rate = RATE_SHARE * capacity
        for seed in range(SEED, SEED + scale.batching_turns):
            times_s = arrivals.poisson(rate, scale.arrivals_s, seed)
            timetable = _mixed(scale, times_s, seed)
            for name, endpoint in endpoints.items():
                give_up_s = scale.arrivals_s + scale.drain_s
                answers[name].append(llama_clients.open_loop(endpoint, timetable, give_up_s))
                # Behind whatever clients have given up on, so that the next turn finds an idle machine.
                llama_clients.closed_loop(endpoint, _mixed(scale, [0.0], SEED), 1, TIMEOUT_S)
    return [
        Row("capacity, continuous", capacity, "requests/s", note=f"closed loop of {scale.batch_size} clients"),
        Row("offered", rate, "requests/s", note=f"Poisson; {SHORTEST} to {LONGEST} new tokens, log-uniform"),
        *batching_rows(answers, scale.arrivals_s),
    ]


def batching_rows(answers: dict[str, list[list[Any]]], duration_s: float) -> list[Row]:
    """What came of the runs of "continuous" and "micro-batches", in which requests came for duration_s each."""
    from loadtest.llama_clients import goodput
    from loadtest.percentiles import interpolated

    good = {
        name: statistics.median(goodput(run, TTFT_SLO_S, duration_s) for run in runs) for name, runs in answers.items()
    }
    first_ms = {
        name: 1e3 * statistics.median(interpolated(sorted(answer.ttft_s for answer in run), 0.95) for run in runs)
        for name, runs in answers.items()
    }
    lags_s = sorted(answer.sent_s - answer.intended_s for runs in answers.values() for run in runs for answer in run)
    lag_ms = 1e3 * interpolated(lags_s, 0.99)
    invalid = f"not valid: the generator was late by {lag_ms:.0f} ms (p99)" if lag_ms > 1e3 * LAG_LIMIT_S else ""
    least = 1 / duration_s  # none at all is taken for one in a run
    none = "" if good["micro-batches"] >= least else "at least: of micro-batches, not one began in time"
    ours, theirs = "continuous", "micro-batches"
    slo = f"answered in full, TTFT ≤ {1e3 * TTFT_SLO_S:.0f} ms"
    return [
        *(Row(f"goodput, {name}", value, "requests/s", note=slo) for name, value in good.items()),
        *(Row(f"p95 TTFT, {name}", value, "ms", note=_counted(answers[name])) for name, value in first_ms.items()),
        Row("the generator's lag, p99", lag_ms, "ms"),
        Row("goodput, continuous against micro-batches",
            None if invalid else good[ours] / max(good[theirs], least), "×", 2.5, invalid or none),
        Row("p95 TTFT, micro-batches against continuous",
            None if invalid else first_ms[theirs] / first_ms[ours], "×", 4.0, invalid),
    ]  # fmt: skip


def stock(scale: Scale) -> list[Row]:
    """8 clients of this kit's server and of the article's, each with one request."""
    from loadtest import llama_clients, llama_servers, llama_steps

    weights = scale.weights
    requests = [llama_clients.Planned(0, tuple(ids), scale.stock_tokens) for ids in scale.prompts(CLIENTS)]

    def run(endpoint: llama_clients.Endpoint, ask: llama_clients.Ask) -> list[float]:
        return [llama_clients.tokens_per_s(llama_clients.closed_loop(endpoint, requests, CLIENTS, TIMEOUT_S, ask))]

    with (
        llama_servers.continuous(weights, scale.store, scale.batch_size) as kit,
        llama_servers.stock(weights, scale.store, CLIENTS, micro_batch_size=1) as theirs,
    ):
        rates = llama_steps.in_turns(
            {"kit": partial(run, kit, llama_clients.ask), "stock": partial(run, theirs, llama_clients.ask_stock)},
            scale.stock_turns,
        )
    work = f"{CLIENTS} clients, {scale.prompt} + {scale.stock_tokens} tokens each"
    return [
        Row("this kit, 8 clients", statistics.median(rates["kit"]), "tokens/s", note=f"{work}; {_turns(rates['kit'])}"),
        Row("stock micro-batching handler, 8 clients", statistics.median(rates["stock"]), "tokens/s",
            note=f"batchSize {CLIENTS}, micro_batch_size 1, default logging; {_turns(rates['stock'])}"),
        ratio("against the stock micro-batching handler", rates["kit"], rates["stock"], 4.0),
    ]  # fmt: skip


def peers(scale: Scale) -> list[Row]:
    """llama.cpp on the same weights, in a process of its own, by turns with the engine."""
    from loadtest import llama_peers, llama_servers, llama_steps

    weights = scale.weights
    pairs = {"f32": ("fp32", "none"), "q8_0": ("int8 weights", "int8")}
    try:
        version = llama_peers.version()
        files = {kind: llama_peers.convert(weights, weights.with_name(f"{kind}.gguf"), kind) for kind in pairs}
        load = partial(llama_peers.LlamaCpp, rows=max(BATCHES), positions=256, threads=torch.get_num_threads())
        with load(files["f32"]) as f32, load(files["q8_0"]) as q8_0:
            others = {"f32": f32, "q8_0": q8_0}
            kernels = llama_servers.artefacts(weights, scale.store)
            own = {
                kind: llama_steps.make_engine(weights, kernels, max(BATCHES), max_length=256, quantize=quantize)
                for kind, (_, quantize) in pairs.items()
            }
            with load(files["f32"], exact=True) as exact:
                same = _same_answers(scale, own["f32"], exact)
            calls: dict[str, Callable[[], list[float]]] = {}
            for rows in BATCHES:
                prompts = scale.prompts(rows)
                for kind in pairs:
                    calls[f"ours {kind} {rows}"] = partial(
                        llama_steps.engine_steps, own[kind], prompts, scale.engine_tokens
                    )
                    calls[f"llama.cpp {kind} {rows}"] = partial(_peer_steps, others[kind], prompts, scale.engine_tokens)
            times = llama_steps.in_turns(calls, scale.peer_turns)
    except llama_peers.NotInstalled as error:
        return [Row("against llama.cpp", None, "×", 1.0, f"not installed: {error}")]
    rows_out = [
        Row(
            "llama.cpp f32, same greedy answers as ours",
            100 * same,
            "%",
            note=f"llama-cpp-python {version}; speeds with its defaults, attention in half precision",
        )
    ]
    for rows in BATCHES:
        for kind, (name, _) in pairs.items():
            ours, theirs = times[f"ours {kind} {rows}"], times[f"llama.cpp {kind} {rows}"]
            rows_out += [
                speed(f"{name}, batch {rows}", rows, ours),
                speed(f"llama.cpp {kind}, batch {rows}", rows, theirs),
                ratio(f"{name} against llama.cpp {kind}, batch {rows}", theirs, ours, 1.0 if rows > 1 else None),
            ]
    return rows_out


def cuda(scale: Scale) -> list[Row]:
    """A GPU, where there is one."""
    from loadtest import llama_cuda

    names = ("CUDA, decode, batch 1, of the bandwidth limit", "CUDA, decode, batch 1, against transformers")
    if not llama_cuda.device_name():
        why = "no CUDA device was at hand"
        return [Row(names[0], None, "%", 70.0, why), Row(names[1], None, "×", 2.4, why)]
    found = llama_cuda.measure(
        prompt=scale.cuda_prompt, tokens=scale.cuda_tokens, turns=scale.cuda_turns,
        read_bytes=scale.cuda_read_bytes, tiny=scale.name == QUICK.name,
    )  # fmt: skip
    return cuda_rows(scale, found, names)


def cuda_rows(scale: Scale, found: dict[str, Any], names: tuple[str, str]) -> list[Row]:
    """What llama_cuda.measure found."""
    from loadtest import llama_steps

    times = found["steps_ms"]
    gb_s, how = llama_steps.bandwidth_gb_s(times, scale.cuda_read_bytes)
    share = 100 * found["weight_bytes"] / statistics.median(times["engine"]) / 1e6 / gb_s
    return [
        Row("CUDA, memory bandwidth", gb_s, "GB/s", note=f"{scale.cuda_read_bytes / 1e6:.0f} MB {how}"),
        timed("CUDA, transformers, eager, batch 1", times["transformers"]),
        timed("CUDA, the kit's engine, batch 1", times["engine"]),
        speed("CUDA, transformers, eager, batch 1", 1, times["transformers"]),
        speed("CUDA, the kit's engine, batch 1", 1, times["engine"]),
        Row("CUDA, greedy tokens alike from the start", found["same_tokens"], f"of {scale.cuda_tokens}"),
        Row(names[0], share, "%", 70.0, f"{scale.cuda_prompt} in, {scale.cuda_tokens} out, mode: {found['mode']}"),
        ratio(names[1], times["transformers"], times["engine"], 2.4),
    ]


PARTS: dict[str, Callable[[Scale], list[Row]]] = {
    "engine": engine,
    "serving": serving,
    "batching": batching,
    "stock": stock,
    "peers": peers,
    "cuda": cuda,
}


def measured_on(part: str) -> tuple[dict[str, Any], str]:
    """The machine's passport, and the same in a line. A GPU's is short: little is installed where one is lent."""
    if part == "cuda" and torch.cuda.is_available():
        versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
        date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
        device = torch.cuda.get_device_name(0)
        words = ", ".join(f"{name} {version}" for name, version in versions.items())
        return {"date": date, "device": device, "packages": versions}, f"{date}, {device}; {words}"
    from loadtest.passport import in_words, passport

    card = passport()
    return card, in_words(card)


def keeps(before: dict[str, Any] | None, rows: Sequence[Row]) -> bool:
    """Whether an older part stays: it has figures, perhaps of a machine with a GPU, and this run of it has none."""
    return bool(before and any(row["value"] is not None for row in before["rows"])) and all(
        row.value is None for row in rows
    )


def shown(value: float | None, unit: str) -> str:
    """A figure with as many digits as it deserves."""
    if value is None:
        return "–"
    digits = 2 if unit == "×" else 1 if abs(value) < 1000 else 0
    return f"{value:.{digits}f}{'' if unit in ('×', '%') else ' '}{unit}"


def verdict(row: Row) -> str:
    """Whether the target was reached."""
    if row.target is None:
        return ""
    return "–" if row.value is None else "yes" if row.value >= row.target else "no"


def cells(row: Row) -> list[str]:
    """A line of a table."""
    wanted = "" if row.target is None else f"≥ {row.target:g}{row.unit}"
    return [row.what, shown(row.value, row.unit), wanted, verdict(row), row.note]


HEAD = ("what", "measured", "to reach", "reached", "note")


def rows_of(document: dict[str, Any], part: str) -> list[Row]:
    """A part's rows out of the document."""
    return [Row(**row) for row in document["parts"][part]["rows"]]


def markdown(document: dict[str, Any]) -> str:
    """llama.md."""
    there = [part for part in PARTS if part in document["parts"]]
    targets = [row for part in there for row in rows_of(document, part) if row.target is not None]
    sections = "\n\n".join(
        f"## {part}\n\n{PARTS[part].__doc__}\n{document['parts'][part]['measured_on']}.\n\n"
        f"{markdown_table(HEAD, [cells(row) for row in rows_of(document, part)])}"
        for part in there
    )
    return f"""# Llama: decoding, serving and batching

Written by `make bench-llama`. Random weights in {document["model"]}.
Medians, measured by turns; a ratio is one of medians of the same run. Clients and servers share the CPUs.

{markdown_table(HEAD[:-1], [cells(row)[:-1] for row in targets])}

![figures](llama.png)

{sections}
"""


def write_plot(document: dict[str, Any], target: Path) -> None:
    """llama.png: every target, and every speed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    there = [part for part in PARTS if part in document["parts"]]
    rows = [(part, row) for part in there for row in rows_of(document, part) if row.value is not None][::-1]
    figure, panels = pyplot.subplots(1, 2, figsize=(14, 6.5), layout="constrained")
    aimed = [(row.what, (row.value or 0.0) / row.target) for _, row in rows if row.target]
    speeds = [(f"{part}: {row.what}", row.value) for part, row in rows if row.unit == "tokens/s"]
    for axes, bars, label, form in (
        (panels[0], aimed, "measured ÷ to reach", "%.2f"),
        (panels[1], speeds, "tokens/s", "%.0f"),
    ):
        drawn = axes.barh(range(len(bars)), [value for _, value in bars], color="#4c78a8")
        axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=8)
        axes.bar_label(drawn, fmt=form, padding=3, fontsize=8)
        axes.set_xlabel(label)
        axes.margins(x=0.15)
    panels[0].axvline(1.0, color="black", linewidth=0.8)
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def write(document: dict[str, Any], folder: Path) -> None:
    """llama.json, .md and .png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "llama.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    (folder / "llama.md").write_text(markdown(document))
    write_plot(document, folder / "llama.png")


README_ROWS = {
    "engine": (
        "decode, batch 1, of the bandwidth limit",
        "decode, batch 1, against transformers.generate",
        "decode, batch 8, against transformers.generate",
        "int8 weights, batch 1, against our fp32",
    ),
    "serving": ("through TorchServe, of the engine alone",),
    "batching": (
        "goodput, continuous against micro-batches",
        "p95 TTFT, micro-batches against continuous",
    ),
    "stock": ("against the stock micro-batching handler",),
    "peers": ("fp32 against llama.cpp f32, batch 8", "int8 weights against llama.cpp q8_0, batch 8"),
}


def readme(document: dict[str, Any]) -> str:
    """The README's table: the ratios."""
    rows = [
        (row.what, shown(row.value, row.unit))
        for part, wanted in README_ROWS.items()
        for row in rows_of(document, part)
        if row.what in wanted
    ]
    return markdown_table(("text generation, SmolLM-135M's shape", "measured"), rows)


def print_table(document: dict[str, Any]) -> None:
    """All rows, for people."""
    table = Table(*HEAD, box=None)
    for part in filter(document["parts"].get, PARTS):
        for row in rows_of(document, part):
            table.add_row(*cells(row))
    Console(highlight=False, width=max(TABLE_COLUMNS, out.width)).print(table)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, metavar="DIR", help="instead of docs/benchmarks")
    parser.add_argument("--quick", action="store_true", help="a tiny model and short runs: only to try it out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON document to FILE too")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else Scale()
    folder = arguments.out or (WORK / "quick" if arguments.quick else BENCHMARKS)
    earlier = folder / "llama.json"
    document: dict[str, Any] = json.loads(earlier.read_text()) if earlier.exists() else {"parts": {}}
    document["model"] = "a tiny shape, only to try the benchmark out" if arguments.quick else MODEL
    for part in arguments.only or PARTS:
        progress.print(f"{part}: {PARTS[part].__doc__}")
        started = time.perf_counter()
        rows = PARTS[part](scale)
        if not keeps(document["parts"].get(part), rows):
            card, words = measured_on(part)
            document["parts"][part] = {
                "passport": card,
                "measured_on": words,
                "seconds": round(time.perf_counter() - started, 1),
                "rows": [asdict(row) for row in rows],
            }
        write(document, folder)  # after each, so that a later part that fails costs nothing
    if folder == BENCHMARKS and all(part in document["parts"] for part in README_ROWS):
        write_readme("bench-llama", readme(document))
    print_table(document)
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document))


def _same_answers(scale: Scale, own: Any, peer: Any) -> float:
    """Share of 8 prompts that both continue with the same tokens: whether it is the same model at all."""
    from loadtest import llama_steps

    prompts = scale.prompts(8)
    ours = llama_steps.engine_tokens(own, prompts, [scale.engine_tokens] * 8)
    theirs = peer.run(prompts, scale.engine_tokens)["ids"]
    same = [a == b for a, b in zip(ours, theirs, strict=True)]
    if not any(same):
        raise RuntimeError("llama.cpp continues no prompt as the engine does: the GGUF file is another model")
    return float(sum(same) / len(same))


def _peer_steps(peer: Any, prompts: Sequence[Sequence[int]], tokens: int) -> list[float]:
    from loadtest.llama_steps import UNSTEADY_STEPS

    steps: list[float] = peer.run(prompts, tokens)["step_ms"]
    return steps[UNSTEADY_STEPS - 1 :]  # the prompt's own is not among them


def _mixed(scale: Scale, times_s: Sequence[float], seed: int) -> list[Any]:
    """Requests at these times, with answers of mixed lengths."""
    from loadtest.llama_clients import Planned, log_uniform

    ids = tuple(scale.prompts(1)[0])
    lengths = log_uniform(SHORTEST, LONGEST, len(times_s), seed)
    return [Planned(start_s, ids, tokens) for start_s, tokens in zip(times_s, lengths, strict=True)]


def _counted(runs: Sequence[Sequence[Any]]) -> str:
    answers = [answer for run in runs for answer in run]
    problems = sum(bool(answer.problem) for answer in answers)
    return f"{len(answers)} requests" + (f", {problems} not answered in full" if problems else "")


def _turns(values: Sequence[float]) -> str:
    """Turns that differ much say that the machine was not quiet."""
    return f"turns from {min(values):.0f} to {max(values):.0f}"


def _quartiles(values: Sequence[float]) -> str:
    if len(values) < 4:
        return f"{len(values)} steps"
    low, _, high = statistics.quantiles(values, n=4)
    return f"quartiles {low:.1f} to {high:.1f}, {len(values)} steps"


if __name__ == "__main__":
    main()
