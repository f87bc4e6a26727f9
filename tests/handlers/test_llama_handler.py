"""The Llama handler in both ways to batch: right text, streams, cancelled clients, bad input that harms nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_handler import LlamaHandler
from servekit.engines.base import Step
from tests.fakes.frontend import Client, Frontend
from tests.fakes.tiny_llama import make_tiny_llama

CONTINUOUS = {"batchSize": 3, "continuousBatching": True, "handler": {"heartbeat_s": 0.5, "prefill_chunk": 16}}
MICRO = {
    "batchSize": 4,
    "responseTimeout": 60,
    "handler": {"prefill_chunk": 16},
    "micro_batching": {"micro_batch_size": 2, "parallelism": {"preprocess": 2, "inference": 1, "postprocess": 2}},
}
PROMPTS = ("The with statement", "é", "a long prompt that is read in several chunks of sixteen", "0")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    make_tiny_llama(folder / "model")
    return folder


def serve(model_dir: Path, config: dict[str, Any]) -> Iterator[Frontend]:
    handler = LlamaHandler()
    frontend = Frontend(handler, model_dir, config)
    handler.initialize(frontend.context)
    yield frontend
    if handler.continuous:
        handler.loop.close()
    else:
        handler.pipeline.close(5.0)


@pytest.fixture(scope="module")
def continuous(model_dir: Path) -> Iterator[Frontend]:
    yield from serve(model_dir, CONTINUOUS)


@pytest.fixture(scope="module")
def micro(model_dir: Path) -> Iterator[Frontend]:
    yield from serve(model_dir, MICRO)


@pytest.fixture(params=["continuous", "micro"])
def frontend(request: pytest.FixtureRequest) -> Frontend:
    served: Frontend = request.getfixturevalue(request.param)
    return served


@pytest.fixture(scope="module")
def truth(model_dir: Path) -> dict[str, str]:
    """transformers' own continuation of each prompt, 20 tokens, greedy."""
    folder = model_dir / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    texts = {}
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            made = model.generate(**inputs, max_new_tokens=20, do_sample=False, pad_token_id=257)[0]
        texts[prompt] = tokenizer.decode(made[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def tgi(prompt: str, *, stream: bool = False, **parameters: Any) -> Client:
    body = {"inputs": prompt, "parameters": {"max_new_tokens": 20, **parameters}, "stream": stream}
    return Client(json.dumps(body).encode())


def completion(prompt: str, **fields: Any) -> Client:
    body = {"prompt": prompt, "max_tokens": 20, "temperature": 0, **fields}
    return Client(json.dumps(body).encode(), path="v1/completions")


def sse(client: Client) -> list[Any]:
    events = client.text.decode().split("\n\n")
    assert events.pop() == ""
    return [json.loads(event.removeprefix("data:")) for event in events if event != "data: [DONE]"]


def test_every_dialect_gives_transformers_text(frontend: Frontend, truth: dict[str, str]) -> None:
    for prompt, expected in truth.items():
        plain = Client(prompt.encode(), {"content-type": "text/plain"})
        whole, lines = tgi(prompt), tgi(prompt, stream=True)
        events, answer = completion(prompt, stream=True), completion(prompt)
        frontend.ask(plain, whole, lines, events, answer)
        assert plain.text.decode().startswith(expected.rstrip("\ufffd"))  # it goes on, the cut character too
        assert plain.content_type.startswith("text/plain")
        assert json.loads(whole.text) == [{"generated_text": expected}]
        assert "".join(each["token"]["text"] for each in sse(lines)) == expected
        assert lines.content_type == events.content_type == "text/event-stream"
        assert "".join(each["choices"][0]["text"] for each in sse(events)) == expected
        assert events.text.endswith(b"data: [DONE]\n\n")
        assert json.loads(answer.text)["choices"][0]["text"] == expected
        assert json.loads(answer.text)["usage"]["completion_tokens"] <= 20


def test_the_list_of_models_has_this_one(frontend: Frontend) -> None:
    asked, beside = Client(b"", path="v1/models"), tgi(PROMPTS[0])
    frontend.ask(asked, beside)
    assert [each["id"] for each in json.loads(asked.text)["data"]] == ["tiny"]
    assert (asked.status, beside.status) == (200, 200)


def test_chat_uses_the_models_template(frontend: Frontend, model_dir: Path) -> None:
    messages = [{"role": "user", "content": "hello"}]
    body = {"messages": messages, "max_tokens": 5, "temperature": 0}
    chat = Client(json.dumps(body).encode(), path="v1/chat/completions")
    same = completion("user: hello\nassistant: ", max_tokens=5)
    frontend.ask(chat, same)
    message = json.loads(chat.text)["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert message["content"] == json.loads(same.text)["choices"][0]["text"]


BAD: Sequence[tuple[int, Client]] = (
    (413, tgi("x" * 200)),
    (413, tgi("x", max_new_tokens=1000)),
    (400, tgi("")),
    (400, tgi("x", temperature=-1)),
    (422, tgi("x", warmth=1)),
    (422, tgi("x", stop=["a"] * 100)),
    (400, Client(b"{not json")),
    (400, Client(b"\xff", {"content-type": "text/plain"})),
    (404, Client(b"{}", path="v2/nothing")),
    (415, Client(b"x", {"content-type": "image/png"})),
)


def fresh(client: Client) -> Client:
    made = Client(client.body)
    made.headers = client.headers
    return made


def test_bad_input_gets_its_own_answer_and_neighbours_theirs(frontend: Frontend, truth: dict[str, str]) -> None:
    for status, pattern in BAD:
        bad, good, stream = fresh(pattern), tgi(PROMPTS[0]), tgi(PROMPTS[2], stream=True)
        frontend.ask(good, bad, stream)
        assert bad.status == status, bad.text
        assert json.loads(bad.text)["error"]["message"]
        assert json.loads(good.text) == [{"generated_text": truth[PROMPTS[0]]}]
        assert "".join(each["token"]["text"] for each in sse(stream)) == truth[PROMPTS[2]]


@settings(max_examples=40)
@given(body=st.binary(max_size=80), path=st.sampled_from(["", "v1/completions", "v1/chat/completions", "x"]))
def test_no_body_is_a_fault(continuous: Frontend, body: bytes, path: str) -> None:
    client = Client(body, path=path)
    continuous.ask(client)
    assert client.status is not None
    assert client.status < 500


def test_a_stop_string_ends_the_text_and_the_row(frontend: Frontend, truth: dict[str, str]) -> None:
    expected = truth[PROMPTS[0]]
    stop = expected[5:7]
    client = tgi(PROMPTS[0], stop=[stop], details=True, max_new_tokens=100)
    frontend.ask(client)
    (answer,) = json.loads(client.text)
    assert answer["generated_text"] == expected[: expected.index(stop)]
    assert answer["details"]["finish_reason"] == "stop_sequence"
    if frontend.continuous:
        assert frontend.handler.loop.in_flight == 0


def test_a_client_that_goes_away_frees_its_slot_within_a_round(continuous: Frontend, truth: dict[str, str]) -> None:
    leaving = [tgi(PROMPTS[0], stream=True, max_new_tokens=100) for _ in range(3)]
    waiting = tgi(PROMPTS[0])
    continuous.post(*leaving, waiting)
    for _ in range(4):
        continuous.round()
    before = sum(continuous.metrics["servekit_saved_tokens_total"])
    for client in leaving:
        client.is_open = False
    continuous.round()  # the frontend notices
    continuous.round()  # and the worker hears of it
    assert sum(continuous.metrics["servekit_saved_tokens_total"]) - before >= 3 * 80
    assert sum(continuous.metrics["servekit_cancelled_requests_total"]) >= 3
    continuous.ask()
    assert json.loads(waiting.text) == [{"generated_text": truth[PROMPTS[0]]}]


def test_a_silent_stream_is_kept_alive(continuous: Frontend, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe's responseTimeout counts from one answer of the worker to the next."""
    client = tgi(PROMPTS[0], stream=True)
    with monkeypatch.context() as patch:
        patch.setattr(continuous.handler.loop, "collect", lambda timeout_s: {})
        continuous.post(client)
        for _ in range(3):
            continuous.round()
    assert client.status == 200
    assert client.text == b""
    continuous.ask()
    assert client.text


def test_an_engine_that_fails_tells_its_clients_and_serves_the_next(
    frontend: Frontend, monkeypatch: pytest.MonkeyPatch, truth: dict[str, str]
) -> None:
    def broken(*_: Any) -> list[Step]:
        raise RuntimeError("no memory left")

    stream, whole = tgi(PROMPTS[0], stream=True), tgi(PROMPTS[0])
    with monkeypatch.context() as patch:
        patch.setattr(frontend.handler.engine, "_one_step", broken)
        frontend.ask(stream, whole)
    assert b"no memory left" in stream.text
    assert b"no memory left" in whole.text
    assert frontend.continuous or whole.status == 503
    again = tgi(PROMPTS[0])
    frontend.ask(again)
    assert json.loads(again.text) == [{"generated_text": truth[PROMPTS[0]]}]


def test_a_batch_that_takes_too_long_is_answered_before_the_frontend_gives_up(
    micro: Frontend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(micro.handler, "timeout_s", 0.0)
        late = tgi(PROMPTS[0], stream=True)
        micro.ask(late)
    assert late.status is not None
    assert b"error" in late.text
    again = tgi(PROMPTS[0])
    micro.ask(again)
    assert again.status == 200


def test_seeds_are_kept_whatever_the_neighbours(continuous: Frontend) -> None:
    alone, company = ([completion("ab", temperature=1.2, seed=7)] for _ in range(2))
    continuous.ask(*alone)
    company += [completion(prompt, temperature=1.0) for prompt in PROMPTS]
    continuous.ask(*company)
    assert json.loads(alone[0].text)["choices"] == json.loads(company[0].text)["choices"]


def test_ops_see_what_happened(continuous: Frontend) -> None:
    continuous.ask(tgi(PROMPTS[0]))
    for name in ("time_to_first_token_seconds", "time_per_output_token_seconds", "slot_wait_seconds"):
        assert all(value >= 0 for value in continuous.metrics[f"servekit_{name}"])
        assert continuous.metrics[f"servekit_{name}"]
    assert sum(continuous.metrics["servekit_generated_tokens_total"]) > 0
    assert all(0 < value <= 1 for value in continuous.metrics["servekit_slots_in_use_ratio"])
