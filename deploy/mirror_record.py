"""What the mirror keeps: halves of pairs until they have met, what nginx writes of the first endpoint's answers, and
the record of how both differ. Knows nothing of sockets.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.answers import Answer, compare

RECORD_DIR = "mirror"
RECORD, OLDER_RECORD = "pairs.jsonl", "pairs.1.jsonl"
MOST_READ = 1 << 20
"""Bytes of what was read that may stay on the disk while more comes."""
LONGEST_S = 900.0
"""After which half a pair is given up."""


@dataclass(frozen=True)
class Copy:
    """A request as the client sent it. key: nginx's id; request_id: the client's, or nginx's."""

    key: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def request_id(self) -> str:
        return self.headers.get("X-Request-Id", self.key)


@dataclass
class Half:
    """What is there of a pair so far."""

    copy: Copy
    since_s: float
    primary: Answer | None = None
    mirror: Answer | None = None


class Pairs:
    """Both endpoints' answers, until they have met. Not for several threads at once."""

    def __init__(self) -> None:
        self._halves: dict[str, Half] = {}
        self.left_out = 0
        """Requests that nginx would have had copied, of which there will be no pair."""

    def expect(self, copy: Copy, now_s: float) -> None:
        """A copy was taken."""
        self._halves[copy.key] = Half(copy, now_s)

    def primary(self, key: str, answer: Answer) -> Half | None:
        """The first endpoint's answer came. The pair, if that completes it.

        nginx tells it when it has our answer to the copy or has given that up: one of which nothing is known here
        was not taken.
        """
        if half := self._halves.get(key):
            half.primary = answer
        else:
            self.left_out += 1
        return self._whole(key)

    def mirrored(self, key: str, answer: Answer) -> Half | None:
        """The second endpoint's answer came, or will not come. The pair, if that completes it."""
        if half := self._halves.get(key):
            half.mirror = answer
        return self._whole(key)

    def give_up(self, now_s: float) -> None:
        """Forget what has waited too long."""
        late = [key for key, half in self._halves.items() if now_s - half.since_s > LONGEST_S]
        self.left_out += len(late)
        for key in late:
            del self._halves[key]

    def _whole(self, key: str) -> Half | None:
        half = self._halves.get(key)
        return self._halves.pop(key) if half and half.primary and half.mirror else None


class Spool:
    """A file that nginx appends to, read line by line and emptied."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        # Before nginx makes it: answers are nobody else's to read.
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)

    def lines(self) -> list[bytes]:
        """Whole lines since the last call. What was read is gone from the disk when no more comes, or soon after."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        is_due = self._position > MOST_READ or (self._position and not data)
        if is_due and self._path.stat().st_size == self._position:
            # A line that nginx writes between these two calls is lost, and counts as left out.
            os.truncate(self._path, 0)
            self._position = 0
        return whole.splitlines()


def primary_answer(line: bytes) -> tuple[str, Answer]:
    """nginx's id and the first endpoint's answer, of a line that nginx wrote."""
    told = json.loads(line)
    seconds = [float(each) for each in told["s"].replace(":", ",").split(",") if each.strip() not in ("", "-")]
    size, body = int(told["bytes"] or 0), base64.b64decode(told["body"])
    error = "" if len(body) == size else f"{size} bytes, too many to compare"
    return told["id"], Answer(told["status"], told["content_type"], body, sum(seconds), error)


def record_line(copy: Copy, primary: Answer, mirror: Answer, *, bodies: bool) -> dict[str, Any]:
    """What is kept of a pair. Figures and digests alone, unless bodies are wanted."""
    too_large = primary.error or (mirror.error if mirror.status is not None else "")
    line: dict[str, Any] = {
        "time": now(),
        "id": copy.request_id,
        "path": copy.path,
        "compared": not too_large,
        "difference": compare(primary, mirror).as_dict() if not too_large else {"what": too_large},
    }
    for name, answer in (("primary", primary), ("mirror", mirror)):
        line[name] = {
            "status": answer.status,
            "ms": round(1e3 * answer.seconds, 1) if answer.seconds is not None else None,
            "sha256": hashlib.sha256(answer.body).hexdigest()[:16],
            "bytes": len(answer.body),
        }
        if answer.error:
            line[name]["error"] = answer.error
        if bodies:
            line[name]["body"] = base64.b64encode(answer.body).decode()
    if bodies:
        line["request"] = base64.b64encode(copy.body).decode()
    return line


class Record:
    """Lines in two files of half the bytes each, readable by their owner alone."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path, self._older = folder / RECORD, folder / OLDER_RECORD
        self._most_bytes = most_bytes // 2
        self._size = self._path.stat().st_size if self._path.exists() else 0

    def add(self, line: dict[str, Any]) -> None:
        """Append a line; one that is too large for any file is left out."""
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        if len(data) > self._most_bytes:
            return
        if self._size + len(data) > self._most_bytes:
            self._path.replace(self._older)
            self._size = 0
        with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
            file.write(data)
        self._size += len(data)


def now() -> str:
    """The time, for the record."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
