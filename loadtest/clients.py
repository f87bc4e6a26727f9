"""Clients of one connection each: they send a request, read its answer as it comes and take the times.

http.client, since its read1 returns what has come instead of waiting for a block to fill, and costs a quarter of
what requests does (docs/decisions/0013-load-lab.md); boto3 for SageMaker. Both work in threads and in Locust's
greenlets. No retries: a failure is a result. Knows nothing of timetables.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from loadtest.dialects import Call
from loadtest.plan import Target
from loadtest.replies import Stream, Wrong, check_whole
from model_configs.errors import KitError
from model_configs.loadtest import LoadTest

PIECE_BYTES = 1 << 16
NOT_ALLOWED = (400, 401, 403)
"""TorchServe answers an expired token with 400."""
TOKEN_WORDS = b"oken"
"""TorchServe's words on a wrong token have this, its words on a bad request do not."""


@dataclass
class Answer:
    """What became of one request. Times on time.perf_counter's clock, in seconds."""

    sent_s: float
    ended_s: float = 0.0
    headers_s: float | None = None
    stream: Stream | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    bytes: int = 0
    status: int | None = None
    error: str | None = None
    detail: str | None = None


class Client(Protocol):
    """Sends one request after another; for one user at a time."""

    def send(self, call: Call, timeout_s: float) -> Answer:
        """Never raises for what a server does: that is the Answer's error."""

    def close(self) -> None:
        """End the connection."""


def client_of(target: Target, load: LoadTest) -> Callable[[], Client]:
    """What makes a user's client. Raises KitError when the target cannot be asked at all."""
    if target.kind.startswith("sagemaker"):
        runtime = _sagemaker_runtime(target, load)
        return lambda: SageMakerClient(runtime, target)
    address = urlsplit(target.url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise KitError(f"{target.url!r} is no URL", "http://host:port")
    token = Token(Path(target.token_file) if target.token_file else None)
    return lambda: HttpClient(target.url, token)


@dataclass
class Token:
    """A bearer token, of TorchServe's key_file.json or of the environment's SERVEKIT_TOKEN."""

    file: Path | None
    value: str | None = field(init=False)

    def __post_init__(self) -> None:
        self.value = self._current()

    def renewed(self) -> bool:
        """Whether there is another one by now."""
        before, self.value = self.value, self._current()
        return self.value != before

    def _current(self) -> str | None:
        if self.file is None:
            return os.environ.get("SERVEKIT_TOKEN") or None
        try:
            return str(json.loads(self.file.read_text())["inference"]["key"])
        except FileNotFoundError:
            return None


class HttpClient:
    """One kept connection. Paths of the URL come before those of the calls."""

    def __init__(self, url: str, token: Token) -> None:
        address = urlsplit(url)
        self._secure = address.scheme == "https"
        self._host = address.hostname or ""
        self._port = address.port or (443 if self._secure else 80)
        self._root = address.path.rstrip("/")
        self._token = token
        self._connection: http.client.HTTPConnection | None = None

    def send(self, call: Call, timeout_s: float) -> Answer:
        """Send and read to the end."""
        answer = Answer(time.perf_counter())
        deadline_s = answer.sent_s + timeout_s
        try:
            reply = self._ask(call, deadline_s)
            if reply.status in NOT_ALLOWED:
                body = reply.read()
                if TOKEN_WORDS in body and self._token.renewed():
                    self.close()
                    reply = self._ask(call, deadline_s)
                else:
                    _refuse(answer, reply.status, body)
            if answer.error is None:
                answer.headers_s = time.perf_counter()
                answer.status = reply.status
                self._read(reply, call, answer, deadline_s)
            if reply.will_close or reply.status >= 400:
                # TorchServe ends the connection behind a 4xx without saying so; the next request would race with that.
                self.close()
        except Wrong as wrong:
            answer.error, answer.detail = wrong.kind, str(wrong)
            self.close()
        except TimeoutError:
            answer.error, answer.detail = "timeout", f"no full answer in {timeout_s:g} s"
            self.close()
        except (OSError, http.client.HTTPException) as error:
            began = answer.stream is not None and answer.stream.chunks > 0
            answer.error = "stream_cut" if began else "connection"
            answer.detail = f"{type(error).__name__}: {error}"
            self.close()
        answer.ended_s = time.perf_counter()
        return answer

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, call: Call, deadline_s: float) -> http.client.HTTPResponse:
        connection = self._open(deadline_s)
        headers = {"Content-Type": call.content_type}
        if self._token.value:
            headers["Authorization"] = f"Bearer {self._token.value}"
        connection.request("POST", self._root + call.path, call.body, headers)
        return connection.getresponse()

    def _open(self, deadline_s: float) -> http.client.HTTPConnection:
        """The kept connection, if the server has not closed it meanwhile, else a new one."""
        timeout_s = _left(deadline_s)
        if self._connection is not None and self._connection.sock is not None:
            wire = self._connection.sock
            if not select.select([wire], [], [], 0)[0]:
                wire.settimeout(timeout_s)
                return self._connection
        self.close()
        if self._secure:
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=context)
        else:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        return self._connection

    def _read(self, reply: http.client.HTTPResponse, call: Call, answer: Answer, deadline_s: float) -> None:
        content_type = reply.getheader("Content-Type") or ""
        # A reply that ends its connection has taken the socket from it.
        wire = self._connection.sock if self._connection is not None else None
        if reply.status == 200 and call.streams:
            answer.stream = Stream(content_type)
        pieces = []
        while piece := reply.read1(PIECE_BYTES):
            now_s = time.perf_counter()
            answer.bytes += len(piece)
            if answer.stream is not None:
                answer.stream.feed(piece, now_s)
            else:
                pieces.append(piece)
            if now_s > deadline_s:
                raise TimeoutError
            if wire is not None:
                wire.settimeout(_left(deadline_s))
        missing = reply.length  # of a body whose length was announced
        reply.close()  # read1 does not, at the end of such a body, and the connection would not take another request
        if answer.stream is not None:
            answer.stream.finish(time.perf_counter())
            answer.tokens_in, answer.tokens_out = answer.stream.tokens_in, answer.stream.tokens_out
            return
        body = b"".join(pieces)
        if missing:
            raise http.client.IncompleteRead(body, missing)
        if reply.status != 200:
            _refuse(answer, reply.status, body)
            return
        answer.ended_s = time.perf_counter()
        answer.tokens_in, answer.tokens_out = check_whole(body, content_type)


class SageMakerClient:
    """An endpoint of SageMaker's, by a shared boto3 client: invoke_endpoint, or its response stream."""

    def __init__(self, runtime: Any, target: Target) -> None:
        self._runtime = runtime
        self._target = target

    def send(self, call: Call, timeout_s: float) -> Answer:
        """Send and read to the end. The runtime's own read timeout is for the first piece."""
        from botocore.eventstream import ParserError
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectTimeoutError,
            EventStreamError,
            ReadTimeoutError,
        )
        from urllib3.exceptions import HTTPError

        answer = Answer(time.perf_counter())
        try:
            if self._target.kind == "sagemaker-stream":
                self._stream(call, answer, answer.sent_s + timeout_s)
            else:
                self._whole(call, answer)
        except Wrong as wrong:
            answer.error, answer.detail = wrong.kind, str(wrong)
        except ParserError as error:
            answer.error, answer.detail = "wrong_answer", f"{type(error).__name__}: {error}"
        except EventStreamError as error:
            answer.error, answer.detail = "stream_error", str(error)
        except ClientError as error:
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            original = error.response.get("OriginalStatusCode", status)
            _refuse(answer, int(original) or status, str(error).encode())
            answer.status = status or None
        except (ReadTimeoutError, ConnectTimeoutError, TimeoutError) as error:
            answer.error, answer.detail = "timeout", str(error)
        except (BotoCoreError, HTTPError, OSError) as error:
            began = answer.stream is not None and answer.stream.chunks > 0
            answer.error, answer.detail = "stream_cut" if began else "connection", str(error)
        answer.ended_s = answer.ended_s or time.perf_counter()
        return answer

    def close(self) -> None:
        """Nothing: the connections are the shared client's."""

    def _whole(self, call: Call, answer: Answer) -> None:
        reply = self._runtime.invoke_endpoint(
            EndpointName=self._target.model, ContentType=call.content_type, Body=call.body
        )
        answer.headers_s = time.perf_counter()
        answer.status = reply["ResponseMetadata"]["HTTPStatusCode"]
        body = reply["Body"].read()
        answer.ended_s = time.perf_counter()
        answer.bytes = len(body)
        answer.tokens_in, answer.tokens_out = check_whole(body, reply.get("ContentType", ""))

    def _stream(self, call: Call, answer: Answer, deadline_s: float) -> None:
        reply = self._runtime.invoke_endpoint_with_response_stream(
            EndpointName=self._target.model, ContentType=call.content_type, Body=call.body
        )
        answer.headers_s = time.perf_counter()
        answer.status = reply["ResponseMetadata"]["HTTPStatusCode"]
        answer.stream = Stream(reply.get("ContentType", ""))
        with closing(reply["Body"]) as events:
            for event in events:
                now_s = time.perf_counter()
                if now_s > deadline_s:
                    raise TimeoutError("no full answer in time")
                piece = event.get("PayloadPart", {}).get("Bytes", b"")
                answer.bytes += len(piece)
                if piece:
                    answer.stream.feed(piece, now_s)
        answer.stream.finish(time.perf_counter())
        answer.tokens_in, answer.tokens_out = answer.stream.tokens_in, answer.stream.tokens_out


def _sagemaker_runtime(target: Target, load: LoadTest) -> Any:
    """Slow to make and meant to be shared. Raises KitError without a region or credentials."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=max(load.users, load.clients),
        tcp_keepalive=True,
        connect_timeout=10,
        read_timeout=load.timeout_s,
    )
    try:
        session = boto3.Session(region_name=target.region)
        if session.get_credentials() is None:
            raise KitError("no AWS credentials", "aws configure, or AWS_PROFILE")
        return session.client("sagemaker-runtime", endpoint_url=target.url or None, config=config)
    except BotoCoreError as error:
        raise KitError(str(error), "AWS_REGION, AWS_PROFILE, or --region") from None


def _refuse(answer: Answer, status: int, body: bytes) -> None:
    answer.status = status
    answer.detail = f"{status}: {body[:200].decode(errors='replace')}"
    if status in (429, 503):
        answer.error = "refused"
    else:
        answer.error = "client_error" if 400 <= status < 500 else "server_error"


def _left(deadline_s: float) -> float:
    """Seconds up to a deadline, never none: a socket's timeout of 0 means not to block."""
    return max(0.001, deadline_s - time.perf_counter())
