"""A container that does what its environment says: SageMaker's contract in a page, for tests of the emulator.

    python tests/fakes/container.py serve

Environment: FAKE_REPLY (the text that it answers with), FAKE_START_S (until /ping is 200), FAKE_EXIT (ends at once with this
code), FAKE_SLOW_S (before an answer), FAKE_STATUS (of answers), FAKE_WRITES (a file that it writes to its model folder),
FAKE_DEAF (does not end by SIGTERM). A body {"stream": true} is answered by TGI's lines, {"sleep_s": n} after a
while, {"cut": true} by half an answer. GET /told says what it was asked: bodies and headers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REPLY = os.environ.get("FAKE_REPLY", "fake")
STARTED = time.monotonic()
TOLD: list[dict[str, Any]] = []
TOKENS = ["An", " answer", ", größer", " als €", " 東京"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/told":
            self._whole(200, json.dumps(TOLD).encode())
        else:
            ready = time.monotonic() - STARTED >= float(os.environ.get("FAKE_START_S", 0))
            self._whole(200 if ready else 503, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        TOLD.append({"path": self.path, "body": body.decode("latin-1"), "headers": dict(self.headers)})
        try:
            asked = json.loads(body)
        except ValueError:
            asked = {}
        asked = asked if isinstance(asked, dict) else {}
        time.sleep(float(asked.get("sleep_s", os.environ.get("FAKE_SLOW_S", 0))))
        if asked.get("stream"):
            self._stream(int(asked.get("tokens", len(TOKENS))), float(asked.get("gap_s", 0.0)), bool(asked.get("cut")))
        elif asked.get("large"):
            self._whole(200, b"x" * int(asked["large"]))
        else:
            self._whole(int(os.environ.get("FAKE_STATUS", 200)), json.dumps({"reply": REPLY}).encode())

    def _whole(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Amzn-SageMaker-Custom-Attributes", f"by={REPLY}")
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, tokens: int, gap_s: float, cut: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        texts = [TOKENS[number % len(TOKENS)] for number in range(tokens)]
        for number, text in enumerate(texts):
            if cut and number == tokens // 2:
                self.close_connection = True
                return
            event: dict[str, Any] = {"token": {"text": text}}
            if number == tokens - 1:
                event["generated_text"] = "".join(texts)
            data = f"data:{json.dumps(event, ensure_ascii=False)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
            time.sleep(gap_s)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *arguments: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A longer queue than socketserver's 5: a connection that waits there is late."""

    request_queue_size = 128


def main() -> None:
    assert sys.argv[1:] == ["serve"]
    print(f"{REPLY} begins", flush=True)
    if "FAKE_EXIT" in os.environ:
        print("this goes wrong", flush=True)
        sys.exit(int(os.environ["FAKE_EXIT"]))
    if name := os.environ.get("FAKE_WRITES"):
        (Path(os.environ["SERVEKIT_MODEL_DIR"]) / name).write_text("written")
    if "FAKE_DEAF" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Server(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()


if __name__ == "__main__":
    main()
