"""What every engine promises, asked of every engine: transformers' own text, one end for each row, life after errors.

Each runs the same tiny Llama: torch by kernels, in eager PyTorch; Neuron over the stand-in of its library; openai over a
server that answers with transformers.generate.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from servekit.engines import load_engine
from servekit.engines.base import Engine, FixedInbox, Prompt, Sampling, Step
from servekit.generation.text import TextStream
from servekit.settings import LlamaSettings
from tests.fakes import neuron_image
from tests.fakes.tiny_llama import make_tiny_llama
from tests.handlers.test_openai_engine import Exchange, Upstream

ENGINES = {
    "torch-kernels": {"mode": "kernels", "prefill_chunk": 16},
    "torch-eager": {"mode": "eager", "prefill_chunk": 16},
    "neuron": {"tp_degree": 2, "amp": "f32"},
    "openai": {},
}
ROWS = 3
EOS = 257


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("engines")
    make_tiny_llama(root / "model")
    return root


@pytest.fixture(scope="module")
def tokenizer(archive: Path) -> Any:
    return AutoTokenizer.from_pretrained(archive / "model")


@pytest.fixture(scope="module")
def reference(archive: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(archive / "model")


def generate(reference: Any, ids: tuple[int, ...], new: int, *, eos: bool = True) -> list[int]:
    given = torch.tensor([ids])
    with torch.inference_mode():
        out = reference.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=EOS,
            eos_token_id=EOS if eos else None,
        )
    made: list[int] = out[0, len(ids) :].tolist()
    return made[: made.index(EOS)] if eos and EOS in made else made


@pytest.fixture(scope="module")
def upstream(reference: Any, tokenizer: Any) -> Iterator[str]:
    """The URL of an OpenAI-compatible server that computes."""

    def complete(exchange: Exchange, body: dict[str, Any]) -> None:
        ids = tuple(body["prompt"])
        if not all(0 <= token < 258 for token in ids):
            exchange.reply(400, {"error": {"message": "a token that is not in the vocabulary"}})
            return
        made = generate(reference, ids, body["max_tokens"])
        text = TextStream(tokenizer)
        exchange.begin()
        for token in made:
            exchange.chunk(text.push(token))
        exchange.chunk(text.finish(), "stop" if len(made) < body["max_tokens"] else "length")
        exchange.end()

    with Upstream() as server:
        server.scripts = defaultdict(lambda: complete)
        server.models = (200, {"object": "list", "data": [{"id": "tiny", "max_model_len": 128}]})
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server.url
        server.shutdown()
        serving.join()


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, archive: Path) -> Iterator[Engine]:
    chosen: dict[str, Any] = dict(ENGINES[request.param])
    if request.param == "openai":
        chosen["upstream"] = {"base_url": request.getfixturevalue("upstream")}
    with pytest.MonkeyPatch.context() as patch:
        neuron_image.enter(patch)
        settings = LlamaSettings.model_validate(chosen)
        made = load_engine("tiny", archive, settings, rows=ROWS, device="cpu", place=0, workers=1)
        made.warmup()
        yield made
        made.close()


def run(engine: Engine, inbox: FixedInbox, keys: list[str]) -> dict[str, list[Step]]:
    """Streams until every row has its end; a stream of a static engine takes one batch."""
    rows: dict[str, list[Step]] = {key: [] for key in keys}
    for _ in keys:
        for steps in engine.stream(inbox):
            for step in steps:
                rows[step.key].append(step)
    return rows


def ask(engine: Engine, *prompts: Prompt) -> dict[str, list[Step]]:
    return run(engine, FixedInbox(list(prompts)), [prompt.key for prompt in prompts])


def text_of(steps: list[Step], tokenizer: Any) -> str:
    ids = [step.token_id for step in steps if step.token_id is not None]
    return tokenizer.decode(ids) if ids else "".join(step.text or "" for step in steps)


def prompts(lengths: list[int], seed: int = 0, new: int = 8) -> list[Prompt]:
    chooser = random.Random(seed)
    rows = [tuple(chooser.randrange(256) for _ in range(length)) for length in lengths]
    return [Prompt(str(n), ids, new + n, stop_ids=(EOS,)) for n, ids in enumerate(rows)]


@pytest.mark.parametrize("lengths", [[1], [20, 3], [5, 33, 2, 17, 9, 1, 40]])
def test_greedy_text_is_transformers_for_ragged_prompts(
    engine: Engine, reference: Any, tokenizer: Any, lengths: list[int]
) -> None:
    wanted = prompts(lengths, seed=len(lengths))
    rows = ask(engine, *wanted)
    for prompt in wanted:
        made = generate(reference, prompt.token_ids, prompt.max_new_tokens)
        assert text_of(rows[prompt.key], tokenizer) == tokenizer.decode(made)
        assert rows[prompt.key][-1].finish == ("length" if len(made) == prompt.max_new_tokens else "stop")


def test_every_row_has_exactly_one_end_and_nothing_after_it(engine: Engine) -> None:
    rows = ask(engine, *prompts([4, 9, 2, 30]))
    for steps in rows.values():
        assert [step.finish for step in steps[:-1]] == [None] * (len(steps) - 1)
        assert steps[-1].finish


def test_a_wrong_prompt_ends_with_a_sentence_and_its_neighbours_do_not(engine: Engine, tokenizer: Any) -> None:
    good = prompts([6, 11])
    alone = ask(engine, *good)
    rows = ask(engine, good[0], Prompt("bad", (5, 100_000), 4), good[1])
    assert rows["bad"][-1].finish == "error"
    assert rows["bad"][-1].message
    for prompt in good:
        assert text_of(rows[prompt.key], tokenizer) == text_of(alone[prompt.key], tokenizer)


def test_a_cancelled_row_ends_and_its_neighbours_go_on(engine: Engine, tokenizer: Any) -> None:
    wanted = prompts([7, 5], new=40)
    alone = ask(engine, *wanted)
    inbox = FixedInbox(wanted)
    rows: dict[str, list[Step]] = defaultdict(list)
    for steps in engine.stream(inbox):
        for step in steps:
            rows[step.key].append(step)
        if rows["0"]:
            inbox.cancel("0")
    assert rows["0"][-1].finish in ("cancelled", "stop", "length")
    assert text_of(rows["1"], tokenizer) == text_of(alone["1"], tokenizer)


def test_no_row_is_longer_than_the_engine_says(engine: Engine) -> None:
    (prompt,) = prompts([100], new=1000)
    able = engine.capabilities
    (steps,) = ask(engine, prompt).values()
    assert steps[-1].finish in ("length", "stop")
    assert sum(step.token_id is not None for step in steps) <= able.max_length - 100


def test_a_seed_is_kept_where_the_engine_says_so(engine: Engine) -> None:
    if not engine.capabilities.per_request_sampling:
        pytest.skip("this engine draws from one generator for all rows, and says so")
    if type(engine).__name__ == "OpenAIEngine":
        pytest.skip("the stand-in of the server is greedy")
    sampled = Prompt("a", (1, 2, 3), 12, Sampling(temperature=1.0, seed=4))
    first = ask(engine, sampled)["a"]
    assert ask(engine, *prompts([5, 9]), sampled)["a"] == first


def test_it_says_what_its_artefacts_depend_on(engine: Engine) -> None:
    found = engine.fingerprint()
    assert found
    assert all(isinstance(value, str) for value in found.values())
