from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servekit.engines.base import Sampling
from servekit.errors import RequestError
from servekit.generation.requests import CHAT, COMPLETIONS, GenerationRequest, Limits, parse
from servekit.wire import Body, read_body
from tests.fakes.tiny_tokenizers import CHAT_TEMPLATE, TEXTS, byte_level, metaspace, sentencepiece

JSON = {"content-type": "application/json"}
LIMITS = Limits("tiny", max_length=64, default_max_new_tokens=16, max_stop_strings=2, logprobs=True)
MAX_BYTES = 512 * 1024
PROMPT = "What do you"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


def chatty() -> Any:
    tokenizer = copy.copy(byte_level())
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


TOKENIZER = chatty()


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(text)["input_ids"])


def request_for(
    raw: Any,
    path: str = "",
    headers: dict[str, str] = JSON,
    limits: Limits = LIMITS,
    tokenizer: Any = TOKENIZER,
    accept: str = "",
) -> GenerationRequest:
    body = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    return parse(read_body({"body": body}, headers, MAX_BYTES), path, tokenizer, limits, accept)


def tgi(**parameters: Any) -> dict[str, Any]:
    return {"inputs": PROMPT, "parameters": parameters}


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": PROMPT, **fields}


@pytest.mark.parametrize(("raw", "headers"), [(PROMPT.encode(), {}), (PROMPT, JSON)], ids=["text", "JSON string"])
def test_plain_text_streams_and_is_greedy(raw: Any, headers: dict[str, str]) -> None:
    assert request_for(raw, headers=headers) == GenerationRequest(
        "text", ids_of(PROMPT), 16, Sampling(), stream=True, model="tiny", prompt_text=PROMPT
    )


def test_the_prompt_begins_with_the_tokenizer_s_own_special_tokens() -> None:
    assert request_for(PROMPT).prompt_ids[0] == TOKENIZER.bos_token_id


def test_tgi_s_parameters() -> None:
    request = request_for(
        tgi(
            max_new_tokens=5,
            temperature=0.5,
            top_k=3,
            top_p=0.9,
            seed=7,
            repetition_penalty=1.2,
            stop=["a"],
            stop_sequences=["b"],
            return_full_text=True,
            details=True,
            top_n_tokens=2,
            ignore_eos=True,
            watermark=False,
            typical_p=None,
            best_of=1,
        )
        | {"stream": True}
    )
    assert request == GenerationRequest(
        "tgi",
        ids_of(PROMPT),
        5,
        Sampling(0.5, 3, 0.9, 1.2, 7, 2),
        stop=("a", "b"),
        stream=True,
        ignore_eos=True,
        model="tiny",
        return_full_text=True,
        details=True,
        prompt_text=PROMPT,
    )


@pytest.mark.parametrize(
    ("parameters", "sampling"),
    [
        ({}, Sampling()),
        ({"do_sample": True}, Sampling(1.0)),
        ({"temperature": 0.5}, Sampling(0.5)),
        ({"top_k": 5}, Sampling(1.0, top_k=5)),
        ({"top_k": 2**60}, Sampling(1.0)),
        ({"top_p": 0.5}, Sampling(1.0, top_p=0.5)),
        ({"seed": 3}, Sampling(1.0, seed=3)),
        ({"seed": -1}, Sampling(1.0, seed=2**63 - 1)),
        ({"temperature": 0, "top_k": 5, "seed": 3}, Sampling()),
        ({"temperature": 1e-30, "top_p": 0.5}, Sampling()),
        ({"do_sample": False, "temperature": 0.5}, Sampling()),
        ({"repetition_penalty": 1.5}, Sampling(repetition_penalty=1.5)),
        ({"details": True}, Sampling(logprobs=0)),
        ({"top_n_tokens": 0}, Sampling()),
        (None, Sampling()),
    ],
)
def test_how_tgi_requests_are_sampled(parameters: dict[str, Any] | None, sampling: Sampling) -> None:
    assert request_for({"inputs": PROMPT, "parameters": parameters}).sampling == sampling


@pytest.mark.parametrize(
    ("stream", "accept", "expected"),
    [
        (None, "", False),
        (None, "text/event-stream", True),
        (False, "text/event-stream", False),
        (True, "application/json", True),
    ],
)
def test_tgi_streams_when_body_or_accept_header_says_so(stream: bool | None, accept: str, expected: bool) -> None:
    assert request_for({"inputs": PROMPT, "stream": stream}, accept=accept).stream is expected


def test_openai_completions() -> None:
    request = request_for(
        completion(
            max_tokens=5,
            temperature=0.5,
            top_p=0.9,
            seed=7,
            stop="a",
            stream=True,
            stream_options={"include_usage": True},
            logprobs=2,
            user="me",
            n=1,
            best_of=1,
            suffix=None,
            frequency_penalty=0.0,
            presence_penalty=0,
        ),
        COMPLETIONS,
    )
    assert request == GenerationRequest(
        "completions",
        ids_of(PROMPT),
        5,
        Sampling(0.5, None, 0.9, 1.0, 7, 2),
        stop=("a",),
        stream=True,
        include_usage=True,
        model="tiny",
        prompt_text=PROMPT,
    )


@pytest.mark.parametrize("prompt", [PROMPT, [PROMPT], list(ids_of(PROMPT))], ids=["text", "list of one", "token ids"])
def test_a_completion_s_prompt_in_every_form(prompt: Any) -> None:
    request = request_for(completion(prompt=prompt, echo=True), COMPLETIONS)
    assert (request.prompt_ids, request.prompt_text) == (ids_of(PROMPT), PROMPT)
    assert request.return_full_text
    assert request.sampling == Sampling(1.0)


def test_openai_chat_goes_through_the_template() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "three"},
    ]
    request = request_for({"messages": messages, "max_completion_tokens": 3, "logprobs": True, "top_logprobs": 4}, CHAT)
    text = "<s>system: Be short.\n<s>user: one\ntwo\n<s>assistant: three\nassistant:"
    assert (request.dialect, request.prompt_text) == ("chat", text)
    assert request.prompt_ids == tuple(TOKENIZER(text, add_special_tokens=False)["input_ids"])
    assert request.prompt_ids.count(TOKENIZER.bos_token_id) == 3  # the template's, and none in front of them
    assert (request.max_new_tokens, request.sampling) == (3, Sampling(1.0, logprobs=4))


def test_the_number_of_new_tokens() -> None:
    """By default what is left, as far as it goes; when asked for, all or an error that names the numbers."""
    prompt = len(ids_of(PROMPT))
    tight = replace(LIMITS, max_length=prompt + 3)
    assert request_for(PROMPT, limits=tight).max_new_tokens == 3
    assert request_for(tgi(max_new_tokens=3), limits=tight).max_new_tokens == 3
    with pytest.raises(RequestError, match=f"{prompt} tokens.* 4 new.*max_length={prompt + 3}.*room for 3") as caught:
        request_for(tgi(max_new_tokens=4), limits=tight)
    assert (caught.value.status, caught.value.code) == (413, "too_many_new_tokens")


@pytest.mark.parametrize("path", ["", COMPLETIONS])
def test_a_prompt_that_leaves_no_room_is_told_both_numbers(path: str) -> None:
    prompt = len(ids_of(PROMPT))
    body = completion(prompt=list(ids_of(PROMPT))) if path else PROMPT
    with pytest.raises(RequestError, match=f"{prompt} tokens.*max_length={prompt} ") as caught:
        request_for(body, path, limits=replace(LIMITS, max_length=prompt))
    assert (caught.value.status, caught.value.code) == (413, "prompt_too_long")
    assert request_for(body, path, limits=replace(LIMITS, max_length=prompt + 1)).max_new_tokens == 1


def test_truncate_keeps_the_last_tokens_behind_bos() -> None:
    ids = ids_of(PROMPT)
    for wanted, kept in ((3, ids[:1] + ids[-2:]), (1, ids[:1]), (len(ids), ids), (1000, ids)):
        assert request_for(tgi(truncate=wanted)).prompt_ids == kept
    long = request_for({"inputs": PROMPT * 50, "parameters": {"truncate": 5}})
    assert long.prompt_ids[1:] == ids_of(PROMPT * 50)[-4:]


@pytest.mark.parametrize("kind", [byte_level, sentencepiece, metaspace], ids=lambda kind: kind.__name__)
def test_a_prompt_far_too_long_is_not_tokenized_where_that_is_certain(kind: Callable[[], Any]) -> None:
    class Watched:
        """Unknown to the cache, and it remembers the longest text."""

        longest = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(kind(), name)

        def __call__(self, text: str, **options: Any) -> Any:
            self.longest = max(self.longest, len(text))
            return kind()(text, **options)

    watched = Watched()
    text = TEXTS[0] * 100
    with pytest.raises(RequestError) as caught:
        request_for(text, tokenizer=watched)
    assert caught.value.code == "prompt_too_long"
    knows_all_characters = kind is not metaspace
    assert ("has at least" in str(caught.value)) is knows_all_characters
    assert (watched.longest < len(text)) is knows_all_characters


@settings(max_examples=50)
@given(st.data())
@pytest.mark.parametrize("kind", [byte_level, sentencepiece, metaspace], ids=lambda kind: kind.__name__)
def test_no_prompt_that_fits_is_refused_unseen(kind: Callable[[], Any], data: st.DataObject) -> None:
    tokenizer = kind()
    pieces_of_text = (tokenizer.decode([token_id]).strip() for token_id in range(3, len(tokenizer)))
    long_words = sorted(pieces_of_text, key=len)[-4:]
    words = st.sampled_from(long_words).flatmap(lambda word: st.integers(1, 20).map(word.__mul__))
    pieces = st.text(st.sampled_from(" \n\taé中😀-="), max_size=20) | words
    text = data.draw(st.lists(pieces, min_size=1).map("".join).filter(bool))
    limits = replace(LIMITS, max_length=len(tokenizer(text)["input_ids"]) + 1)
    assert request_for(text, limits=limits, tokenizer=tokenizer).max_new_tokens == 1


BAD: list[tuple[Any, str, int, str]] = [
    ("", "", 400, "empty_prompt"),
    ({"inputs": ""}, "", 400, "empty_prompt"),
    ({"prompt": PROMPT}, "", 422, "invalid_request"),
    ({"inputs": [PROMPT]}, "", 422, "invalid_request"),
    ([PROMPT], "", 422, "invalid_request"),
    (7, "", 422, "invalid_request"),
    (b"Today the weather", "", 400, "invalid_json"),
    (b'{"inputs": "\\ud83d"}', "", 400, "invalid_json"),
    (b"", "", 400, "invalid_json"),
    (tgi(temperature=-1), "", 400, "invalid_temperature"),
    (tgi(temperature=-1, do_sample=False), "", 400, "invalid_temperature"),
    (tgi(temperature=1e300), "", 400, "invalid_temperature"),
    (tgi(temperature="hot"), "", 422, "invalid_request"),
    (tgi(top_p=0), "", 422, "invalid_request"),
    (tgi(top_p=1.1), "", 422, "invalid_request"),
    (tgi(top_k=0), "", 422, "invalid_request"),
    (tgi(repetition_penalty=0), "", 422, "invalid_request"),
    (tgi(seed=2**64), "", 422, "invalid_request"),
    (tgi(max_new_tokens=0), "", 422, "invalid_request"),
    (tgi(max_new_tokens=2**60), "", 413, "too_many_new_tokens"),
    (tgi(max_tokens=3), "", 422, "invalid_request"),
    (tgi(watermark=True), "", 422, "invalid_request"),
    (tgi(typical_p=0.9), "", 422, "invalid_request"),
    (tgi(decoder_input_details=True), "", 422, "invalid_request"),
    (tgi(stop=["a", "b", "c"]), "", 422, "too_many_stop_strings"),
    (tgi(stop=["a", "b"], stop_sequences=["c"]), "", 422, "too_many_stop_strings"),
    (tgi(stop=[""]), "", 422, "invalid_request"),
    (tgi(stop=["x" * 257]), "", 422, "invalid_request"),
    (tgi(truncate=0), "", 422, "invalid_request"),
    (completion(prompt=""), COMPLETIONS, 400, "empty_prompt"),
    (completion(prompt=[]), COMPLETIONS, 400, "empty_prompt"),
    (completion(prompt=[PROMPT, PROMPT]), COMPLETIONS, 422, "invalid_request"),
    (completion(prompt=[[1, 2]]), COMPLETIONS, 422, "invalid_request"),
    (completion(prompt=[1, True]), COMPLETIONS, 422, "invalid_request"),
    (completion(prompt=[-1]), COMPLETIONS, 400, "invalid_token_id"),
    (completion(prompt=[1, 10**6]), COMPLETIONS, 400, "invalid_token_id"),
    (completion(prompt=[1] * 64), COMPLETIONS, 413, "prompt_too_long"),
    (completion(temperature=-1), COMPLETIONS, 400, "invalid_temperature"),
    (completion(n=2), COMPLETIONS, 422, "invalid_request"),
    (completion(best_of=2), COMPLETIONS, 422, "invalid_request"),
    (completion(suffix="."), COMPLETIONS, 422, "invalid_request"),
    (completion(logprobs=6), COMPLETIONS, 422, "invalid_request"),
    (completion(logprobs=1, echo=True), COMPLETIONS, 422, "invalid_request"),
    (completion(presence_penalty=0.5), COMPLETIONS, 422, "invalid_request"),
    (completion(stop=["a"] * 3), COMPLETIONS, 422, "too_many_stop_strings"),
    (completion(stop=""), COMPLETIONS, 422, "invalid_request"),
    (completion(model="other"), COMPLETIONS, 404, "model_not_found"),
    (PROMPT, COMPLETIONS, 422, "invalid_request"),
    ({"messages": []}, CHAT, 400, "empty_prompt"),
    ({"messages": [{"role": "tool", "content": "x"}]}, CHAT, 422, "invalid_request"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, CHAT, 422, "invalid_request"),
    ({"messages": [{"role": "assistant", "content": "Hello"}]}, CHAT, 400, "chat_template"),
    (HELLO | {"top_logprobs": 2}, CHAT, 422, "invalid_request"),
    (HELLO | {"logprobs": True, "top_logprobs": 21}, CHAT, 422, "invalid_request"),
    (HELLO | {"prompt": "x"}, CHAT, 422, "invalid_request"),
    (HELLO, "v1/embeddings", 404, "unknown_path"),
    (HELLO, "v1/models", 404, "unknown_path"),
]


@pytest.mark.parametrize(("raw", "path", "status", "code"), BAD, ids=lambda value: str(value)[:60])
def test_a_bad_request_is_a_clear_error(raw: Any, path: str, status: int, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        request_for(raw, path)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert len(caught.value.body) < 2000


def test_an_unknown_field_is_told_the_closest() -> None:
    with pytest.raises(RequestError, match="parameters.max_new_token: unknown key; did you mean 'max_new_tokens'"):
        request_for(tgi(max_new_token=3))


def test_ten_thousand_wrong_entries_are_one_error() -> None:
    for body, path in (
        (completion(prompt=[[]] * 10_000), COMPLETIONS),
        ({"messages": [1] * 10_000}, CHAT),
        (tgi(stop=[0] * 10_000), ""),
    ):
        with pytest.raises(RequestError) as caught:
            request_for(body, path)
        assert len(caught.value.body) < 1000


def test_openai_s_paths_take_json_only() -> None:
    with pytest.raises(RequestError, match="takes JSON"):
        request_for(PROMPT.encode(), COMPLETIONS, headers={})


def test_a_tokenizer_without_a_chat_template() -> None:
    with pytest.raises(RequestError) as caught:
        request_for(HELLO, CHAT, tokenizer=byte_level())
    assert (caught.value.status, caught.value.code) == (400, "no_chat_template")


@pytest.mark.parametrize(
    ("body", "path"),
    [(completion(logprobs=0), COMPLETIONS), (HELLO | {"logprobs": True}, CHAT), (tgi(top_n_tokens=1), "")],
)
def test_log_probabilities_that_the_engine_cannot_give(body: Any, path: str) -> None:
    with pytest.raises(RequestError) as caught:
        request_for(body, path, limits=replace(LIMITS, logprobs=False))
    assert (caught.value.status, caught.value.code) == (400, "no_logprobs")


def test_tgi_s_details_come_without_them() -> None:
    request = request_for(tgi(details=True), limits=replace(LIMITS, logprobs=False))
    assert request.details
    assert request.sampling.logprobs is None


def answered(body: Body, path: str, tokenizer: Any) -> None:
    """A request, or a refusal that can be sent: nothing else."""
    try:
        request = parse(body, path, tokenizer, LIMITS)
    except RequestError as error:
        assert orjson.loads(error.body)["error"]["code"] == error.code
    else:
        assert 1 <= len(request.prompt_ids) <= LIMITS.max_length - request.max_new_tokens


# Surrogates and all: what Python's own json makes of a body when the worker decodes it.
any_text = st.text(st.characters(exclude_categories=[]), max_size=20) | st.text(
    "\ud83d\ude00\x00\u200d<s>/ ", max_size=20
)


@given(any_text, st.sampled_from([byte_level, sentencepiece, metaspace]))
def test_any_prompt_has_an_answer(text: str, kind: Callable[[], Any]) -> None:
    message = {"role": "user", "content": text}
    answered(Body(text, is_json=False), "", kind())
    answered(Body({"inputs": text, "parameters": {"stop": [text]}}, is_json=True), "", kind())
    answered(Body({"prompt": text, "model": text}, is_json=True), COMPLETIONS, kind())
    answered(Body({"messages": [message], text: text}, is_json=True), CHAT, TOKENIZER)
    answered(Body({"messages": [message]}, is_json=True), CHAT, TOKENIZER)


FIELDS = [
    "inputs",
    "parameters",
    "stream",
    "prompt",
    "messages",
    "stop",
    "temperature",
    "top_p",
    "seed",
    "logprobs",
    "role",
    "content",
    "max_tokens",
]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=8,
)


@given(anything, st.sampled_from(["", COMPLETIONS, CHAT, "v1/models"]))
def test_any_json_has_an_answer(content: Any, path: str) -> None:
    answered(Body(content, is_json=True), path, TOKENIZER)
