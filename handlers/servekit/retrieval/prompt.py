"""A prompt out of a question and the passages that answer it, by a template of the YAML. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter

from servekit.retrieval.passages import Passage

PROMPT_FIELDS = ("context", "question")
PASSAGE_FIELDS = ("number", "source", "title", "text")


def template_problem(template: str, fields: Sequence[str], needed: Sequence[str]) -> str:
    """What is wrong with a template for str.format, or the empty string."""
    try:
        found = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        return f"{error}; a brace of the text itself is written twice"
    if unknown := [name for name in found if name not in fields]:
        return f"{{{unknown[0]}}} is none of {', '.join(f'{{{name}}}' for name in fields)}"
    if missing := [name for name in needed if name not in found]:
        return f"{{{missing[0]}}} is missing"
    return ""


def prompt_of(question: str, passages: Sequence[Passage], template: str, passage_template: str, most_chars: int) -> str:
    """The prompt: passages by their template, best first, as many as fit into most_chars characters.

    The first one is cut where it alone is too long, so that there is always one.
    """
    parts: list[str] = []
    left = most_chars
    for number, passage in enumerate(passages, 1):
        part = passage_template.format(
            number=number, source=passage.source, title=passage.title, text=passage.text.strip()
        )
        if len(part) > left:
            if parts:
                break
            part = part[:left]
        parts.append(part)
        left -= len(part)
    return template.format(context="\n\n".join(parts), question=question)
