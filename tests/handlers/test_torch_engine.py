"""The torch engine against transformers.generate, token for token, in every mode and any company."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from servekit.engines import llama
from servekit.engines.base import FixedInbox, Prompt, Sampling, Step
from servekit.engines.torch import TorchEngine
from servekit.settings import LlamaSettings
from tests.fakes.tiny_llama import make_tiny_llama

MODES = ("kernels", "eager")
EOS = 257


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("llama") / "model")


def make_engine(folder: Path, slots: int = 4, **changes: Any) -> TorchEngine:
    chosen = LlamaSettings.model_validate({"prefill_chunk": 16, **changes})
    return TorchEngine(folder, chosen, slots=slots, artefacts=folder, device="cpu")


@pytest.fixture(scope="module", params=MODES)
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[TorchEngine]:
    made = make_engine(folder, mode=request.param)
    assert made.mode == request.param
    made.warmup()
    yield made
    made.close()


class Arrivals:
    """An inbox whose prompts come in at given steps."""

    def __init__(self, prompts: Sequence[tuple[int, Prompt]], cancel: dict[str, int] | None = None) -> None:
        self.asked = 0
        self.waiting = sorted(prompts, key=lambda each: each[0])
        self.cancel = cancel or {}

    def take(self, most: int) -> list[Prompt]:
        self.asked += 1
        now = [prompt for step, prompt in self.waiting if step <= self.asked][:most]
        self.waiting = [each for each in self.waiting if each[1] not in now]
        if not now and self.waiting and most:  # idle rather than ended
            self.asked = self.waiting[0][0]
        return now

    def cancelled(self, key: str) -> bool:
        return self.asked >= self.cancel.get(key, 1 << 30)


def run(engine: TorchEngine, inbox: object) -> dict[str, list[Step]]:
    rows: dict[str, list[Step]] = {}
    for _ in range(100):
        for steps in engine.stream(inbox):  # type: ignore[arg-type]
            for step in steps:
                rows.setdefault(step.key, []).append(step)
        if not getattr(inbox, "waiting", None):
            break
    return rows


def tokens(steps: list[Step]) -> list[int]:
    return [step.token_id for step in steps if step.token_id is not None]


def prompts_of(lengths: Sequence[int], seed: int = 0) -> list[tuple[int, ...]]:
    chooser = random.Random(seed)
    return [tuple(chooser.randrange(256) for _ in range(length)) for length in lengths]


def reference(folder: Path, ids: tuple[int, ...], new: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([ids]), max_new_tokens=new, do_sample=False, pad_token_id=EOS, attention_mask=None
        )
    made = out[0, len(ids) :].tolist()
    return made[: made.index(EOS)] if EOS in made else made


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    starts=st.lists(st.integers(0, 12), min_size=6, max_size=6),
    seed=st.integers(0, 99),
)
def test_greedy_is_transformers_whatever_the_arrivals(
    engine: TorchEngine, folder: Path, lengths: list[int], starts: list[int], seed: int
) -> None:
    ids = prompts_of(lengths, seed)
    prompts = [(starts[n], Prompt(str(n), each, 5 + n, stop_ids=(EOS,))) for n, each in enumerate(ids)]
    rows = run(engine, Arrivals(prompts))
    for n, each in enumerate(ids):
        assert tokens(rows[str(n)]) == reference(folder, each, 5 + n)
        assert [step.finish for step in rows[str(n)][:-1]] == [None] * (len(rows[str(n)]) - 1)
        assert rows[str(n)][-1].finish in ("stop", "length")


def test_logits_are_the_same_bits_in_any_company(folder: Path) -> None:
    engine = make_engine(folder, slots=6, mode="kernels")
    sampling = Sampling(temperature=1.0, seed=5, logprobs=3)
    ids = prompts_of([30, 9, 17, 1, 44])
    alone = run(engine, FixedInbox([Prompt("0", ids[0], 20, sampling)]))["0"]
    many = [(n, Prompt(str(n), each, 20, sampling)) for n, each in enumerate(ids)]
    assert run(engine, Arrivals(many))["0"] == alone
    assert run(engine, Arrivals([(5 - n, prompt) for n, prompt in many]))["0"] == alone


def test_a_seed_gives_the_same_answer_and_no_seed_another(engine: TorchEngine) -> None:
    ids = prompts_of([12])[0]
    seeded = [run(engine, FixedInbox([Prompt("a", ids, 30, Sampling(1.0, seed=3))])) for _ in range(2)]
    assert seeded[0] == seeded[1]
    free = [tokens(run(engine, FixedInbox([Prompt("a", ids, 30, Sampling(1.0))]))["a"]) for _ in range(2)]
    assert free[0] != free[1]


def test_a_cancelled_row_ends_at_the_next_step_and_frees_its_slot(engine: TorchEngine, folder: Path) -> None:
    ids = prompts_of([5] * 5)
    prompts = [(0, Prompt(str(n), each, 40)) for n, each in enumerate(ids)]
    inbox = Arrivals(prompts, cancel={"1": 8})
    rows = run(engine, inbox)
    assert rows["1"][-1] == Step("1", finish="cancelled")
    assert len(tokens(rows["1"])) < 8
    for n in (0, 2, 3, 4):
        assert tokens(rows[str(n)]) == reference_without_stop(folder, ids[n], 40)


def reference_without_stop(folder: Path, ids: tuple[int, ...], new: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        out = model.generate(torch.tensor([ids]), max_new_tokens=new, do_sample=False, pad_token_id=EOS)
    made: list[int] = out[0, len(ids) :].tolist()
    return made


def test_the_last_position_ends_a_row(engine: TorchEngine) -> None:
    ids = prompts_of([100])[0]
    (steps,) = run(engine, FixedInbox([Prompt("a", ids, 1000)])).values()
    assert len(tokens(steps)) == 28
    assert steps[-1].finish == "length"


@pytest.mark.parametrize("ids", [(), (0,) * 128, (5, 258), (-1,)])
def test_an_impossible_prompt_harms_nobody(engine: TorchEngine, ids: tuple[int, ...]) -> None:
    good = prompts_of([5])[0]
    rows = run(engine, FixedInbox([Prompt("bad", ids, 3), Prompt("good", good, 3)]))
    assert [step.finish for step in rows["bad"]] == ["error"]
    assert len(tokens(rows["good"])) == 3


def test_an_error_ends_every_row_and_the_engine_goes_on(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no memory left")

    prompts = [Prompt(str(n), each, 4) for n, each in enumerate(prompts_of([5, 6]))]
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_decode", broken)
        rows = run(engine, FixedInbox(prompts))
    assert all(steps[-1].finish == "error" and "no memory left" in steps[-1].message for steps in rows.values())
    assert all(len(tokens(steps)) == 4 for steps in run(engine, FixedInbox(prompts)).values())


def test_a_flood_of_long_prompts_does_not_starve_anybody(engine: TorchEngine) -> None:
    """One chunk of 16 tokens at most between two tokens of a row, and a short prompt is read within one round."""
    long = prompts_of([96, 96, 96, 4])
    prompts = [
        (0, Prompt("talker", prompts_of([3])[0], 20)),
        *((2, Prompt(str(n), ids, 2)) for n, ids in enumerate(long[:2])),
    ]
    prompts.append((3, Prompt("short", long[3], 1)))
    order = [step.key for steps in engine.stream(Arrivals(prompts)) for step in steps]
    assert order.index("short") < order.index("0")
    assert order[: order.index("0")].count("talker") >= 10


def test_logprobs_are_of_the_model_not_of_the_filters(engine: TorchEngine, folder: Path) -> None:
    ids = prompts_of([9])[0]
    sampling = Sampling(temperature=0.5, top_k=2, seed=1, logprobs=4)
    (steps,) = run(engine, FixedInbox([Prompt("a", ids, 3, sampling)])).values()
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        truth = model(torch.tensor([[*ids, *tokens(steps)]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    for step, row in zip(steps, truth, strict=True):
        assert step.logprob == pytest.approx(float(row[step.token_id]), abs=1e-4)
        assert [token for token, _ in step.top_logprobs] == row.topk(4).indices.tolist()


def test_narrow_weights_stay_near(folder: Path) -> None:
    """int8 and bf16 weights, read by the same kernels."""
    ids = prompts_of([20])[0]
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        truth = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    for key, value in (("quantize", "int8"), ("amp", "bf16")):
        narrow: dict[str, Any] = {key: value}
        engine = make_engine(folder, mode="kernels", **narrow)
        whole = run(engine, FixedInbox([Prompt("a", ids, 1, Sampling(logprobs=5))]))["a"][0]
        # The last token again, as a decode step after a prompt that is one shorter.
        step = run(engine, FixedInbox([Prompt("a", ids[:-1], 1)]))["a"][0]
        assert step.finish == "length"
        again = engine._decode([ids[-1]], [0], [len(ids) - 1])[0].log_softmax(-1)
        assert whole.logprob == pytest.approx(float(truth[whole.token_id]), abs=0.2)
        assert whole.logprob == pytest.approx(float(again[whole.token_id]), abs=1e-3)


def test_other_models_are_refused_with_a_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(llama.UnsupportedModel, match="model_type 'gpt2': the torch engine runs llama, mistral"):
        make_engine(tmp_path)
    with pytest.raises(ValueError, match="max_length: 4096 is more than the model's 128 positions"):
        make_engine(folder, max_length=4096)
