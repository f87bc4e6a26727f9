"""What is sent: the requests of a folder, ready for the wire. Knows nothing of endpoints and of when they are sent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest import run
from model_configs import ROOT
from model_configs.errors import KitError
from servekit.strict import closest

PAYLOADS = ROOT / "loadtest" / "payloads"
JSON = "application/json"
CONTENT_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".txt": "text/plain",
    ".npy": "application/x-npy",
    ".json": JSON,
}
"""Files that are a request each; a .jsonl file holds a JSON request a line."""


@dataclass(frozen=True)
class Payload:
    """One request's body. name: its file's, and for a line of a file `queries.jsonl:17`; items: texts or images."""

    name: str
    body: bytes
    content_type: str
    items: int


def find(name: str) -> Path:
    """A folder of loadtest/payloads by its name, or any folder. Raises KitError with the closest name."""
    known = {path.name: path for path in PAYLOADS.iterdir() if path.is_dir()}
    if name in known:
        return known[name]
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    near = closest(name, known)
    advice = f"did you mean {near!r}?" if near else f"one of {', '.join(sorted(known))}, or a path"
    raise KitError(f"there are no payloads {name!r}", advice)


def load(folder: Path) -> list[Payload]:
    """A folder's requests by file name, those of a .jsonl file in its order.

    Raises KitError that names the file when it is of no known kind or no JSON, or when there is no request at all.
    """
    found = [payload for path in sorted(folder.iterdir()) for payload in _of_file(path)]
    if not found:
        raise KitError(f"{folder} holds no payloads", f"files that end in {_endings()}")
    return found


def sha256(payloads: Sequence[Payload]) -> str:
    """Of what is sent, in order; names do not count."""
    return run.sha256(*(part for each in payloads for part in (each.content_type.encode(), each.body)))


def _of_file(path: Path) -> Iterator[Payload]:
    kind = path.suffix.lower()
    if not path.is_file() or kind not in (*CONTENT_TYPES, ".jsonl"):
        raise KitError(f"{path} is no payload", f"files that end in {_endings()}")
    body = path.read_bytes()
    if kind == ".jsonl":
        for number, line in enumerate(body.splitlines(), 1):
            if line.strip():
                name = f"{path.name}:{number}"
                yield Payload(name, line.strip(), JSON, _items(line, path.with_name(name)))
    else:
        yield Payload(path.name, body, CONTENT_TYPES[kind], _items(body, path) if kind == ".json" else 1)


def _items(body: bytes, where: Path) -> int:
    try:
        document = json.loads(body)
    except ValueError as error:
        raise KitError(
            f"{where} is no JSON: {error}", "a whole JSON document a file, in .jsonl files one a line"
        ) from None
    for key in ("inputs", "input"):
        if isinstance(document, dict) and isinstance(found := document.get(key), list):
            return len(found)
    return 1


def _endings() -> str:
    return ", ".join(sorted((*CONTENT_TYPES, ".jsonl")))
