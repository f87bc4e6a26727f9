"""Passages: nothing of a text is lost, each stands where it says, none is longer than it may be."""

from __future__ import annotations

from itertools import pairwise
from pydoc_data.topics import topics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archives.indexing.sources import Document
from archives.indexing.split import passages
from servekit.retrieval.passages import Passage

WORDS = st.text(alphabet="ab1é漢 \n\t#`-*.\u00a0", max_size=300)
SOURCES = st.sampled_from(["a.txt", "a.md"])


def left_out(text: str, found: list[Passage]) -> str:
    """The characters that are in no passage."""
    covered = {place for each in found for place in range(each.start, each.start + len(each.text))}
    return "".join(letter for place, letter in enumerate(text) if place not in covered)


@given(text=WORDS, source=SOURCES, size=st.integers(1, 40))
def test_without_overlap_every_character_is_in_one_passage(text: str, source: str, size: int) -> None:
    found = passages(Document(source, "t", text), size, 0)
    assert all(text[each.start : each.start + len(each.text)] == each.text for each in found)
    assert all(0 < len(each.text) <= size for each in found)
    assert all(before.start + len(before.text) <= after.start for before, after in pairwise(found))
    assert not any(map(str.isalnum, left_out(text, found)))


@given(text=st.text(alphabet="ab1é漢 \n\t", max_size=300), source=SOURCES, size=st.integers(1, 40))
def test_of_words_alone_only_blanks_are_left(text: str, source: str, size: int) -> None:
    found = passages(Document(source, "t", text), size, 0)
    assert set(left_out(text, found)) <= set(" \n\t")


@given(text=WORDS, source=SOURCES, size=st.integers(1, 40), share=st.floats(0, 0.99))
def test_with_overlap_passages_stand_where_they_say(text: str, source: str, size: int, share: float) -> None:
    found = passages(Document(source, "t", text), size, int(size * share))
    assert all(text[each.start : each.start + len(each.text)] == each.text for each in found)
    assert all(0 < len(each.text) <= size for each in found)


def test_neighbours_share_what_overlaps() -> None:
    text = " ".join(f"w{number}" for number in range(40))
    found = passages(Document("a.txt", "t", text), 40, 15)
    for before, after in pairwise(found):
        shared = before.start + len(before.text) - after.start
        assert 0 < shared <= 15
    assert left_out(text, found).strip() == ""


def test_a_passage_knows_its_document() -> None:
    assert passages(Document("a/b.txt", "T", "\n\none\n\ntwo"), 5, 0) == [
        Passage("a/b.txt", "T", 2, "one"),
        Passage("a/b.txt", "T", 7, "two"),
    ]


def test_rules_and_ornaments_are_no_passages() -> None:
    found = passages(Document("a.txt", "T", "one\n\n=====\n\n* * *\n\ntwo"), 5, 0)
    assert [each.text for each in found] == ["one", "two"]
    assert passages(Document("a.txt", "T", "***\n\n---"), 5, 0) == []


@pytest.mark.parametrize("source", ["a.md", "a.MARKDOWN", "http://h/a.md?raw=1"])
def test_markdown_is_cut_before_headings(source: str) -> None:
    text = "para one\n\npara two\n## Heading\npara three"
    assert [each.text for each in passages(Document(source, "T", text), 30, 0)] == [
        "para one\n\npara two",
        "## Heading\npara three",
    ]
    assert [each.text for each in passages(Document("a.txt", "T", text), 30, 0)] == [
        "para one",
        "para two\n## Heading\npara three"[:30].rpartition("\n")[0],
        "para three",
    ]


def test_all_of_pydoc_s_topics() -> None:
    for name, text in topics.items():
        found = passages(Document(name, name, text), 1000, 100)
        assert all(text[each.start : each.start + len(each.text)] == each.text for each in found)
        assert not any(map(str.isalnum, left_out(text, found)))
