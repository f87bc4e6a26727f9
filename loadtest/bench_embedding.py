"""The embedding handler's ladder, in this process and through HTTP: python -m loadtest.bench_embedding.

In process, seed 000's steps on one model and the same inputs, in short bursts by turns, so that noise hits all alike:
eager → torch.compile → + frozen, prepacked weights → + inference_mode, then what is compiled ahead of time: Inductor's
package and the kit's kernels.
Through HTTP, closed loops of 1 and 32 clients against the server that `kit.py serve` starts.
Writes docs/benchmarks/embedding.json, .md and .png, and the table in README.md; the last line is the JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from archives import STORE, assets, build
from deploy import local, readiness
from deploy.render import Ports, ServerOptions
from loadtest.figures import BENCHMARKS, write_readme
from loadtest.passport import in_words, passport
from model_configs.archive_files import read_golden
from model_configs.schema import AnyModelConfig, load_model
from servekit.encoders import Encoder, load_encoder
from servekit.encoders.module import EncoderSpec, encoder_spec, load_module
from servekit.timing import BURST, by_turns

ISSUE_SHAPES = [(1, 13), (1, 78), (8, 45), (32, 65)]
STEPS = {
    "eager": "eager",
    "compile": "torch.compile",
    "freezing": "+ freezing, prepack",
    "inference_mode": "+ inference_mode",
    "aot": "AOTInductor package",
    "kernels": "the kit's kernels",
}
SECONDS_PER_SHAPE = 20.0
AT_LEAST = 5
HTTP_PORT = 18180
HTTP_SECONDS = 10.0
WORDS = ("what", "how", "does", "the", "python", "with", "statement", "open", "file", "list", "class")

Forward = Callable[[torch.Tensor, torch.Tensor], Any]
out = Console(highlight=False)


def yaml_shapes(config: AnyModelConfig, spec: EncoderSpec) -> list[tuple[int, int]]:
    """The grid of buckets that the YAML names, with the largest batch and length."""
    settings = config.handler.compile
    batches = sorted({*settings.batch_buckets, spec.max_batch})
    lengths = sorted({*settings.length_buckets, spec.max_length})
    return [(batch, length) for batch in batches for length in lengths]


def compiled_ahead(config: AnyModelConfig, weights: Path) -> dict[str, Encoder]:
    """Inductor's package and, where they know the model and this CPU, the kernels; prepared if need be."""
    found = {}
    for backend in ("inductor", "auto"):
        settings = config.handler.compile.model_copy(update={"backend": backend, "require_artifacts": True})
        own = config.model_copy(update={"handler": config.handler.model_copy(update={"compile": settings})})
        artefacts = assets.prepare(own, weights, STORE / ".prepared")
        encoder = load_encoder(encoder_spec(config.model.name, weights, own.handler), settings, artefacts)
        found[encoder.mode] = encoder
    return found


def make_steps(spec: EncoderSpec, ahead: Mapping[str, Encoder]) -> dict[str, Forward]:
    """One callable a step. Each compiled one has a backend of its own, so that Dynamo never mixes their graphs."""
    module = load_module(spec)
    plain, frozen = {"freezing": False}, {"freezing": True, "cpp.weight_prepack": True}
    compiled = {
        name: (torch.compile(module, dynamic=False, fullgraph=True, options=dict(options)), options)
        for name, options in (("compile", plain), ("freezing", frozen), ("inference_mode", frozen))
    }

    def run(name: str, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        if name in ahead:
            return ahead[name](ids.tolist())
        no_gradient = torch.inference_mode if name == "inference_mode" else torch.no_grad
        if name == "eager":
            with no_gradient():
                return module(ids, mask)
        function, options = compiled[name]
        # Dynamo looks at the global switch while it traces, Inductor at the options.
        with torch._inductor.config.patch(options), no_gradient():
            return function(ids, mask)

    def bind(name: str) -> Forward:
        return lambda ids, mask: run(name, ids, mask)

    return {name: bind(name) for name in STEPS if name in ahead or name not in ("aot", "kernels")}


def measure(steps: dict[str, Forward], shape: tuple[int, int]) -> dict[str, float]:
    """Median milliseconds of each step on one shape, after checking that they compute the same."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20_000, shape, generator=generator)
    mask = torch.ones_like(ids)
    expected = steps["eager"](ids, mask)
    for step in steps.values():
        for _ in range(3):
            torch.testing.assert_close(step(ids, mask), expected, atol=1e-4, rtol=1e-3)
    calls = {name: partial(step, ids, mask) for name, step in steps.items()}
    return {
        name: round(statistics.median(times), 2) for name, times in by_turns(calls, SECONDS_PER_SHAPE, AT_LEAST).items()
    }


def in_process(config: AnyModelConfig, weights: Path) -> list[dict[str, Any]]:
    """A row a shape: the issue's four, then the YAML's buckets."""
    spec = encoder_spec(config.model.name, weights, config.handler)
    shapes = list(dict.fromkeys([*ISSUE_SHAPES, *yaml_shapes(config, spec)]))
    torch._dynamo.config.recompile_limit = len(shapes) * len(STEPS)
    steps = make_steps(spec, compiled_ahead(config, weights))
    return [
        {"batch": shape[0], "tokens": shape[1], "ms": measure(steps, shape)}
        for shape in track(shapes, description="in process", console=Console(stderr=True))
    ]


def closed_loop(server: local.Server, model: str, clients: int) -> dict[str, Any]:
    """clients threads, each sending its next short query when the last one is answered, for HTTP_SECONDS."""

    def client(number: int) -> list[float]:
        connection = server.inference()
        latencies: list[float] = []
        while time.perf_counter() < end:
            text = " ".join(WORDS[(number + n + len(latencies)) % len(WORDS)] for n in range(8 + number % 8))
            started = time.perf_counter()
            reply = connection.post(f"/predictions/{model}", text.encode(), "text/plain")
            latencies.append(1e3 * (time.perf_counter() - started))
            if reply.status != 200:
                raise RuntimeError(f"{reply.status}: {reply.body[:200]!r}")
        return latencies

    end = time.perf_counter() + HTTP_SECONDS
    with ThreadPoolExecutor(clients) as pool:
        latencies = sorted(latency for own in pool.map(client, range(clients)) for latency in own)
    return {
        "clients": clients,
        "requests_per_s": round(len(latencies) / HTTP_SECONDS, 1),
        "p50_ms": round(statistics.median(latencies), 1),
        "p95_ms": round(latencies[int(0.95 * len(latencies))], 1),
    }


def through_http(config: AnyModelConfig, archive: build.Archive) -> dict[str, Any]:
    """Start, twice, to the first right answer; then the closed loops."""
    served = local.served_model(config, archive.path.name, read_golden(archive.path))
    starts = []
    for _ in range(2):
        started = time.perf_counter()
        server = local.start(ServerOptions(STORE, Ports(HTTP_PORT)), [served])
        try:
            readiness.wait_ready(server)
            starts.append(round(time.perf_counter() - started, 1))
            if len(starts) == 2:
                closed_loop(server, config.model.name, 8)  # warm the JVM
                loops = [closed_loop(server, config.model.name, clients) for clients in (1, 32)]
        finally:
            local.stop(server)
    return {"start_to_right_answer_s": starts, "closed_loop": loops}


def steps_of(document: dict[str, Any]) -> list[str]:
    """Those that were measured; what is served comes last."""
    return list(document["in_process"][0]["ms"])


def write_markdown(document: dict[str, Any]) -> None:
    """docs/benchmarks/embedding.md."""
    steps = steps_of(document)
    head = "| batch × tokens | " + " | ".join(STEPS[name] for name in steps) + " | eager ÷ served |"
    lines = [head, "|" + "---|" * (len(steps) + 2)]
    for row in document["in_process"]:
        ms = row["ms"]
        cells = " | ".join(f"{ms[name]:.1f}" for name in steps)
        lines.append(f"| {row['batch']} × {row['tokens']} | {cells} | {ms['eager'] / ms[steps[-1]]:.2f} |")
    http = document["http"]
    loops = [
        f"| {loop['clients']} | {loop['requests_per_s']} | {loop['p50_ms']} | {loop['p95_ms']} |"
        for loop in http["closed_loop"]
    ]
    text = f"""# Embeddings: {document["model"]}

Written by `make bench`. {in_words(document["passport"])}.

Median milliseconds in process, {document["threads"]} threads, steps by turns in bursts of {BURST}:

{chr(10).join(lines)}

![ladder](embedding.png)

Through HTTP, short queries of 8 to 15 words, one a request, clients on the same CPUs:

| clients | requests/s | p50 ms | p95 ms |
|---|---|---|---|
{chr(10).join(loops)}

From `torchserve --start` to the first right answer: {" s, then ".join(map(str, http["start_to_right_answer_s"]))} s.
"""
    (BENCHMARKS / "embedding.md").write_text(text)


def write_plot(document: dict[str, Any]) -> None:
    """docs/benchmarks/embedding.png: speed against eager for each step and shape."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = document["in_process"]
    figure, axes = pyplot.subplots(figsize=(11, 4.5), layout="constrained")
    steps = steps_of(document)
    width = 0.8 / len(steps)
    for place, name in enumerate(steps):
        heights = [row["ms"]["eager"] / row["ms"][name] for row in rows]
        axes.bar([x + place * width for x in range(len(rows))], heights, width, label=STEPS[name])
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(rows))], [f"{r['batch']}×{r['tokens']}" for r in rows])
    axes.set_xlabel("batch × tokens")
    axes.set_ylabel("speed, eager = 1")
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_title(f"{document['model']}, {document['threads']} threads, {document['passport']['cpu']}", fontsize=10)
    axes.margins(y=0.15)
    axes.legend(ncols=len(steps), fontsize=8, loc="upper center")
    figure.savefig(BENCHMARKS / "embedding.png", dpi=110)


def write_readme_table(document: dict[str, Any]) -> None:
    """The figures between the two marks of README.md."""
    one, many = document["http"]["closed_loop"]
    served = steps_of(document)[-1]
    by_shape = {(row["batch"], row["tokens"]): row["ms"] for row in document["in_process"]}
    speed = "; ".join(
        f"{by_shape[shape]['eager'] / by_shape[shape][served]:.2f}× at {shape[0]}×{shape[1]}" for shape in ISSUE_SHAPES
    )
    start_s = document["http"]["start_to_right_answer_s"][-1]
    table = f"""| model | against eager, in process | 1 client | 32 clients | start to first right answer |
|---|---|---|---|---|
| {document["model"]} | {speed} | p50 {one["p50_ms"]} ms, {one["requests_per_s"]:.0f} requests/s \
| p95 {many["p95_ms"]} ms, {many["requests_per_s"]:.0f} requests/s | {start_s} s |

{in_words(document["passport"])}. All of it: [docs/benchmarks/embedding.md](docs/benchmarks/embedding.md)."""
    write_readme("bench", table)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON document to FILE too")
    arguments = parser.parse_args()
    config = load_model(arguments.model)
    weights = assets.find_weights(config)
    archive = build.build(config)
    http = through_http(config, archive)
    rows = in_process(config, weights)
    document = {
        "model": arguments.model,
        "passport": passport(),
        "threads": torch.get_num_threads(),
        "http": http,
        "in_process": rows,
    }
    steps = steps_of(document)
    table = Table("batch", "tokens", *(STEPS[name] for name in steps), box=None)
    for row in rows:
        table.add_row(str(row["batch"]), str(row["tokens"]), *(str(row["ms"][name]) for name in steps))
    out.print(table)
    BENCHMARKS.mkdir(parents=True, exist_ok=True)
    for path in filter(None, (BENCHMARKS / "embedding.json", arguments.json)):
        path.write_text(json.dumps(document, indent=2) + "\n")
    write_markdown(document)
    write_plot(document)
    write_readme_table(document)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
