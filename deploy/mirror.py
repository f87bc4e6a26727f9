"""The mirror's process: sends copies of requests to a second endpoint and records how its answers differ.

    python -m deploy.mirror FOLDER

nginx posts a copy to a socket of this process and has its answer at once, so that nothing that happens to the copy
reaches the client: the other endpoint may be slow, broken or gone. What the first endpoint answered comes by a file
that nginx writes and this process empties. Both meet by nginx's id of the request. What cannot be sent or held in time
is counted as left out, never waited for. Records are FOLDER/mirror/pairs.jsonl and, of as many bytes before that,
pairs.1.jsonl, one line a request; mirror_report.py reads them. Knows nothing of models.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from deploy import background
from deploy.answers import Answer, compare
from model_configs.gateway import Mirror, file_of

MODULE = "deploy.mirror"
SOCKET = "mirror.sock"
SETTINGS_FILE = "mirror.json"
ANSWERS_FILE = "answers.jsonl"
"""Where nginx writes what was answered to requests that were copied; 64 MiB at most, if nobody reads it."""
RECORD_DIR = "mirror"
RECORD, OLDER_RECORD = "pairs.jsonl", "pairs.1.jsonl"
READ_EVERY_S = 0.2
MOST_READ = 1 << 20
"""Bytes of what was read that may stay on the disk while more comes."""
LONGEST_S = 900.0
"""After which half a pair is given up."""
KEPT_HEADERS = ("Content-Type", "Accept", "X-Request-Id")
PIECE_BYTES = 1 << 16
MOST_BYTES = 8 << 20
"""Of an answer that is compared; nginx keeps no more of the first endpoint's either."""


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


def write_settings(folder: Path, settings: Mirror) -> None:
    """Say what the mirror's process of this folder is to do."""
    (folder / SETTINGS_FILE).write_text(settings.model_dump_json() + "\n")


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
        "time": _now(),
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


class Mirroring:
    """Sends copies and brings answers together. folder: the gateway's."""

    def __init__(self, folder: Path, settings: Mirror) -> None:
        self._settings = settings
        self._spool = Spool(folder / ANSWERS_FILE)
        self._record = Record(folder / RECORD_DIR, settings.max_disk_mb << 20)
        self._waiting: queue.Queue[Copy] = queue.Queue(settings.max_in_flight)
        self._pairs = Pairs()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Send from here on."""
        for _ in range(self._settings.max_in_flight):
            threading.Thread(target=self._send, daemon=True).start()

    def take(self, copy: Copy) -> bool:
        """Have a copy sent, if there is room for it; never waits."""
        with self._lock:
            try:
                self._waiting.put_nowait(copy)
            except queue.Full:
                return False
            self._pairs.expect(copy, time.monotonic())
        return True

    def read_answers(self) -> None:
        """Take what nginx has written since the last call."""
        for line in self._spool.lines():
            key, answer = primary_answer(line)
            with self._lock:
                self._met(self._pairs.primary(key, answer))

    def tidy(self) -> None:
        """Give up what will not come any more, and record how much there is no pair of."""
        with self._lock:
            self._pairs.give_up(time.monotonic())
            if self._pairs.left_out:
                self._record.add({"time": _now(), "left_out": self._pairs.left_out})
                self._pairs.left_out = 0

    def _met(self, half: Half | None) -> None:
        if half and half.primary and half.mirror:
            bodies = self._settings.record == "bodies"
            self._record.add(record_line(half.copy, half.primary, half.mirror, bodies=bodies))

    def _send(self) -> None:
        session = requests.Session()
        session.trust_env = False
        while True:
            copy = self._waiting.get()
            answer = ask(session, self._settings, copy)
            with self._lock:
                self._met(self._pairs.mirrored(copy.key, answer))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def ask(session: requests.Session, settings: Mirror, copy: Copy) -> Answer:
    """Ask the other endpoint. Never raises: whatever goes wrong is its answer."""
    began_s = time.monotonic()
    deadline_s = began_s + settings.timeout_s
    headers = dict(copy.headers)
    try:
        if settings.key_file:
            headers["Authorization"] = f"Bearer {file_of(settings.key_file).read_text().strip()}"
        with session.request(
            copy.method,
            settings.url.rstrip("/") + copy.path,
            data=copy.body,
            headers=headers,
            timeout=settings.timeout_s,
            stream=True,
            verify=str(file_of(settings.ca_file)) if settings.ca_file else True,
            allow_redirects=False,
        ) as reply:
            pieces, size, error = [], 0, ""
            while piece := reply.raw.read1(PIECE_BYTES, decode_content=True):
                size += len(piece)
                pieces.append(piece)
                if time.monotonic() > deadline_s:
                    return Answer(None, error=f"no whole answer in {settings.timeout_s:g} s")
                if size > MOST_BYTES:
                    error = f"more than {MOST_BYTES} bytes, too many to compare"
                    break
            content_type = reply.headers.get("Content-Type", "")
            return Answer(reply.status_code, content_type, b"".join(pieces), time.monotonic() - began_s, error)
    except (requests.Timeout, ReadTimeoutError):
        return Answer(None, error=f"no answer in {settings.timeout_s:g} s")
    except (requests.RequestException, HTTPError, OSError) as problem:
        return Answer(None, error=type(problem).__name__)


class Listener(ThreadingMixIn, UnixStreamServer):
    """Takes copies from nginx."""

    daemon_threads = True
    request_queue_size = 512
    mirroring: Mirroring


class Handler(BaseHTTPRequestHandler):
    """A copy of a request, answered before anything is done with it."""

    protocol_version = "HTTP/1.1"
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name in KEPT_HEADERS if (value := self.headers.get(name))}
        key, path = self.headers["X-Mirror-Id"], self.headers["X-Mirror-Path"]
        taken = self.server.mirroring.take(Copy(key, self.command, path, headers, body))
        self.send_response_only(200 if taken else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_POST

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: there is the record."""


def main(folder: Path) -> None:
    """Listen in folder, which is the working directory, until a signal ends it."""
    settings = Mirror.model_validate_json(Path(SETTINGS_FILE).read_text())
    Path(SOCKET).unlink(missing_ok=True)
    with Listener(SOCKET, Handler) as listener:
        background.detach(MODULE, folder)
        listener.mirroring = Mirroring(folder, settings)
        listener.mirroring.start()
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        while True:
            time.sleep(READ_EVERY_S)
            listener.mirroring.read_answers()
            listener.mirroring.tidy()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
