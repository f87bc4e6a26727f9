"""What one step of decoding takes in this process: transformers.generate, the kit's engine, and reading memory.

Also what int8 weights cost in quality. Knows nothing of servers.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from servekit.engines import llama
from servekit.engines.base import FixedInbox, Prompt
from servekit.engines.torch import TorchEngine
from servekit.settings import LlamaSettings

Steps = Callable[[], list[float]]
"""Decodes for a while. Returns milliseconds of each step in which every row gained a token."""

UNSTEADY_STEPS = 2
"""At the start of an answer: the prompt's, and the first that finds the prompt's work in the caches."""


class _Clock:
    """A transformers streamer that only notes when tokens come."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times_s.append(time.perf_counter())

    def end(self) -> None:
        pass


def make_engine(folder: Path, artefacts: Path, rows: int, device: str = "cpu", **settings: Any) -> TorchEngine:
    """The kit's engine. settings: servekit.settings.LlamaSettings' keys; artefacts: where its kernels are."""
    chosen = LlamaSettings.model_validate(settings)
    return TorchEngine(folder, chosen, slots=rows, artefacts=artefacts, device=device)


def load_transformers(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The reference, told not to end before it has as many tokens as were asked for."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()
    model.generation_config.eos_token_id = None
    return model


def generate(model: Any, prompts: Sequence[Sequence[int]], tokens: int, streamer: Any = None) -> list[list[int]]:
    """transformers.generate, greedy; prompts of one length. Returns the new tokens of each row."""
    ids = torch.tensor(prompts, device=model.device)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0,
        streamer=streamer,
    )  # fmt: skip
    made: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return made


def transformers_steps(model: Any, prompts: Sequence[Sequence[int]], tokens: int) -> list[float]:
    """See Steps."""
    clock = _Clock()
    generate(model, prompts, tokens, clock)
    return gaps_ms(clock.times_s)[UNSTEADY_STEPS:]  # the first time is the prompt's own


def engine_steps(engine: TorchEngine, prompts: Sequence[Sequence[int]], tokens: int) -> list[float]:
    """See Steps."""
    rows = [Prompt(str(n), tuple(ids), tokens) for n, ids in enumerate(prompts)]
    # While prompts are read, not every row gains.
    times_s = [time.perf_counter() for steps in engine.stream(FixedInbox(rows)) if len(steps) == len(rows)]
    return gaps_ms(times_s)[UNSTEADY_STEPS:]


def engine_tokens(engine: TorchEngine, prompts: Sequence[Sequence[int]], tokens: Sequence[int]) -> list[list[int]]:
    """What the engine makes of the prompts, greedy, as many at a time as it has room for."""
    made: list[list[int]] = [[] for _ in prompts]
    rows = [Prompt(str(n), tuple(ids), count) for n, (ids, count) in enumerate(zip(prompts, tokens, strict=True))]
    for steps in engine.stream(FixedInbox(rows)):
        for step in steps:
            if step.token_id is not None:
                made[int(step.key)].append(step.token_id)
    return made


def in_turns(calls: Mapping[str, Callable[[], list[float]]], turns: int) -> dict[str, list[float]]:
    """What each one measures: a turn each that does not count, then `turns` rounds in the same order.

    What a noisy neighbour costs falls on all alike, as in servekit.timing.by_turns; a call here is a whole run.
    """
    figures: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            own = call()
            if turn:
                figures[name] += own
    return figures


def readers(size_bytes: int, device: str = "cpu") -> dict[str, Steps]:
    """Ways to read so many bytes of memory once, with all threads; the fastest comes nearest to what memory gives."""
    numbers = torch.rand(size_bytes // 4, device=device)
    matrix = numbers[: len(numbers) // 4096 * 4096].view(-1, 4096)
    vector = torch.ones(4096, device=device)
    ways: dict[str, Callable[[], Tensor]] = {
        "sum": numbers.sum,
        "max": numbers.amax,
        "dot": lambda: numbers.dot(numbers),
        "matrix by vector": lambda: matrix.mv(vector),
    }

    def timed(way: Callable[[], Tensor]) -> list[float]:
        return [_timed_ms(way, device) for _ in range(3)]

    return {f"read by {name}": lambda way=way: timed(way) for name, way in ways.items()}  # type: ignore[misc]


def bandwidth_gb_s(times_ms: Mapping[str, list[float]], size_bytes: int) -> tuple[float, str]:
    """10^9 bytes a second of the best way to read, by its median, and its name."""
    medians = {name: statistics.median(own) for name, own in times_ms.items() if name.startswith("read by ")}
    best = min(medians, key=lambda name: medians[name])
    return size_bytes / medians[best] / 1e6, best


def gaps_ms(times_s: Sequence[float]) -> list[float]:
    """Milliseconds between neighbours."""
    return [1e3 * (after - before) for before, after in pairwise(times_s)]


@dataclass(frozen=True)
class Quality:
    """What narrow weights change, on text that the model was not trained on.

    perplexity, narrow_perplexity: of a token. same_best: share of positions whose likeliest next token is the same.
    same_answers: share of greedy answers that are the same to the last token.
    """

    tokens: int
    perplexity: float
    narrow_perplexity: float
    same_best: float
    answers: int
    same_answers: float


@torch.inference_mode()
def int8_quality(folder: Path, artefacts: Path, texts: Sequence[Sequence[int]], answer_tokens: int) -> Quality:
    """float32 and int8 weights on the same texts of token ids, each at most what the model was made for."""
    longest = max(map(len, texts))
    both = {}
    for name, int8 in (("whole", False), ("narrow", True)):
        model = llama.load(
            folder, torch.float32, torch.float32, int8=int8, positions=longest, device=torch.device("cpu")
        )
        model.make_cache(1, longest)
        both[name] = [_next_logprobs(model, ids) for ids in texts]
    truth = [torch.tensor(ids[1:]) for ids in texts]
    counted = sum(map(len, truth))
    nats = {
        name: -sum(float(own.gather(1, ids[:, None]).sum()) for own, ids in zip(logprobs, truth, strict=True)) / counted
        for name, logprobs in both.items()
    }
    agree = sum(int((a.argmax(1) == b.argmax(1)).sum()) for a, b in zip(both["whole"], both["narrow"], strict=True))
    starts = [ids[: len(ids) // 2] for ids in texts]
    answers = []
    for quantize in ("none", "int8"):
        engine = make_engine(folder, artefacts, min(8, len(texts)), quantize=quantize)
        answers.append(engine_tokens(engine, starts, [answer_tokens] * len(starts)))
        engine.close()
    same = sum(a == b for a, b in zip(*answers, strict=True))
    return Quality(
        counted, math.exp(nats["whole"]), math.exp(nats["narrow"]), agree / counted, len(starts), same / len(starts)
    )


def _next_logprobs(model: llama.Llama, ids: Sequence[int]) -> Tensor:
    """[len(ids) - 1, vocab]: what the model expects after each token."""
    positions = torch.arange(len(ids) - 1)[None]
    hidden = model(torch.tensor([ids[:-1]]), positions, None, len(ids) - 1)
    return model.logits(hidden)[0].log_softmax(-1)


def _timed_ms(call: Callable[[], Tensor], device: str) -> float:
    started = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - started)
