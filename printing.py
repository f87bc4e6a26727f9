"""How the command line speaks: tables for people, one JSON document as the last line, errors in two lines.

Knows nothing of the kit's verbs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
out = Console(**PLAIN, width=None if sys.stdout.isatty() else 160)
err = Console(**PLAIN, stderr=True)


def report(rows: list[dict[str, Any]], document: dict[str, Any], json_file: Path | None) -> None:
    """A table for people, then one JSON document as the last line; to json_file too if there is one."""
    table(rows)
    out.print(json.dumps(document))
    if json_file:
        write_json(document, json_file)


def table(rows: list[dict[str, Any]]) -> None:
    """Rows of the same keys, if there are any."""
    if rows:
        shown = Table(*rows[0], box=None, header_style="bold", pad_edge=False)
        for row in rows:
            shown.add_row(*(_cell(value) for value in row.values()))
        out.print(shown)


def write_json(document: dict[str, Any], path: Path) -> None:
    """The document, indented."""
    path.write_text(json.dumps(document, indent=2) + "\n")


def explain(message: str, hint: str = "", *, traceback: bool = False) -> None:
    """An error's line and its hint's; traceback: of the exception being handled, before them."""
    if traceback:
        err.print_exception()
    err.print("error:", style="bold red", end=" ")
    err.print(message)
    if hint:
        err.print("hint:", style="bold", end=" ")
        err.print(hint)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "–"
    return "–" if value in (None, "") else str(value)
