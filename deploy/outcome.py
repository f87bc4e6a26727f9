"""What a deployment's verb has to show: a table's rows, and the JSON document that ends its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """rows: alike in their keys."""

    rows: list[dict[str, Any]]
    document: dict[str, Any]
