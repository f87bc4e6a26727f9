"""The torch engine's mode compile: transformers' tokens, one graph for each size, and none made while it serves."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch._inductor.codecache import PyCodeCache

from servekit.engines.base import Prompt
from servekit.engines.torch import TorchEngine
from servekit.generation.loop import EngineLoop
from tests.fakes.tiny_llama import make_tiny_llama
from tests.handlers.test_torch_engine import EOS, Arrivals, make_engine, prompts_of, reference, run, tokens

WINDOWS = (128, 256)
CHUNK = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("llama") / "model", max_position_embeddings=WINDOWS[-1])


@pytest.fixture(scope="module")
def others() -> list[ModuleType]:
    """Graphs of tests before these."""
    return list(PyCodeCache.modules)


@pytest.fixture(scope="module")
def engine(folder: Path, others: list[ModuleType]) -> Iterator[TorchEngine]:
    """Three graphs: a chunk, and a step in each window."""
    made = make_engine(folder, mode="compile")
    before = counters["stats"]["unique_graphs"]
    assert [name for name, _ in made.warmup()] == ["chunk of 16", "step in 128", "step in 256"]
    assert counters["stats"]["unique_graphs"] - before == 3
    yield made
    made.close()


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.sampled_from([1, 15, 16, 17, 33, 120, 127, 128, 200]), min_size=1, max_size=6),
    starts=st.lists(st.integers(0, 12), min_size=6, max_size=6),
    seed=st.integers(0, 99),
)
def test_greedy_is_transformers_and_nothing_compiles(
    engine: TorchEngine, folder: Path, lengths: list[int], starts: list[int], seed: int
) -> None:
    """Lengths on both sides of every bucket, in every slot, with arrivals between steps and a row that is cancelled."""
    ids = prompts_of(lengths, seed)
    prompts = [(starts[n], Prompt(str(n), each, 4 + n, stop_ids=(EOS,))) for n, each in enumerate(ids)]
    gone = (0, Prompt("gone", ids[0], 100))
    rows = run(engine, Arrivals([*prompts, gone], cancel={"gone": 6}))
    for n, each in enumerate(ids):
        assert tokens(rows[str(n)]) == reference(folder, each, 4 + n)
    assert engine.recompiles == 0


def test_the_engines_own_thread_serves_what_another_has_warmed(engine: TorchEngine, folder: Path) -> None:
    """Guards hold for threads too: inference mode, the number of threads, the current device."""
    loop = EngineLoop(engine)
    loop.start()
    ids = prompts_of([3, 50, 130])
    for n, each in enumerate(ids):
        loop.submit(Prompt(str(n), each, 5, stop_ids=(EOS,)))
    made: dict[str, list[int]] = {str(n): [] for n in range(len(ids))}
    while loop.in_flight:
        for key, steps in loop.collect(20.0).items():
            made[key] += tokens(steps)
    loop.close()
    assert made == {str(n): reference(folder, each, 5) for n, each in enumerate(ids)}
    assert engine.recompiles == 0


def test_step_and_chunk_are_one_graph_each(engine: TorchEngine) -> None:
    """Compiled without fullgraph, which would raise: each break would make another graph."""
    ids, positions = torch.zeros(4, 1, dtype=torch.int64), torch.zeros(4, 1, dtype=torch.int64)
    breaks = dict(counters["graph_break"])
    with torch.inference_mode():
        step, chunk = CompileCounter(), CompileCounter()
        torch.compile(engine._all_slots, backend=step, dynamic=False)(128, ids, positions)
        chunk_ids, slot = torch.zeros(1, CHUNK, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        torch.compile(engine._one_slot, backend=chunk, dynamic=False)(256, chunk_ids, chunk_ids, slot)
    assert (step.frame_count, chunk.frame_count) == (1, 1)
    assert dict(counters["graph_break"]) == breaks


def test_no_graph_copies_the_cache(engine: TorchEngine, others: list[ModuleType]) -> None:
    """Written through a view, each layer's cache would be copied at every step, into a buffer of its size."""
    files = {str(module.__file__) for module in PyCodeCache.modules if module not in others}
    sources = [Path(file).read_text() for file in files]
    shapes = [re.findall(r"empty_strided_cpu\(\(([\d, ]+)\)", source) for source in sources]
    numbers = [math.prod(int(size) for size in shape.split(",") if size.strip()) for own in shapes for shape in own]
    assert numbers
    assert max(numbers) < engine.model.keys[0].numel()


def test_a_graph_that_is_made_while_serving_is_counted(engine: TorchEngine) -> None:
    before = engine.recompiles
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1))
    assert engine.recompiles == before + 1


def test_more_sizes_than_torch_keeps_by_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch gives up after eight sizes of one function; the engine knows how many it has."""
    monkeypatch.setattr("servekit.engines.torch.SMALLEST_WINDOW", 1)
    engine = make_engine(folder, mode="compile")
    assert len(engine._window_buckets()) == 9
    counted = CompileCounter()
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **k: compile_(*a, **k, backend=counted))
    step = engine._compiled(engine._all_slots)
    zeros = torch.zeros(4, 1, dtype=torch.int64)
    with torch.inference_mode():
        for window in engine._window_buckets():
            step(window, zeros, zeros)
    assert counted.frame_count == 9
