"""List operations' answers: filtered, sorted, in pages. Knows only names and times of what it lists."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from deploy.emulator.errors import invalid

PAGE = 10
SUMMARY = ("Name", "Arn", "Status")


def listed(key: str, kind: str, found: Iterable[dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
    """kind: Model, EndpointConfig or Endpoint, the first word of its members' names."""
    chosen = [document for document in found if _wanted(document, kind, request)]
    by = f"{kind}Name" if request.get("SortBy") == "Name" else "CreationTime"
    order = request.get("SortOrder", "Descending")
    chosen.sort(key=lambda document: document[by], reverse=order == "Descending")
    begin = _place(request.get("NextToken", "0"))
    end = begin + request.get("MaxResults", PAGE)
    names = [f"{kind}{part}" for part in SUMMARY] + ["CreationTime", "LastModifiedTime"]
    page = [{name: each[name] for name in names if name in each} for each in chosen[begin:end]]
    return {key: page} | ({"NextToken": str(end)} if end < len(chosen) else {})


def _wanted(document: dict[str, Any], kind: str, request: dict[str, Any]) -> bool:
    times = (
        ("CreationTimeBefore", "CreationTime", -1),
        ("CreationTimeAfter", "CreationTime", 1),
        ("LastModifiedTimeBefore", "LastModifiedTime", -1),
        ("LastModifiedTimeAfter", "LastModifiedTime", 1),
    )
    return (
        request.get("NameContains", "").lower() in document[f"{kind}Name"].lower()
        and request.get("StatusEquals") in (None, document.get("EndpointStatus"))
        and all(
            sign * (document[member] - _seconds(request[name])) > 0 for name, member, sign in times if name in request
        )
    )


def _place(token: str) -> int:
    if not token.isdecimal():
        raise invalid(f"NextToken {token} was not given by this operation.")
    return int(token)


def _seconds(time: str | float) -> float:
    return datetime.fromisoformat(time).timestamp() if isinstance(time, str) else float(time)
