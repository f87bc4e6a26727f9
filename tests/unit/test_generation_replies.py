from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from servekit.engines.base import Sampling, Step
from servekit.generation.replies import Ending, Reply, Usage
from servekit.generation.requests import Dialect, GenerationRequest
from servekit.generation.text import TextStream
from tests.fakes.tiny_tokenizers import TEXTS, byte_level
from tests.fakes.token_iterator import TokenIterator

TOKENIZER = byte_level()
ANSWER = "smiles 😀 夜 more"
IDS = tuple(TOKENIZER(ANSWER, add_special_tokens=False)["input_ids"])
USAGE = Usage(prompt_tokens=3, completion_tokens=len(IDS))


def asking(dialect: Dialect, logprobs: int | None = None, **fields: Any) -> GenerationRequest:
    sampling = Sampling(logprobs=logprobs)
    return GenerationRequest(dialect, (1, 2, 3), 20, sampling, model="tiny", prompt_text="Well: ", **fields)


def steps(ids: Iterable[int] = IDS, alternatives: int = 0) -> list[Step]:
    """Each token with a log probability, and the next ids as its alternatives, half as likely each time."""
    return [
        Step("k", each, logprob=-0.5, top_logprobs=tuple((each + n, -0.5 - n) for n in range(alternatives)))
        for each in ids
    ]


def answer(
    request: GenerationRequest, ids: Iterable[int] = IDS, alternatives: int = 0, finish: Ending = "stop"
) -> list[bytes]:
    """All that is sent: for every step, and at last for the end."""
    reply, stream = Reply(request, "7", 1234, TOKENIZER), TextStream(TOKENIZER, request.stop)
    sent: list[bytes] = []
    for step in steps(ids, alternatives):
        text = stream.push(step.token_id or 0)
        if stream.stopped:
            return [*sent, reply.end("stop_string", USAGE, text, step)]
        sent.append(reply.chunk(text, step))
    return [*sent, reply.end(finish, USAGE, stream.finish())]


def events(sent: Iterable[bytes]) -> list[Any]:
    """The data of server-sent events, each one line and an empty line."""
    *blocks, rest = b"".join(sent).split(b"\n\n")
    assert rest == b""
    assert all(block.startswith(b"data:") and b"\n" not in block for block in blocks)
    return [json.loads(block[5:]) if block != b"data: [DONE]" else "DONE" for block in blocks]


def finished(chunk: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's stream has a null here for which their type has no place."""
    choices = [choice | {"finish_reason": choice["finish_reason"] or "stop"} for choice in chunk["choices"]]
    return chunk | {"choices": choices}


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.data())
def test_the_sagemaker_article_s_client_reads_tgi_s_stream_however_it_is_cut(data: st.DataObject) -> None:
    text = data.draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=2).map("".join))
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    sent = b"".join(answer(asking("tgi", stream=True), ids))
    places = data.draw(st.lists(st.integers(0, len(sent)), max_size=20))
    parts = [{"PayloadPart": {"Bytes": part}} for part in cut(sent, places)]
    assert "".join(TokenIterator(parts)) == text


def test_tgi_s_stream() -> None:
    lines = events(answer(asking("tgi", stream=True, details=True), finish="length"))
    *tokens, last = lines
    assert [line["token"]["id"] for line in tokens] == list(IDS)
    assert "".join(line["token"]["text"] for line in tokens) == ANSWER
    first = {"id": IDS[0], "text": TOKENIZER.decode([IDS[0]]), "logprob": -0.5, "special": False}
    assert tokens[0] == {"token": first, "generated_text": None, "details": None}
    assert last == {
        "token": {"id": TOKENIZER.eos_token_id, "text": "", "logprob": None, "special": True},
        "generated_text": ANSWER,
        "details": {"finish_reason": "length", "generated_tokens": len(IDS), "seed": None},
    }


def test_tgi_s_tokens_wait_for_their_text_and_come_together() -> None:
    sent = answer(asking("tgi", stream=True))
    (waited,) = [place for place, part in enumerate(sent) if not part]
    assert [line["token"]["id"] for line in events([sent[waited + 1]])] == list(IDS[waited : waited + 2])
    assert [line["token"]["text"] for line in events([sent[waited + 1]])] == ["", "夜"]


@pytest.mark.parametrize("stream", [True, False])
def test_tgi_s_answer_with_the_prompt_in_front(stream: bool) -> None:
    sent = answer(asking("tgi", stream=stream, return_full_text=True))
    last = events(sent)[-1] if stream else json.loads(b"".join(sent))[0]
    assert last["generated_text"] == "Well: " + ANSWER


def test_tgi_s_whole_answer() -> None:
    assert json.loads(b"".join(answer(asking("tgi")))) == [{"generated_text": ANSWER}]
    (detailed,) = json.loads(b"".join(answer(asking("tgi", logprobs=2, details=True), alternatives=2)))
    details = detailed["details"]
    assert (details["finish_reason"], details["generated_tokens"]) == ("eos_token", len(IDS))
    assert [token["id"] for token in details["tokens"]] == list(IDS)
    assert [[each["id"] for each in top] for top in details["top_tokens"]] == [[each, each + 1] for each in IDS]


def test_tgi_s_alternatives_in_a_stream() -> None:
    *lines, _ = events(answer(asking("tgi", logprobs=2, stream=True), alternatives=2))
    assert [[each["id"] for each in line["top_tokens"]] for line in lines] == [[each, each + 1] for each in IDS]


def text_and_finish(dialect: Dialect, sent: list[bytes]) -> tuple[str, str]:
    """Of a whole answer, or of a stream's end."""
    if dialect == "tgi":
        last = events(sent)[-1] if sent[0].startswith(b"data:") else json.loads(b"".join(sent))[0]
        return last["generated_text"], last["details"]["finish_reason"]
    choice = json.loads(b"".join(sent))["choices"][0]
    return choice["text"] if dialect == "completions" else choice["message"]["content"], choice["finish_reason"]


@pytest.mark.parametrize(
    ("dialect", "stream", "finish"),
    [
        ("tgi", True, "stop_sequence"),
        ("tgi", False, "stop_sequence"),
        ("completions", False, "stop"),
        ("chat", False, "stop"),
    ],
)
def test_a_stop_string_ends_the_answer_and_is_not_in_it(dialect: Dialect, stream: bool, finish: str) -> None:
    sent = answer(asking(dialect, stream=stream, stop=("😀 夜",), details=True))
    assert text_and_finish(dialect, sent) == ("smiles ", finish)
    assert "😀" not in b"".join(sent).decode()


def test_plain_text_is_sent_as_it_is() -> None:
    request = asking("text", stream=True)
    sent = answer(request)
    assert b"".join(sent).decode() == ANSWER
    for part in sent:
        part.decode()  # no chunk has half of a character
    assert Reply(request, "7", 0).content_type == "text/plain; charset=utf-8"


@pytest.mark.parametrize("include_usage", [True, False])
def test_openai_s_stream_of_completions(include_usage: bool) -> None:
    *chunks, done = events(answer(asking("completions", stream=True, include_usage=include_usage), finish="length"))
    assert done == "DONE"
    if include_usage:
        tail = chunks.pop()
        assert tail["choices"] == []
        assert tail["usage"] == {"prompt_tokens": 3, "completion_tokens": len(IDS), "total_tokens": 3 + len(IDS)}
    parsed = [Completion.model_validate(finished(chunk), strict=True) for chunk in chunks]
    assert "".join(each.choices[0].text for each in parsed) == ANSWER
    assert {(each.id, each.created, each.model, each.object) for each in parsed} == {
        ("cmpl-7", 1234, "tiny", "text_completion")
    }
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all(("usage" in chunk) is include_usage and not chunk.get("usage") for chunk in chunks)


def test_openai_s_stream_of_a_chat() -> None:
    *chunks, usage, done = events(answer(asking("chat", stream=True, include_usage=True)))
    assert done == "DONE"
    parsed = [ChatCompletionChunk.model_validate(chunk, strict=True) for chunk in [*chunks, usage]]
    assert parsed.pop().usage is not None
    assert "".join(each.choices[0].delta.content or "" for each in parsed) == ANSWER
    assert [each.choices[0].delta.role for each in parsed] == ["assistant"] + [None] * (len(parsed) - 1)
    assert [each.choices[0].finish_reason for each in parsed] == [None] * (len(parsed) - 1) + ["stop"]
    assert {(each.id, each.object) for each in parsed} == {("chatcmpl-7", "chat.completion.chunk")}


def test_openai_s_whole_answers() -> None:
    completion = Completion.model_validate_json(b"".join(answer(asking("completions"))), strict=True)
    assert (completion.choices[0].text, completion.choices[0].finish_reason) == (ANSWER, "stop")
    chat = ChatCompletion.model_validate_json(b"".join(answer(asking("chat"), finish="length")), strict=True)
    message = chat.choices[0].message
    assert (message.role, message.content, chat.choices[0].finish_reason) == ("assistant", ANSWER, "length")
    for usage in (completion.usage, chat.usage):
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, len(IDS), 3 + len(IDS))


@pytest.mark.parametrize("dialect", ["completions", "chat", "tgi", "text"])
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_of_no_token_at_all(dialect: Dialect, stream: bool) -> None:
    sent = b"".join(answer(asking(dialect, stream=stream), ids=()))
    if dialect == "text" and stream:
        assert sent == b""
    elif dialect == "chat" and stream:
        assert events([sent])[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    elif stream:
        assert events([sent])
    else:
        assert json.loads(sent)


@pytest.mark.parametrize("stream", [True, False])
def test_echo_puts_the_prompt_in_front_once(stream: bool) -> None:
    sent = answer(asking("completions", stream=stream, return_full_text=True, logprobs=0))
    chunks = events(sent)[:-1] if stream else [json.loads(b"".join(sent))]
    choices = [chunk["choices"][0] for chunk in chunks]
    text = "".join(choice["text"] for choice in choices)
    assert text == "Well: " + ANSWER
    offsets = [offset for choice in choices for offset in choice["logprobs"]["text_offset"]]
    assert offsets[0] == len("Well: ")


@pytest.mark.parametrize("stream", [True, False])
def test_the_log_probabilities_of_a_completion(stream: bool) -> None:
    """Every token once, each at its place in the text, with its alternatives."""
    sent = answer(asking("completions", stream=stream, logprobs=2), alternatives=2)
    chunks = events(sent)[:-1] if stream else [json.loads(b"".join(sent))]
    found = [Completion.model_validate(finished(chunk)).choices[0].logprobs for chunk in chunks]
    tokens = [token for each in found if each for token in each.tokens or []]
    offsets = [offset for each in found if each for offset in each.text_offset or []]
    tops = [top for each in found if each for top in each.top_logprobs or []]
    assert len(tokens) == len(offsets) == len(tops) == len(IDS)
    assert offsets == sorted(offsets)
    for token, offset in zip(tokens, offsets, strict=True):
        assert "\ufffd" in token or ANSWER[offset:].startswith(token)
    assert tops[0] == {tokens[0]: -0.5, TOKENIZER.decode([IDS[0] + 1]): -1.5}


def test_the_tokens_of_a_stop_string_are_at_the_end_of_the_text() -> None:
    reply = Reply(asking("completions", logprobs=0), "7", 0, TOKENIZER)
    for step in steps()[:-1]:
        reply.chunk("", step)
    choice = json.loads(reply.end("stop_string", USAGE, "smi", steps()[-1]))["choices"][0]
    assert choice["text"] == "smi"
    assert choice["logprobs"]["text_offset"] == [0] + [3] * (len(IDS) - 1)


def test_alternatives_of_one_name_are_told_once_with_the_likelier() -> None:
    ids = TOKENIZER.convert_tokens_to_ids(["ä", "å"])  # single bytes, each of them a cut character
    step = Step("k", ids[0], logprob=-0.5, top_logprobs=((ids[0], -0.5), (ids[1], -1.5)))
    reply = Reply(asking("completions", logprobs=2), "7", 0, TOKENIZER)
    choice = json.loads(reply.end("length", USAGE, "\ufffd", step))["choices"][0]
    assert choice["logprobs"]["top_logprobs"] == [{"\ufffd": -0.5}]


def test_a_completion_that_wants_no_alternatives_gets_none() -> None:
    choice = json.loads(b"".join(answer(asking("completions", logprobs=0))))["choices"][0]
    assert choice["logprobs"]["top_logprobs"] is None
    assert choice["logprobs"]["token_logprobs"] == [-0.5] * len(IDS)


@pytest.mark.parametrize("stream", [True, False])
def test_the_log_probabilities_of_a_chat(stream: bool) -> None:
    sent = answer(asking("chat", stream=stream, logprobs=2), alternatives=2)
    model: Any = ChatCompletionChunk if stream else ChatCompletion
    chunks = events(sent)[:-1] if stream else [json.loads(b"".join(sent))]
    content = [
        each for chunk in chunks for each in model.model_validate(chunk, strict=True).choices[0].logprobs.content or []
    ]
    assert len(content) == len(IDS)
    assert all(
        each.bytes is None if "\ufffd" in each.token else bytes(each.bytes).decode() == each.token for each in content
    )
    assert [top.logprob for top in content[0].top_logprobs] == [-0.5, -1.5]


@pytest.mark.parametrize("dialect", ["completions", "chat", "tgi"])
@pytest.mark.parametrize("logprob", [-math.inf, math.nan])
def test_a_logarithm_of_nothing_is_a_number(dialect: Dialect, logprob: float) -> None:
    reply = Reply(asking(dialect, stream=True, logprobs=1), "7", 0, TOKENIZER)
    sent = reply.chunk("x", Step("k", 5, logprob=logprob, top_logprobs=((5, logprob),)))
    assert sent.count(b"-9999.0") == 2


@pytest.mark.parametrize("dialect", ["text", "tgi", "completions", "chat"])
def test_engines_that_answer_in_text(dialect: Dialect) -> None:
    reply = Reply(asking(dialect, stream=True), "7", 0)
    sent = reply.chunk("one", Step("k", text="one")) + reply.end("stop", USAGE, " two", Step("k", text=" two"))
    if dialect == "text":
        assert sent == b"one two"
    elif dialect == "tgi":
        assert [line["token"]["text"] for line in events([sent])] == ["one", " two"]
    else:
        choices = [event["choices"][0] for event in events([sent])[:-1]]
        assert [choice.get("text") or choice["delta"]["content"] for choice in choices] == ["one", " two"]


def test_an_error_in_each_dialect() -> None:
    def told(dialect: Dialect, stream: bool) -> bytes:
        return Reply(asking(dialect, stream=stream), "7", 0).error("the engine\nis gone")

    error = {"message": "the engine\nis gone", "type": "server_error", "code": "generation_failed"}
    assert told("text", True) == b"\n[error] the engine\nis gone\n"
    assert events([told("tgi", True)]) == [{"error": "the engine\nis gone", "error_type": "generation"}]
    for dialect in ("completions", "chat"):
        assert events([told(dialect, True)]) == [{"error": error}]
        assert json.loads(told(dialect, False)) == {"error": error}


@pytest.mark.parametrize(
    ("dialect", "stream", "expected"),
    [
        ("tgi", True, "text/event-stream"),
        ("chat", True, "text/event-stream"),
        ("completions", False, "application/json"),
    ],
)
def test_content_types(dialect: Dialect, stream: bool, expected: str) -> None:
    assert Reply(asking(dialect, stream=stream), "7", 0).content_type == expected


def test_tokens_have_no_names_without_a_tokenizer() -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        Reply(asking("chat", logprobs=0), "7", 0)
