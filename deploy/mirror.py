"""The mirror's process: sends copies of requests to a second endpoint and records how its answers differ.

    python -m deploy.mirror FOLDER

nginx posts a copy to a socket of this process and has its answer at once, so that nothing that happens to the copy
reaches the client: the other endpoint may be slow, broken or gone. What the first endpoint answered comes by a file
that nginx writes and this process empties. Both meet by nginx's id of the request. What cannot be sent or held in time
is counted as left out, never waited for. Records are FOLDER/mirror/pairs.jsonl and, of as many bytes before that,
pairs.1.jsonl, one line a request (mirror_record.py); mirror_report.py reads them. Knows nothing of models.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from deploy import background
from deploy.answers import Answer
from deploy.mirror_record import RECORD_DIR, Copy, Half, Pairs, Record, Spool, now, primary_answer, record_line
from model_configs.gateway import Mirror, file_of

MODULE = "deploy.mirror"
SOCKET = "mirror.sock"
SETTINGS_FILE = "mirror.json"
ANSWERS_FILE = "answers.jsonl"
"""Where nginx writes what was answered to requests that were copied; 64 MiB at most, if nobody reads it."""
READ_EVERY_S = 0.2
KEPT_HEADERS = ("Content-Type", "Accept", "X-Request-Id")
PIECE_BYTES = 1 << 16
MOST_BYTES = 8 << 20
"""Of an answer that is compared; nginx keeps no more of the first endpoint's either."""


def write_settings(folder: Path, settings: Mirror) -> None:
    """Say what the mirror's process of this folder is to do."""
    (folder / SETTINGS_FILE).write_text(settings.model_dump_json() + "\n")


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
                self._record.add({"time": now(), "left_out": self._pairs.left_out})
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
