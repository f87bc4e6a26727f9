"""An engine that computes nothing: each prompt is a streamed completion of an OpenAI-compatible server (vLLM, …).

Knows HTTP, server-sent events and that server's JSON; knows no tokenizer, so it answers in text. What ends a row is
the server's own end-of-sequence token: Prompt.stop_ids are not sent, since the OpenAI API has no place for them.

One thread for each row reads its answer. http.client rather than requests: a row that nobody waits for is cut at its
socket, also while the server has not begun to answer, when requests has given nothing back yet that could be closed.
"""

from __future__ import annotations

import codecs
import io
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ValidationError

from servekit.engines.base import Capabilities, Finish, Inbox, OneProcess, Prompt, Step
from servekit.settings import LlamaSettings, UpstreamSettings

DEFAULT_MAX_BATCH = 64
DEFAULT_MAX_LENGTH = 4096
CONNECT_TIMEOUT_S = 5.0
POLL_S = 0.02  # how long a silent stream waits before it looks for prompts and cancelled rows
MAX_ERROR_BYTES = 4096
MAX_MESSAGE_CHARACTERS = 300
FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length"}
TOKEN_ID = "token_id:"  # how vLLM writes a token when asked for return_tokens_as_token_ids  # noqa: S105


class UpstreamError(Exception):
    """What the server did in place of answering, in one sentence."""


class _Logprobs(BaseModel):
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(BaseModel):
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Chunk(BaseModel):
    choices: list[_Choice]


class _Model(BaseModel):
    id: str
    max_model_len: int | None = None


class _Models(BaseModel):
    data: list[_Model]


class OpenAIEngine(OneProcess):
    """Rows are requests to settings.upstream, as many at once as settings.max_batch.

    Capabilities.max_length is the smaller of the server's max_model_len, known after warmup(), and settings.max_length.
    Raises ValueError when base_url or the key's environment variable are not as they should be.
    """

    def __init__(self, settings: LlamaSettings) -> None:
        if settings.upstream is None:
            raise ValueError("the openai engine needs upstream: {base_url: …}")
        self._server = _Server(settings.upstream)
        self._model = settings.upstream.model
        self._max_batch = DEFAULT_MAX_BATCH if settings.max_batch == "auto" else settings.max_batch
        self._max_length = None if settings.max_length == "auto" else settings.max_length
        self._looked_up = False
        self._rows: list[_Row] = []

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            max_batch=self._max_batch,
            max_length=self._max_length or DEFAULT_MAX_LENGTH,
            continuous=True,
            per_request_sampling=True,
            logprobs=True,
        )

    def warmup(self) -> list[tuple[str, float]]:
        """Ask the server for its models, and choose one. Raises UpstreamError when it does not answer or has not the
        model that is named."""
        started = time.perf_counter()
        models = self._server.models()
        names = [model.id for model in models]
        chosen = self._model or (names[0] if names else "any")
        if chosen not in names:
            raise UpstreamError(
                f"the server at {self._server.address} has no model {chosen!r}; it has {', '.join(names) or 'none'}"
            )
        limits = [self._max_length, models[names.index(chosen)].max_model_len]
        self._model, self._max_length = chosen, min(filter(None, limits), default=None)
        self._looked_up = True
        return [("models", time.perf_counter() - started)]

    def fingerprint(self) -> dict[str, str]:
        return {"engine": "openai", "upstream": self._server.address, "model": self._model or ""}

    def stream(self, inbox: Inbox) -> Iterator[list[Step]]:
        """Engine.stream; a list may hold several steps of one row, oldest first, when its answer came in one piece.

        A list comes at least every POLL_S, empty when the server is silent. Raises what warmup() does when that has
        not been called.
        """
        if not self._looked_up:
            self.warmup()
        arrived: SimpleQueue[tuple[_Row, Step]] = SimpleQueue()
        rows: dict[str, _Row] = {}
        try:
            while True:
                for prompt in inbox.take(self._max_batch - len(rows)):
                    rows[prompt.key] = self._begin(prompt, arrived)
                if not rows:
                    return
                steps = [Step(key, finish="cancelled") for key in rows if inbox.cancelled(key)]
                for step in steps:
                    rows.pop(step.key).cut()
                for row, step in _drain(arrived, 0.0 if steps else POLL_S):
                    if rows.get(step.key) is row:  # else it was cut
                        steps.append(step)
                        if step.finish:
                            del rows[step.key]
                yield steps
        finally:
            for row in rows.values():  # the caller has had enough of this stream
                row.cut()

    def close(self) -> None:
        """Cut what is under way and wait for its threads."""
        for row in self._rows:
            row.cut()
        for row in self._rows:
            row.thread.join(CONNECT_TIMEOUT_S)  # connecting is what a cut does not reach
        self._rows = []

    def _begin(self, prompt: Prompt, arrived: SimpleQueue[tuple[_Row, Step]]) -> _Row:
        self._rows = [row for row in self._rows if row.thread.is_alive()]
        self._rows.append(row := _Row(self._server, self._model or "", self.capabilities.max_length, prompt, arrived))
        row.thread.start()
        return row


class _Server:
    """Where the server is and how it is spoken to. address: for messages, without what a URL may hold of secrets."""

    def __init__(self, upstream: UpstreamSettings) -> None:
        url = urlsplit(upstream.base_url)
        if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc or url.query:
            raise ValueError("upstream.base_url: an address such as http://host:8000/v1, with no user and no query")
        self._host, self._port, self._path = url.hostname, url.port, url.path.rstrip("/")
        self.address = f"{url.scheme}://{url.netloc}{self._path}"
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._timeout_s = upstream.timeout_s
        self._headers = {"Content-Type": "application/json", "User-Agent": "servekit"}
        self._key = _read_key(upstream.api_key_env) if upstream.api_key_env else ""
        if self._key:
            self._headers["Authorization"] = f"Bearer {self._key}"

    def connect(self) -> HTTPConnection:
        timeout_s = min(CONNECT_TIMEOUT_S, self._timeout_s)
        connection = (
            HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._tls)
            if self._tls
            else HTTPConnection(self._host, self._port, timeout=timeout_s)
        )
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise UpstreamError(f"the upstream server cannot be reached: {_reason(error)}") from None
        connection.sock.settimeout(self._timeout_s)
        return connection

    def ask(self, connection: HTTPConnection, method: str, path: str, body: bytes | None = None) -> HTTPResponse:
        """Send one request. Raises UpstreamError unless the answer is 200."""
        connection.request(method, self._path + path, body, self._headers)
        response = connection.getresponse()
        if response.status != 200:
            with response:
                said = _error_message(response.read(MAX_ERROR_BYTES))
            raise UpstreamError(f"the upstream server answered {response.status} {response.reason}{said}")
        return response

    def models(self) -> list[_Model]:
        """What GET /models lists, with the server's address in every error."""
        try:
            with closing(self.connect()) as connection, self.ask(connection, "GET", "/models") as response:
                return _Models.model_validate_json(response.read()).data
        except ValidationError:
            raise UpstreamError(f"{self.address}/models does not list models as an OpenAI server does") from None
        except (OSError, HTTPException, UpstreamError) as error:
            raise UpstreamError(f"{self.address}/models: {self.explain(error)}") from None

    def explain(self, error: Exception) -> str:
        """An error in one line, without the key, which servers like to repeat."""
        if isinstance(error, UpstreamError):
            sentence = str(error)
        elif isinstance(error, TimeoutError):
            sentence = f"the upstream server was silent for {self._timeout_s:g} s"
        elif isinstance(error, OSError | HTTPException):
            sentence = f"the upstream server cut the connection: {_reason(error)}"
        else:
            sentence = f"{type(error).__name__}: {error}"
        return (sentence.replace(self._key, "***") if self._key else sentence)[:MAX_MESSAGE_CHARACTERS]


class _Row:
    """One prompt at the server: a thread that turns its answer into steps, the last of them with a finish reason."""

    def __init__(
        self, server: _Server, model: str, max_length: int, prompt: Prompt, arrived: SimpleQueue[tuple[_Row, Step]]
    ) -> None:
        self._server, self._model, self._max_length = server, model, max_length
        self._prompt, self._key, self._arrived = prompt, prompt.key, arrived
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False
        self.thread = threading.Thread(target=self._read, name=f"upstream-{prompt.key}", daemon=True)

    def cut(self) -> None:
        """End the connection, from another thread: the server sees it at once, and the thread ends."""
        with self._lock:
            self._cut = True
            if self._socket:
                with suppress(OSError):  # the server has ended it already
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        try:
            with ExitStack() as opened:
                connection = opened.enter_context(closing(self._server.connect()))
                with self._cuttable(connection.sock):  # the innermost: what is being closed is not to be cut
                    body = _completion(self._prompt, self._model, self._max_length)
                    response = opened.enter_context(self._server.ask(connection, "POST", "/completions", body))
                    for step in self._steps(response):
                        self._arrived.put((self, step))
                        if step.finish:
                            return
            raise UpstreamError("the upstream server cut its answer short")
        except Exception as error:  # noqa: BLE001 - whatever it was, a row without an end would hold the stream for ever
            self._arrived.put((self, Step(self._key, finish="error", message=self._server.explain(error))))

    @contextmanager
    def _cuttable(self, connected: socket.socket) -> Iterator[None]:
        """Let cut() reach the socket; not once it is closed, when its number may be another connection's."""
        with self._lock:
            if self._cut:
                raise UpstreamError("cut before it was connected")
            self._socket = connected
        try:
            yield
        finally:
            with self._lock:
                self._socket = None

    def _steps(self, response: HTTPResponse) -> Iterator[Step]:
        media_type = response.headers.get_content_type()
        if media_type != "text/event-stream":
            said = _error_message(response.read(MAX_ERROR_BYTES))
            raise UpstreamError(f"the upstream server answered {media_type} in place of a stream{said}")
        for data in sse_data(iter(lambda: response.read1(65536), b"")):
            if data == "[DONE]":
                return
            yield from self._steps_of(data)

    def _steps_of(self, data: str) -> Iterator[Step]:
        try:
            choices = _Chunk.model_validate_json(data).choices
        except ValidationError:
            raise UpstreamError(f"the upstream server sent no completion{_error_message(data.encode())}") from None
        for choice in choices:  # none in a chunk of usage
            finish = FINISHES.get(choice.finish_reason) if choice.finish_reason else None
            if choice.finish_reason and not finish:
                raise UpstreamError(f"the upstream server ended the answer with {choice.finish_reason!r}")
            yield from _with_logprobs(Step(self._key, text=choice.text or "", finish=finish), choice.logprobs)


def sse_data(pieces: Iterable[bytes]) -> Iterator[str]:
    """The data of each server-sent event, from bytes cut anywhere; comments and other fields are passed over.

    An event that the end of the bytes cuts off is none, as the standard has it.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
    rest = ""
    for piece in pieces:
        *events, rest = (rest + decoder.decode(piece)).split("\n\n")
        for event in events:
            lines = [line[5:].removeprefix(" ") for line in event.split("\n") if line.startswith("data:")]
            if lines:
                yield "\n".join(lines)


def _completion(prompt: Prompt, model: str, max_length: int) -> bytes:
    """The request's body. Servers refuse a row that would be too long, where other engines end it with "length"."""
    sampling = prompt.sampling
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt.token_ids,
        "max_tokens": max(1, min(prompt.max_new_tokens, max_length - len(prompt.token_ids))),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stream": True,
    }
    # What is vLLM's own goes only to where it is asked for: a stricter server would refuse it.
    if sampling.top_k is not None:
        body["top_k"] = sampling.top_k
    if sampling.repetition_penalty != 1.0:
        body["repetition_penalty"] = sampling.repetition_penalty
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.logprobs is not None:
        body |= {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}
    return orjson.dumps(body)


def _with_logprobs(step: Step, logprobs: _Logprobs | None) -> Iterator[Step]:
    """A step for each token of the chunk: the first has its text, the last its finish reason."""
    if logprobs is None or not logprobs.token_logprobs:
        yield step
        return
    last = len(logprobs.token_logprobs) - 1
    for place, logprob in enumerate(logprobs.token_logprobs):
        tops = (logprobs.top_logprobs or [])[place : place + 1]
        yield Step(
            step.key,
            text=step.text if place == 0 else "",
            logprob=logprob,
            top_logprobs=_by_token_id(tops[0] or {}) if tops else (),
            finish=step.finish if place == last else None,
        )


def _by_token_id(alternatives: dict[str, float]) -> tuple[tuple[int, float], ...]:
    """Best first; () from servers that name tokens by their text."""
    if not all(token.removeprefix(TOKEN_ID).isdecimal() and token.startswith(TOKEN_ID) for token in alternatives):
        return ()
    by_id = ((int(token.removeprefix(TOKEN_ID)), logprob) for token, logprob in alternatives.items())
    return tuple(sorted(by_id, key=lambda alternative: -alternative[1]))


def _drain(arrived: SimpleQueue[tuple[_Row, Step]], wait_s: float) -> Iterator[tuple[_Row, Step]]:
    """All that is there, or else what comes first within wait_s."""
    with suppress(Empty):
        yield arrived.get(timeout=wait_s)
        while True:
            yield arrived.get_nowait()


def _read_key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"upstream.api_key_env: the environment variable {variable} is not set")
    if not (key.isascii() and key.isprintable()):  # http.client would tell it whole in its own error
        raise ValueError(f"upstream.api_key_env: {variable} holds characters that no HTTP header may")
    return key


def _error_message(body: bytes) -> str:
    """What an error body says, after a colon: OpenAI's {"error": {"message"}}, vLLM's and FastAPI's, or its text."""
    said: Any = body.decode(errors="replace").strip()
    with suppress(orjson.JSONDecodeError):
        found = orjson.loads(body)
        while isinstance(found, dict):
            found = next((found[key] for key in ("error", "message", "detail") if found.get(key)), None)
        said = found or said
    return f": {' '.join(str(said).split())}" if said else ""


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
