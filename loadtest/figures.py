"""Where benchmarks write: tables under docs/benchmarks and in the README. Knows nothing of what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from model_configs import ROOT

BENCHMARKS = ROOT / "docs" / "benchmarks"
README = ROOT / "README.md"
END = "<!-- end of figures -->"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write_readme(verb: str, text: str) -> None:
    """Put text between the README's marks of `make VERB`."""
    start_mark = f"<!-- figures: written by `make {verb}` -->"
    readme = README.read_text()
    start = readme.index(start_mark) + len(start_mark)
    end = readme.index(END, start)
    README.write_text(f"{readme[:start]}\n{text}\n{readme[end:]}")
