"""The text that pydoc-llama learns: CPython's own `pydoc_data.topics`, cleaned, each paragraph once, in sections.

What `help("with")` prints is wrapped at 70 columns, underlined and full of tables; here a paragraph is one line, a
heading is a line of its own, and tables are left out. The text is another one for each version of Python: sha256 says
which. Knows nothing of tokens or models.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pydoc_data.topics import topics

HELD_OUT_SHARE = 0.06
"""Of the characters."""
SPLIT_SEED = 0
SHORT_PARAGRAPH = 60
"""Characters up to which a paragraph may stand twice: "Examples:" is no secret of any section."""

COLUMNS = 70
UNDERLINE = re.compile(r"([*=\-~^])\1{2,}")
RULE = re.compile(r"\s*[+|=-][-=+| ]{4,}")
LITERAL = re.compile(r">>>|::=|^\s*(?:\.\.\.|\$|@) ", re.MULTILINE)
LIST_MARK = re.compile(r"\s*(?:\*|\d+\.|\(\d+\)|\[\d+\]) +")
WIDE_GAP = re.compile(r"(?<=[.,:;?!)”]) {2,}")


@dataclass(frozen=True)
class Section:
    """title: as it stands; body: paragraphs, with their indentation."""

    title: str
    body: tuple[str, ...]

    @property
    def text(self) -> str:
        """Title and paragraphs, a blank line between them."""
        return "\n\n".join((self.title, *self.body))


@dataclass(frozen=True)
class Corpus:
    """Sections to learn from, and sections that no weight has seen."""

    train: tuple[Section, ...]
    held_out: tuple[Section, ...]

    @property
    def sha256(self) -> str:
        """Of everything, with the split."""
        plain = [[section.text for section in part] for part in (self.train, self.held_out)]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def corpus(source: dict[str, str] | None = None) -> Corpus:
    """The same corpus for the same source, which is topics by name; this Python's own when None."""
    sections = list(_without_repeats(topics if source is None else source))
    order = list(range(len(sections)))
    random.Random(SPLIT_SEED).shuffle(order)
    wanted = HELD_OUT_SHARE * sum(len(section.text) for section in sections)
    held_out: set[int] = set()
    for number in order:
        if wanted <= 0:
            break
        wanted -= len(sections[number].text)
        held_out.add(number)
    return Corpus(
        train=tuple(section for number, section in enumerate(sections) if number not in held_out),
        held_out=tuple(sections[number] for number in sorted(held_out)),
    )


def paragraphs(text: str) -> Iterator[str]:
    """Blocks between blank lines, unwrapped, without tables."""
    for block in re.split(r"\n[ \t]*\n+", text.expandtabs().strip("\n")):
        lines = [line.rstrip() for line in block.strip("\n").split("\n")]
        if any(RULE.fullmatch(line) for line in lines) and not UNDERLINE.fullmatch(lines[-1]):
            continue
        yield "\n".join(lines) if UNDERLINE.fullmatch(lines[-1]) else _unwrapped(lines)


def _sections(text: str) -> Iterator[Section]:
    title = ""
    body: list[str] = []
    for paragraph in paragraphs(text):
        lines = paragraph.split("\n")
        if len(lines) == 2 and UNDERLINE.fullmatch(lines[1]):
            if title and body:
                yield Section(title, tuple(body))
            title, body = lines[0].strip(), []
        else:
            body.append(paragraph)
    if title and body:
        yield Section(title, tuple(body))


def _without_repeats(source: dict[str, str]) -> Iterator[Section]:
    """A topic such as `compound` holds those of every statement in it; what came before is left out.

    A section that is mostly repeats is left out whole, since nothing but fragments would be left of it.
    """
    seen: set[str] = set()
    for name in sorted(source):
        for section in _sections(source[name]):
            body: list[str] = []
            new = 0
            for paragraph in section.body:
                plain = " ".join(paragraph.split())
                if len(plain) <= SHORT_PARAGRAPH:
                    body.append(paragraph)
                elif plain not in seen:
                    body.append(paragraph)
                    new += len(paragraph)
                    seen.add(plain)
            if 2 * new >= sum(map(len, section.body)):
                yield Section(section.title, tuple(body))


def _unwrapped(lines: list[str]) -> str:
    """A line's end is the writer's wrapping when the next line's first word would not have fitted any more."""
    block = "\n".join(lines)
    if LITERAL.search(block):
        return re.sub(r"(\S) +::= +", r"\1 ::= ", block)
    joined, width, indent = [lines[0]], len(lines[0]), _text_starts(lines[0])
    for line in lines[1:]:
        word = line.split()[0]
        if _indent(line) == indent and width + 1 + len(word) > COLUMNS:
            glue = "" if re.search(r"\w-$", joined[-1]) else " "
            joined[-1] += glue + line.strip()
        else:
            joined.append(line)
            indent = _text_starts(line)
        width = len(line)
    return "\n".join(WIDE_GAP.sub(" ", line) for line in joined)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _text_starts(line: str) -> int:
    mark = LIST_MARK.match(line)
    return mark.end() if mark else _indent(line)
