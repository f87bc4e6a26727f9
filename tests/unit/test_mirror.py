"""How the mirror's process asks the other endpoint, and what it does with more than it can hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import requests

from deploy import mirror
from deploy.answers import Answer
from deploy.mirror import Mirroring, ask
from deploy.mirror_record import RECORD, RECORD_DIR, Copy
from model_configs.gateway import Mirror


def copy(key: str = "k", **headers: str) -> Copy:
    return Copy(key, "POST", "/invocations", headers, b'{"inputs": "secret"}')


ANSWER = b'{"id": "%d", "status": 200, "content_type": "", "s": "0.1", "bytes": "0", "body": ""}'


class Second(BaseHTTPRequestHandler):
    """The other endpoint: its path says what it does."""

    stop = Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/drip"):
            self.send_response(200)
            self.end_headers()
            while not self.stop.wait(0.05):
                self.wfile.write(b"x")
            return
        if self.path.endswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = json.dumps({"path": self.path, "key": self.headers["Authorization"]}).encode()
        if self.path.endswith("/large"):
            body = b"x" * (mirror.MOST_BYTES + 1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def second() -> Iterator[str]:
    Second.stop.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Second)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    Second.stop.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_asking_the_other_endpoint(second: str, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("a-key\n")

    def asked(path: str, **settings: Any) -> Answer:
        with requests.Session() as session:
            wanted = Mirror(url=f"{second}/base/", timeout_s=0.5, **settings)
            return ask(session, wanted, Copy("k", "POST", path, {"Accept": "x"}, b"body"))

    plain = asked("/invocations", key_file=str(key_file))
    assert json.loads(plain.body) == {"path": "/base/invocations", "key": "Bearer a-key"}
    assert (plain.status, plain.error) == (200, "")
    assert asked("/drip") == Answer(None, error="no whole answer in 0.5 s")
    assert asked("/redirect").status == 302  # a copy goes nowhere else
    assert asked("/large").error == f"more than {mirror.MOST_BYTES} bytes, too many to compare"
    assert asked("/invocations", key_file=str(tmp_path / "none")).error == "FileNotFoundError"


def test_nobody_answers() -> None:
    with requests.Session() as session:
        found = ask(session, Mirror(url="http://127.0.0.1:1", timeout_s=1), copy())
    assert (found.status, found.error) == (None, "ConnectionError")


def test_a_full_queue_takes_nothing_more(tmp_path: Path) -> None:
    mirroring = Mirroring(tmp_path, Mirror(url="http://127.0.0.1:1", max_in_flight=2))
    assert [mirroring.take(copy(str(number))) for number in range(4)] == [True, True, False, False]
    with (tmp_path / mirror.ANSWERS_FILE).open("ab") as nginx:
        nginx.writelines(ANSWER % number + b"\n" for number in range(4))
    mirroring.read_answers()
    mirroring.tidy()
    (line,) = [json.loads(line) for line in (tmp_path / RECORD_DIR / RECORD).read_text().splitlines()]
    assert line["left_out"] == 2
