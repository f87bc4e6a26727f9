"""What a deployment's verb has to show: a table's rows, and the JSON document that ends its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """rows: alike in their keys; failed: why what was looked at is not as it should be, empty when it is."""

    rows: list[dict[str, Any]]
    document: dict[str, Any]
    failed: str = ""
