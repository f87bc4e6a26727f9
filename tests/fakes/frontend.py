"""The part of TorchServe's frontend that talks to one worker's handler, in process: whole batches and rounds.

Written from ContinuousBatching.java, BatchAggregator.java and RestJob.java: what would break a connection or end the
worker there is an AssertionError here. Uses the worker's own Context and otf_message_handler.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from ts.context import Context, RequestProcessor
from ts.protocol.otf_message_handler import create_predict_response

from tests.fakes.context import make_context

STREAM_NEXT = "ts_stream_next"


class Client:
    """One request and what has reached its sender. chunks: as they came; ended: the connection's last byte has come."""

    def __init__(self, body: bytes, headers: dict[str, str] | None = None, path: str = "") -> None:
        self.body = body
        self.headers = {"content-type": "application/json", "url_path": path, **(headers or {})}
        self.status: int | None = None
        self.content_type = ""
        self.reply_headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self.ended = False
        self.is_open = True

    @property
    def text(self) -> bytes:
        return b"".join(self.chunks)


class Frontend:
    """batch_size: most requests with the worker at once."""

    def __init__(self, handler: Any, model_dir: Path, yaml_config: dict[str, Any]) -> None:
        self.handler = handler
        self.batch_size = yaml_config.get("batchSize", 1)
        self.continuous = bool(yaml_config.get("continuousBatching"))
        self.context: Context = make_context(model_dir, yaml_config, self.batch_size, "tiny")
        self.context.cl_socket = self
        self.jobs: dict[str, Client] = {}
        self.queue: list[tuple[str, Client]] = []
        self.sent = 0
        self.rounds = 0

    @property
    def metrics(self) -> dict[str, list[float]]:
        return self.context.metrics.values

    def post(self, *clients: Client) -> None:
        for client in clients:
            self.sent += 1
            self.queue.append((f"job-{self.sent}", client))

    def ask(self, *clients: Client, most_rounds: int = 2000) -> None:
        """Post them and run until every one has its end."""
        self.post(*clients)
        for _ in range(most_rounds):
            if not self.queue and not self.jobs:
                return
            self.round()
        raise AssertionError(f"no end after {most_rounds} rounds")

    def round(self) -> None:
        """What the frontend does between two messages to the worker."""
        cached = set(self.jobs)
        while self.queue and len(self.jobs) < self.batch_size:
            key, client = self.queue.pop(0)
            self.jobs[key] = client
        keys = list(self.jobs)
        rows = [{} if key in cached else {"body": self.jobs[key].body} for key in keys]
        headers: list[dict[str, str]] = [{} if key in cached else self.jobs[key].headers for key in keys]
        self.context.request_ids = dict(enumerate(keys))
        self.context.request_processor = [RequestProcessor(own) for own in headers]
        replies = self.handler.handle(rows, self.context)
        assert len(replies) == len(rows)
        ids = self.context.request_ids
        message = create_predict_response(replies, ids, "Prediction success", 200, context=self.context)
        self.context.stopping_criteria = None
        self.rounds += 1
        self.sendall(message)
        if not self.continuous:
            assert all(client.ended for client in self.jobs.values())
            self.jobs.clear()

    def sendall(self, message: bytes) -> None:
        """A message of the worker, also one in the middle of a batch."""
        reader = _Reader(message)
        assert reader.int() == 200
        reader.text()
        while (length := reader.int()) != -1:
            key = reader.bytes(length).decode()
            content_type, status = reader.text(), reader.int()
            reader.text()
            headers = {reader.text(): reader.text() for _ in range(reader.int())}
            self._respond(key, status, content_type, headers, reader.bytes(reader.int()))

    def _respond(self, key: str, status: int, content_type: str, headers: dict[str, str], body: bytes) -> None:
        assert key in self.jobs, f"Unexpected job in sendResponse() with 200 status code: {key}"
        client = self.jobs[key]
        stream_next = headers.get(STREAM_NEXT)
        if client.ended and not client.is_open:  # refused before, and the connection is closed: nothing arrives
            del self.jobs[key]
            return
        assert not client.ended, "bytes after the end would be another reply's"
        if client.status is None:
            assert stream_next != "false", "the first answer is the last: the client gets no status line"
            client.status, client.content_type, client.reply_headers = status, content_type, headers
        client.chunks.append(body)
        client.ended = stream_next != "true"
        if not self.continuous:
            return
        if status >= 400:  # NettyUtils.java closes behind the header
            assert stream_next is None, "the body would be lost"
            client.is_open = False
            return
        assert stream_next in ("true", "false"), "the job would never leave the batch"
        if client.ended or not client.is_open:
            del self.jobs[key]


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def bytes(self, length: int) -> bytes:
        self._place += length
        return bytes(self._data[self._place - length : self._place])

    def int(self) -> int:
        return int(struct.unpack("!i", self.bytes(4))[0])

    def text(self) -> str:
        return self.bytes(self.int()).decode()
