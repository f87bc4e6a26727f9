from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servekit.generation.text import MAX_WINDOW_TOKENS, TextStream, token_text
from tests.fakes.tiny_tokenizers import BYTES, TEXTS, byte_level, metaspace, sentencepiece

KINDS: list[Callable[[], Any]] = [byte_level, sentencepiece, metaspace]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
sentences = st.lists(st.sampled_from(TEXTS) | st.text(max_size=8), max_size=4).map("".join)


def decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def stream_of(tokenizer: Any, ids: list[int], stop: tuple[str, ...] = (), tail: tuple[int, ...] = ()) -> list[str]:
    """What is returned for each token and at the end."""
    stream = TextStream(tokenizer, stop, tail)
    return [*(stream.push(token_id) for token_id in ids), stream.finish()]


def byte_ids(tokenizer: Any, data: bytes) -> list[int]:
    """One token for each byte."""
    if tokenizer is sentencepiece():
        return tokenizer.convert_tokens_to_ids([BYTES[byte] for byte in data])
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return tokenizer.convert_tokens_to_ids([bytes_to_unicode()[byte] for byte in data])


@given(st.data())
@each_kind
def test_the_pieces_of_any_tokens_are_the_text_of_all(kind: Callable[[], Any], data: st.DataObject) -> None:
    tokenizer = kind()
    broken = set(byte_ids(tokenizer, bytes(range(256)))) if kind is sentencepiece else set()
    ids = data.draw(st.lists(st.sampled_from([each for each in range(len(tokenizer)) if each not in broken])))
    assert "".join(stream_of(tokenizer, ids)) == decode(tokenizer, ids)


@given(sentences)
@each_kind
def test_the_pieces_of_a_text_are_that_text(kind: Callable[[], Any], text: str) -> None:
    tokenizer = kind()
    ids = tokenizer(text)["input_ids"]
    pieces = stream_of(tokenizer, ids)
    assert "".join(pieces) == decode(tokenizer, ids)
    for piece in pieces:
        piece.encode()  # no half of a character


@given(st.lists(st.integers(0, 255) | st.sampled_from(list("中😀é".encode()))).map(bytes))
@example("中😀".encode() * 40)
@example(b"\xe4" * 3 * MAX_WINDOW_TOKENS + "é".encode())
def test_broken_utf8_is_what_decode_makes_of_it(data: bytes) -> None:
    ids = byte_ids(byte_level(), data)
    assert "".join(stream_of(byte_level(), ids)) == decode(byte_level(), ids) == data.decode(errors="replace")


def test_a_character_is_whole_wherever_the_window_is_shortened() -> None:
    for broken in range(2 * MAX_WINDOW_TOKENS):
        data = b"\xff" * broken + "😀".encode()
        assert "".join(stream_of(byte_level(), byte_ids(byte_level(), data))) == data.decode(errors="replace")


@given(st.binary(max_size=12), st.text(max_size=5))
@example(b"", " ")
@example(b"\xe4", "  ")
def test_of_byte_tokens_whole_characters_stay(data: bytes, text: str) -> None:
    """Where decode gives up the whole run of bytes."""
    tokenizer = sentencepiece()
    words = tokenizer(" more", add_special_tokens=False)["input_ids"]
    ids = [*words, *byte_ids(tokenizer, data + text.encode()), *words]
    assert "".join(stream_of(tokenizer, ids)) == " more" + (data + text.encode()).decode(errors="replace") + "  more"


def test_a_character_of_byte_tokens_comes_with_its_last_one() -> None:
    tokenizer = sentencepiece()
    assert stream_of(tokenizer, byte_ids(tokenizer, "é中".encode())) == ["", "é", "", "", "中", ""]


@pytest.mark.parametrize("kind", [byte_level, sentencepiece])
@pytest.mark.parametrize("between", [1, 3 * MAX_WINDOW_TOKENS])
def test_special_tokens_inside_of_a_character_are_not_there(kind: Callable[[], Any], between: int) -> None:
    tokenizer = kind()
    first, *rest = byte_ids(tokenizer, "中".encode())
    ids = [first, *[tokenizer.eos_token_id] * between, *rest]
    assert "".join(stream_of(tokenizer, ids)) == decode(tokenizer, ids) == "中"


@pytest.mark.parametrize("between", [1, 3 * MAX_WINDOW_TOKENS])
@each_kind
def test_special_tokens_take_no_space_away(kind: Callable[[], Any], between: int) -> None:
    tokenizer = kind()
    words = tokenizer(" more", add_special_tokens=False)["input_ids"]
    ids = [*words, *[tokenizer.eos_token_id] * between, *words]
    assert "".join(stream_of(tokenizer, ids)) == decode(tokenizer, ids)


@each_kind
def test_behind_a_prompt_the_first_word_keeps_its_space(kind: Callable[[], Any]) -> None:
    tokenizer = kind()
    prompt, answer = (tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("What do you", "more"))
    if kind is byte_level:
        answer = tuple(tokenizer(" more", add_special_tokens=False)["input_ids"])
    assert "".join(stream_of(tokenizer, list(answer), tail=prompt)) == " more"
    assert "".join(stream_of(tokenizer, list(answer), tail=prompt * 20)) == " more"


@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=2).map("".join), st.data())
@each_kind
def test_a_stop_string_is_found_wherever_tokens_cut_it(kind: Callable[[], Any], text: str, data: st.DataObject) -> None:
    tokenizer = kind()
    ids = tokenizer(text)["input_ids"]
    text = decode(tokenizer, ids)
    start = data.draw(st.integers(0, len(text) - 1))
    stop = text[start : data.draw(st.integers(start + 1, min(len(text), start + 12)))]
    stream = TextStream(tokenizer, [stop])
    sent = ""
    for token_id in ids:
        sent += stream.push(token_id)
        assert text.startswith(sent)
        assert len(sent) <= text.index(stop)
    assert sent + stream.finish() == text[: text.index(stop)]
    assert stream.stopped
    assert stream.push(ids[-1]) == stream.push_text("more") == stream.finish() == ""


def completed_first(text: str, stops: list[str]) -> str:
    """The text up to the stop string that is complete first, letter by letter."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


letters = st.text("ab", min_size=1, max_size=4)


@given(st.lists(st.text("abc", max_size=4)), st.lists(letters, max_size=4))
@example(["abc", "d"], ["abcd", "bc"])
def test_of_several_stop_strings_the_first_complete_one_counts_however_text_is_cut(
    pieces: list[str], stops: list[str]
) -> None:
    stream = TextStream(byte_level(), stops)
    expected, sent = completed_first("".join(pieces), stops), ""
    for piece in pieces:
        sent += stream.push_text(piece)
        assert expected.startswith(sent)
    assert sent + stream.finish() == expected
    assert stream.stopped == (expected != "".join(pieces))


def test_nothing_is_held_back_that_begins_no_stop_string() -> None:
    stream = TextStream(byte_level(), ["\nUser:", "###"])
    assert [stream.push_text(text) for text in ("no.", "\n", "You", "\nUse", " it\n")] == [
        "no.",
        "",
        "\nYou",
        "",
        "\nUse it",
    ]
    assert stream.finish() == "\n"


def test_a_stop_string_can_end_in_what_finish_gives() -> None:
    stream = TextStream(byte_level(), ["\ufffd"])
    assert stream.push(byte_ids(byte_level(), b"\xe4")[0]) == stream.finish() == ""
    assert stream.stopped


@pytest.mark.parametrize("kind", [byte_level, sentencepiece])
def test_the_cost_of_a_token_does_not_grow(kind: Callable[[], Any]) -> None:
    """Counted in token ids that are decoded, for text, for broken bytes and for special tokens."""
    tokenizer = kind()
    decoded: list[int] = []

    class Counting:
        def get_vocab(self) -> dict[str, int]:
            return tokenizer.get_vocab()

        def decode(self, ids: list[int], **options: Any) -> str:
            decoded.append(len(ids))
            return tokenizer.decode(ids, **options)

    text = tokenizer("".join(TEXTS * 8))["input_ids"]
    for ids in (text, byte_ids(tokenizer, b"\xff" * 500), [tokenizer.eos_token_id] * 500):
        decoded.clear()
        stream_of(Counting(), ids)
        assert max(decoded, default=0) <= MAX_WINDOW_TOKENS + 1
        assert sum(decoded) <= MAX_WINDOW_TOKENS * len(ids)


@each_kind
def test_a_token_s_name_is_its_text_inside_of_a_sentence(kind: Callable[[], Any]) -> None:
    tokenizer = kind()
    piece = "Ġmore" if kind is byte_level else "▁more"
    assert token_text(tokenizer, tokenizer.convert_tokens_to_ids(piece)) == " more"
    assert token_text(tokenizer, tokenizer.eos_token_id) == "</s>"


def test_a_byte_s_name_is_its_letter_or_the_replacement_character() -> None:
    assert [token_text(sentencepiece(), each) for each in byte_ids(sentencepiece(), b"A\xe4")] == ["A", "\ufffd"]
