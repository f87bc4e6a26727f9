"""What a gateway sees of a TorchServe, as a process of its own that can be killed: predictions and describe-model.

    python -m tests.fakes.torchserve_process PORT FOLDER org.pytorch.serve.ModelServer

A prediction's body is its script, JSON: status, delay_ms, bytes, headers (of the answer), tokens and gap_ms (a stream),
abort (the connection ends without an answer), close (it ends behind the answer, without a word). Other bodies are
answered with the golden answer. FOLDER/control.json, read at every request: workers ([status, pid], …), silent_ms (of
describe-model), golden (right, wrong, full, silent or broken), script (what every prediction's own is changed by).
FOLDER/requests.jsonl: what came, head and body.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

GOLDEN_BODY = {"inputs": ["golden"]}
GOLDEN_ANSWER = [[0.6, 0.8]]
FULL = {"code": 503, "message": 'Model "m" has no worker to serve inference request. Please use scale workers API'}


class TorchServe:
    def __init__(self, folder: Path, log: TextIO) -> None:
        self._folder = folder
        self._log = log

    async def inference(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(reader, writer, self._predict)

    async def management(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(reader, writer, self._describe)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Any) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lengths = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
                body = await reader.readexactly(int(lengths[0].split(":")[1]) if lengths else 0)
                if not await answer(head, body, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    def _control(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self._folder / "control.json").read_text())
        return found

    async def _describe(self, head: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        control = self._control()
        await asyncio.sleep(control.get("silent_ms", 0) / 1e3)
        workers = [{"status": status, "pid": pid} for status, pid in control["workers"]]
        return await whole(writer, 200, [{"workers": workers}])

    async def _predict(self, head: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        line: dict[str, Any] = {"head": head, "body": base64.b64encode(body).decode(), "time": time.time()}
        script = read_script(body)
        if script == GOLDEN_BODY:
            return await self._golden(writer)
        try:
            return await follow({**script, **self._control().get("script", {})}, writer)
        except ConnectionError:
            line["cut"] = True
            raise
        finally:
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()

    async def _golden(self, writer: asyncio.StreamWriter) -> bool:
        state = self._control().get("golden", "right")
        if state == "silent":
            await asyncio.sleep(3600)
        if state == "full":
            return await whole(writer, 503, FULL)
        if state == "broken":
            return await whole(writer, 503, {"code": 503, "message": "Prediction failed"})
        return await whole(writer, 200, GOLDEN_ANSWER if state == "right" else [[0.8, 0.6]])


def read_script(body: bytes) -> Any:
    try:
        script = json.loads(body)
    except ValueError:
        return {}
    return script if isinstance(script, dict) else {}


async def follow(script: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
    await asyncio.sleep(script.get("delay_ms", 0) / 1e3)
    if script.get("abort"):
        return False
    if "tokens" in script:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(script["tokens"]):
            piece = b"t%d " % number
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(script.get("gap_ms", 0) / 1e3)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True
    answer = "x" * script["bytes"] if "bytes" in script else script.get("answer", GOLDEN_ANSWER)
    await whole(writer, script.get("status", 200), answer, script.get("headers", {}))
    return not script.get("close")


async def whole(writer: asyncio.StreamWriter, status: int, answer: Any, headers: dict[str, str] | None = None) -> bool:
    body = json.dumps(answer).encode()
    own = {"Content-Type": "application/json", "Content-Length": str(len(body)), "x-request-id": "torchserve's own"}
    lines = [f"{name}: {value}" for name, value in (own | (headers or {})).items()]
    writer.write("\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode() + body)
    await writer.drain()
    return True


async def main(port: int, folder: Path) -> None:
    with (folder / "requests.jsonl").open("w") as log:
        server = TorchServe(folder, log)
        inference = await asyncio.start_server(server.inference, "127.0.0.1", port, backlog=512)
        await asyncio.start_server(server.management, "127.0.0.1", port + 1, backlog=512)
        print("ready", flush=True)
        await inference.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
