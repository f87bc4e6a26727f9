"""Embeddings against what else serves them on a CPU, in one run on one machine: python -m loadtest.bench_peers.

in_process: eager, this kit by precision and ONNX Runtime, by turns. quality: what fewer bits cost. start: how long a
worker takes to start, and its memory. http: this kit, the article's recipe on TorchServe's defaults, LitServe and
infinity under the same load, by turns.
Every ratio stands beside its target. What cannot be installed or does not start is in the tables with the reason.
Writes peers.json, .md and .png; parts that --only leaves out stay as they were. The last line is the JSON document.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from loadtest.benchmark import Benchmark, Found
from loadtest.peers import in_process, models, pages, quality, start, through_http


@dataclass(frozen=True)
class Scale:
    """How long each part is."""

    shape_s: float
    turns: int
    bursts: int
    mixed_texts: int | None
    sentences: int
    payloads: tuple[str, ...]
    passages: int | None
    starts: int
    compiling: bool
    memory_texts: int
    http: through_http.Scale


FULL = Scale(
    shape_s=10.0, turns=5, bursts=2, mixed_texts=None, sentences=2000, payloads=quality.PAYLOADS, passages=None,
    starts=5, compiling=True, memory_texts=384,
    http=through_http.Scale(
        turns=2, warmup_s=0.5, closed_s=5.0, one_client_s=6.0, open_s=5.0, settle_s=1.0, idle_s=10.0
    ),
)  # fmt: skip
QUICK = Scale(
    shape_s=0.0, turns=1, bursts=1, mixed_texts=32, sentences=20, payloads=(), passages=20, starts=1, compiling=False,
    memory_texts=32,
    http=through_http.Scale(
        turns=1, warmup_s=0.2, closed_s=1.0, one_client_s=1.0, open_s=1.0, settle_s=0.2, idle_s=2.0,
        workloads=("short_queries", "mixed"), shares=(0.5,),
    ),
)  # fmt: skip


def measure_in_process(scale: Scale) -> Found:
    """Token ids to vectors at four shapes, and texts of mixed lengths to vectors, each side in a process of its own.

    All have as many threads as there are CPUs and the same inputs, by turns; ONNX Runtime's graph as exported and with
    fused attention, of which a ratio takes the faster. Batches of 32 are padded as each does it: sentence-transformers
    and ONNX Runtime sort by length and pad, this kit sorts and packs.
    """
    return in_process.measure(scale.shape_s, scale.turns, scale.bursts, scale.mixed_texts)


def measure_quality(scale: Scale) -> Found:
    """Cosines to sentence-transformers' float32 vectors, and nDCG@10 of an exact search in CPython's topics."""
    return quality.measure(scale.sentences, scale.payloads, scale.passages)


def measure_start(scale: Scale) -> Found:
    """TorchServe's worker process on an unpacked archive, with no Java in front and no cache of earlier starts.

    Memory is read when it has embedded the mixed set, 32 texts at a time.
    """
    return start.measure(scale.starts, scale.memory_texts, compiling=scale.compiling)


def measure_http(scale: Scale) -> Found:
    """One text a request, the kit's own clients and timetables on the same CPUs, the same for every server, by turns.

    All servers run at once and are idle while another is measured. An open loop's rates are shares of what this kit
    answers at most in a closed loop, the same for all; there latency counts from the intended time.
    """
    return through_http.measure(scale.http)


PARTS: dict[str, Callable[[Scale], Found]] = {
    "in_process": measure_in_process,
    "quality": measure_quality,
    "start": measure_start,
    "http": measure_http,
}
BENCHMARK = Benchmark(
    name="peers", parts=PARTS, full=FULL, quick=QUICK, work=models.WORK, write=pages.writer(PARTS), readme=pages.readme,
    cells=pages.cells, head=pages.HEAD,
)  # fmt: skip


def main() -> None:
    """See the module's docstring."""
    # Servers end with their context managers, also when this is told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    BENCHMARK.main(__doc__ or "")


if __name__ == "__main__":
    main()
