"""Replies read piece by piece: what counts as text, as a token, as an end, and what is an error."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.replies import Stream, Wrong, check_whole

SSE = "text/event-stream"


def event(**keys: object) -> bytes:
    return b"data: " + json.dumps(keys).encode() + b"\n\n"


def text(words: str) -> bytes:
    return event(choices=[{"text": words, "index": 0, "finish_reason": None}])


OPENAI = [
    event(choices=[{"delta": {"role": "assistant", "content": ""}}]),
    text("Der Bär "),
    b": still here\n\n",
    text("brummt"),
    event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 7}),
    b"data: [DONE]\n\n",
]
TGI = [
    b'data:{"token":{"id":1,"text":"a","special":false},"generated_text":null,"details":null}\n\n',
    b'data:{"token":{"id":2,"text":"b","special":false},"generated_text":null,"details":null}\n\n',
    b'data:{"token":{"id":0,"text":"","special":true},"generated_text":"ab","details":{"generated_tokens":2}}\n\n',
]
LINES = [b'{"text": "a"}\n', b'{"text": "b"}\n', b'{"usage": {"prompt_tokens": 1, "completion_tokens": 2}}\n']


def fed(content_type: str, pieces: list[bytes]) -> Stream:
    """One piece a second, from second 1."""
    stream = Stream(content_type)
    for second, piece in enumerate(pieces, 1):
        stream.feed(piece, float(second))
    stream.finish(float(len(pieces) + 1))
    return stream


def test_time_to_first_token_is_of_the_first_text_not_of_the_role() -> None:
    stream = fed(SSE, OPENAI)
    assert (stream.first_s, stream.last_s, stream.gaps_ms) == (2.0, 4.0, [2000.0])
    assert (stream.tokens_in, stream.tokens_out) == (5, 7)


@pytest.mark.parametrize(("content_type", "pieces"), [(SSE, TGI), ("application/x-ndjson", LINES)])
def test_tgi_and_json_lines_name_their_tokens(content_type: str, pieces: list[bytes]) -> None:
    stream = fed(content_type, pieces)
    assert (stream.first_s, stream.gaps_ms, stream.tokens_out) == (1.0, [1000.0], 2)


def test_plain_text_counts_chunks_and_needs_no_end_mark() -> None:
    stream = fed("text/plain; charset=utf-8", [b"Der B", b"\xc3", b"\xa4r"])
    assert (stream.chunks, stream.tokens_out) == (3, None)


def test_events_in_one_piece_are_one_chunk() -> None:
    stream = fed(SSE, [text("a") + text("b"), text("c"), OPENAI[-1]])
    assert (stream.chunks, stream.gaps_ms) == (2, [1000.0])


@given(cuts=st.lists(st.integers(0, 400)), pieces=st.sampled_from([OPENAI, TGI, LINES]))
def test_it_does_not_matter_where_bytes_are_cut(cuts: list[int], pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    stream = Stream(SSE)
    for start, end in pairwise(places):
        stream.feed(whole[start:end], 1.0)
    stream.finish(2.0)
    assert stream.ended
    assert stream.tokens_out == (7 if pieces is OPENAI else 2)
    assert 1 <= stream.chunks <= 2


@pytest.mark.parametrize(
    ("content_type", "pieces", "kind"),
    [
        (SSE, OPENAI[:-1], "stream_cut"),
        (SSE, TGI[:-1], "stream_cut"),
        (SSE, [text("a"), b'data: {"error": {"message": "no memory"}}\n\n'], "stream_error"),
        (SSE, [b'data:{"error":"no memory","error_type":"generation"}\n\n'], "stream_error"),
        ("text/plain", [b"half a sen", b"tence\n[err", b"or] no memory\n"], "stream_error"),
        (SSE, [b"data: {half\n\n"], "wrong_answer"),
        (SSE, [b"data: [1]\n\n"], "wrong_answer"),
        (SSE, [OPENAI[0], OPENAI[-1]], "wrong_answer"),
        ("application/json", [b'{"error": {"message": "the engine failed"}}'], "stream_error"),
    ],
)
def test_a_stream_that_goes_wrong_says_how(content_type: str, pieces: list[bytes], kind: str) -> None:
    with pytest.raises(Wrong) as wrong:
        fed(content_type, pieces)
    assert wrong.value.kind == kind


def test_whole_answers() -> None:
    assert check_whole(b"[[0.1, 0.2]]", "application/json") == (None, None)
    assert check_whole(b'{"usage": {"prompt_tokens": 3, "completion_tokens": 4}}', "application/json") == (3, 4)
    assert check_whole(b"\x93NUMPY", "application/x-npy") == (None, None)
    for body in (b"", b"{half", b'{"error": "no"}'):
        with pytest.raises(Wrong):
            check_whole(body, "application/json; charset=utf-8")
