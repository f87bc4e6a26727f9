"""What an index is of: passages, and filters that choose among them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

FIELDS = ("source", "title")
"""Of a passage, that a filter may name."""
Filter = tuple[tuple[str, tuple[str, ...]], ...]
"""Fields, each with the patterns of which one has to match, as a shell's: source *.md."""


@dataclass(frozen=True)
class Passage:
    """A piece of a document. source: path, URL or topic; title: of the document; start: its first character there."""

    source: str
    title: str
    start: int
    text: str


def matches(passage: Passage, wanted: Filter) -> bool:
    """Whether each field of the filter fits one of its patterns."""
    return all(any(fnmatchcase(getattr(passage, name), pattern) for pattern in patterns) for name, patterns in wanted)
