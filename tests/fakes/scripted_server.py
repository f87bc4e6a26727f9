"""A server that does what its paths say, and writes down when: the truth that the load generator is held against.

    python -m tests.fakes.scripted_server --port 18990 --log truth.jsonl

The model's name is the script, KEY=VALUE joined by commas, times in milliseconds: delay (of a whole answer),
headers (before the status line, which then comes a byte at a time), first, gap, tokens (of a stream), coalesce (so many
events in one piece), cut (after so many), error (after so many, in band), refuse (each n-th request gets a 503), stall
and at (every request from `at` to at + stall after the first one waits for the end of that), token (the only one that is
let in). Paths: /predictions/SCRIPT[/VERSION/v1/completions]; /v1/completions with the script as its model; SageMaker's
…/invocations-response-stream, which refuse what is not signed.
Line of the log: path, received_s, first_s, ended_s in Unix time.
"""

from __future__ import annotations

import argparse
import asyncio
import binascii
import json
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import unquote

CHUNKED = "Transfer-Encoding: chunked"
EVENT_STREAM = "application/vnd.amazon.eventstream"


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes
    received_s: float
    first_s: float | None = None

    @property
    def script(self) -> dict[str, str]:
        name = json.loads(self.body)["model"] if self.path.startswith("/v1/") else self.path.split("/")[2]
        return dict(pair.split("=", 1) for pair in name.split(",") if "=" in pair)

    def ms(self, key: str) -> float:
        return float(self.script.get(key, 0))

    @property
    def from_sagemaker(self) -> bool:
        return self.path.startswith("/endpoints/")

    @property
    def streams(self) -> bool:
        return "tokens" in self.script and (
            self.path.endswith("-response-stream") or b'"stream":true' in self.body.replace(b" ", b"")
        )


class Server:
    """Answers, and remembers how many requests and since when."""

    def __init__(self, log: TextIO) -> None:
        self._log = log
        self._count = 0
        self._began_s: dict[str, float] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while request := await read(reader):
                self._began_s.setdefault(request.path, request.received_s)
                self._count += 1
                goes_on = await self._answer(request, writer)
                line = {"path": request.path, "received_s": request.received_s, "first_s": request.first_s}
                self._log.write(json.dumps(line | {"ended_s": time.time()}) + "\n")
                self._log.flush()
                if not goes_on:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection is kept."""
        if request.from_sagemaker and "AWS4-HMAC-SHA256" not in request.headers.get("authorization", ""):
            return await whole(writer, 403, {"message": "Missing Authentication Token"})
        if (token := request.script.get("token")) and request.headers.get("authorization") != f"Bearer {token}":
            words = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
            await whole(writer, 400, {"code": 400, "type": "InvalidKeyException", "message": words})
            return False  # as TorchServe does after a 4xx
        if (each := request.ms("refuse")) and self._count % int(each) == 0:
            return await whole(writer, 503, {"code": 503, "message": "the queue is full"})
        if "stall" in request.script:
            begin = self._began_s[request.path] + request.ms("at") / 1e3
            end = begin + request.ms("stall") / 1e3
            if begin <= request.received_s < end:
                await asyncio.sleep(end - time.time())
        await asyncio.sleep(request.ms("delay") / 1e3)
        if request.streams:
            return await stream(request, writer)
        return await whole(writer, 200, {"answer": 42}, slow_ms=request.ms("headers"))


async def read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(unquote(first.split(" ")[1]), headers, body, time.time())


async def whole(writer: asyncio.StreamWriter, status: int, answer: dict[str, Any], slow_ms: float = 0) -> bool:
    body = json.dumps(answer).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    if slow_ms:
        for byte in head:
            writer.write(bytes([byte]))
            await asyncio.sleep(slow_ms / len(head) / 1e3)
        head = b""
    writer.write(head + body)
    await writer.drain()
    return True


async def stream(request: Request, writer: asyncio.StreamWriter) -> bool:
    """OpenAI's completion events, or a SageMaker event stream with them as payload, cut at odd places."""
    kind = EVENT_STREAM if request.from_sagemaker else "text/event-stream"
    inner = "X-Amzn-SageMaker-Content-Type: text/event-stream\r\n" if request.from_sagemaker else ""
    writer.write(f"HTTP/1.1 200 X\r\nContent-Type: {kind}\r\n{inner}{CHUNKED}\r\n\r\n".encode())
    await writer.drain()
    tokens, at_once = int(request.ms("tokens")), int(request.ms("coalesce") or 1)
    due_s = time.time() + request.ms("first") / 1e3
    waiting = b""
    for number in range(tokens):
        if number == request.ms("cut") > 0:
            return False
        await asyncio.sleep(due_s - time.time())
        due_s += request.ms("gap") / 1e3
        if number == request.ms("error") > 0:
            if request.from_sagemaker:
                send(writer, exception("ModelStreamError", b'{"Message":"the model failed"}'))
            else:
                send(writer, b'data: {"error": {"message": "the model failed"}}\n\n')
            return await end(writer)
        waiting += b'data: {"choices": [{"text": "t%d "}]}\n\n' % number
        if (number + 1) % at_once == 0 or number == tokens - 1:
            request.first_s = request.first_s or time.time()
            send(writer, payload_part(waiting) if request.from_sagemaker else waiting)
            await writer.drain()
            waiting = b""
    usage = {"prompt_tokens": 3, "completion_tokens": tokens}
    tail = f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode()
    # SageMaker cuts where it likes.
    for part in (tail[:20], tail[20:]):
        send(writer, payload_part(part) if request.from_sagemaker else part)
    return await end(writer)


def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


async def end(writer: asyncio.StreamWriter) -> bool:
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


def payload_part(data: bytes) -> bytes:
    return message({":message-type": "event", ":event-type": "PayloadPart", ":content-type": "x"}, data)


def exception(kind: str, data: bytes) -> bytes:
    return message({":message-type": "exception", ":exception-type": kind, ":content-type": "application/json"}, data)


def message(headers: dict[str, str], payload: bytes) -> bytes:
    """One message of AWS's event stream encoding: lengths, their CRC, string headers, payload, CRC of it all."""
    head = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    body = prelude + struct.pack(">I", binascii.crc32(prelude)) + head + payload
    return body + struct.pack(">I", binascii.crc32(body))


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    with options.log.open("w") as log:
        server = await asyncio.start_server(Server(log).serve, "127.0.0.1", options.port, backlog=1024)
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
