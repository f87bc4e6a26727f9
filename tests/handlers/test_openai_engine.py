"""The openai engine against a server of this process, scripted by the first token of each prompt."""

from __future__ import annotations

import json
import logging
import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.engines.base import FixedInbox, Prompt, Sampling, Step
from servekit.engines.openai import OpenAIEngine, UpstreamError, sse_data
from servekit.settings import LlamaSettings

PATIENCE_S = 20.0
KEY = "sk-very-secret"
MODELS = {"object": "list", "data": [{"id": "llama", "max_model_len": 100}, {"id": "other"}]}


class Exchange(BaseHTTPRequestHandler):
    """One request; the script of its first token answers it."""

    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.server.headers.append(dict(self.headers))
        status, body = self.server.models
        self.reply(status, body)

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        self.server.headers.append(dict(self.headers))
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.scripts[body["prompt"][0]](self, body)

    def reply(self, status: int, body: Any, media_type: str = "application/json") -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send(self, raw: str | bytes) -> None:
        raw = raw.encode() if isinstance(raw, str) else raw
        self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))

    def chunk(self, text: str, finish: str | None = None, **more: Any) -> None:
        choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None, **more}
        self.send(f"data: {json.dumps({'object': 'text_completion', 'choices': [choice]})}\n\n")

    def end(self) -> None:
        self.send("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        pass


Script = Callable[[Exchange, dict[str, Any]], None]


class Upstream(ThreadingHTTPServer):
    """What it was asked, and what it is to answer."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.models: tuple[int, Any] = (200, MODELS)
        self.scripts: dict[int, Script] = {}
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.gone = threading.Semaphore(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the engine hangs up on purpose


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server
        server.shutdown()
        serving.join()


def make_engine(base_url: str, **upstream: Any) -> OpenAIEngine:
    return OpenAIEngine(LlamaSettings.model_validate({"upstream": {"base_url": base_url, **upstream}}))


@pytest.fixture
def engine(upstream: Upstream) -> Iterator[OpenAIEngine]:
    made = make_engine(upstream.url)
    made.warmup()
    yield made
    made.close()
    assert reading() == []


def reading() -> list[threading.Thread]:
    """The engine's threads."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("upstream-")]


def row(token_id: int, key: str = "", sampling: Sampling | None = None, max_new_tokens: int = 16) -> Prompt:
    return Prompt(key or f"row {token_id}", (token_id, 7), max_new_tokens, sampling or Sampling())


def answers(engine: OpenAIEngine, inbox: FixedInbox) -> dict[str, list[Step]]:
    """The steps of each row; every row has an end, and nothing after it."""
    rows: dict[str, list[Step]] = {}
    for steps in engine.stream(inbox):
        for step in steps:
            assert not rows.setdefault(step.key, []) or rows[step.key][-1].finish is None
            rows[step.key].append(step)
    assert all(steps[-1].finish for steps in rows.values())
    return rows


def ask(engine: OpenAIEngine, *prompts: Prompt) -> dict[str, list[Step]]:
    return answers(engine, FixedInbox(list(prompts)))


def says(*texts: str, finish: str = "stop") -> Script:
    def script(exchange: Exchange, body: dict[str, Any]) -> None:
        exchange.begin()
        for text in texts[:-1]:
            exchange.chunk(text)
        exchange.chunk(texts[-1], finish)
        exchange.end()

    return script


def refuses(status: int, body: Any) -> Script:
    return lambda exchange, _: exchange.reply(status, body)


def cut_short(exchange: Exchange, body: dict[str, Any]) -> None:
    exchange.begin()
    exchange.chunk("half")
    exchange.send(b'data: {"choices": [{"text": "never sent')
    exchange.close_connection = True


def mute(exchange: Exchange, body: dict[str, Any]) -> None:
    """Not even a status line, until the client has hung up."""
    exchange.connection.settimeout(PATIENCE_S)
    with suppress(ConnectionError):
        assert exchange.connection.recv(1) == b""
    exchange.server.gone.release()


def silent(exchange: Exchange, body: dict[str, Any]) -> None:
    with suppress(ConnectionError):
        exchange.begin()
        exchange.chunk("one")
    mute(exchange, body)


def test_a_completion_comes_as_steps_in_order(upstream: Upstream, engine: OpenAIEngine) -> None:
    upstream.scripts[1] = says("def", " f", "():", finish="length")
    assert ask(engine, row(1)) == {
        "row 1": [Step("row 1", text="def"), Step("row 1", text=" f"), Step("row 1", text="():", finish="length")]
    }


def test_what_is_asked_for_is_what_the_prompt_says_and_no_more(upstream: Upstream, engine: OpenAIEngine) -> None:
    upstream.scripts[1] = upstream.scripts[2] = says("ok")
    sampling = Sampling(temperature=0.5, top_k=4, top_p=0.9, repetition_penalty=1.25, seed=11, logprobs=2)
    ask(engine, row(1))
    ask(engine, row(2, sampling=sampling))
    plain = {"model": "llama", "max_tokens": 16, "temperature": 0.0, "top_p": 1.0, "stream": True}
    asked = {"temperature": 0.5, "top_p": 0.9, "top_k": 4, "repetition_penalty": 1.25, "seed": 11, "logprobs": 2}
    assert upstream.bodies == [
        {**plain, "prompt": [1, 7]},
        {**plain, **asked, "prompt": [2, 7], "return_tokens_as_token_ids": True},
    ]
    assert upstream.paths == ["/v1/models", "/v1/completions", "/v1/completions"]
    assert "Authorization" not in upstream.headers[-1]


def test_a_row_is_never_longer_than_the_model(upstream: Upstream, engine: OpenAIEngine) -> None:
    """vLLM refuses such a request, the other engines end it with "length"."""
    upstream.scripts[1] = says("ok")
    ask(engine, row(1, max_new_tokens=99), row(1, "short", max_new_tokens=97))
    assert sorted(body["max_tokens"] for body in upstream.bodies) == [97, 98]


def test_rows_are_at_the_server_at_the_same_time(upstream: Upstream, engine: OpenAIEngine) -> None:
    together = threading.Barrier(8, timeout=PATIENCE_S)

    def meet(exchange: Exchange, body: dict[str, Any]) -> None:
        together.wait()
        says(f"{body['prompt'][0]}", "!")(exchange, body)

    upstream.scripts = dict.fromkeys(range(8), meet)
    found = ask(engine, *map(row, range(8)))
    assert {key: "".join(step.text or "" for step in steps) for key, steps in found.items()} == {
        f"row {number}": f"{number}!" for number in range(8)
    }


class OpenInbox(FixedInbox):
    def add(self, prompt: Prompt) -> None:
        self._waiting.append(prompt)


def test_a_prompt_joins_while_another_row_is_under_way(upstream: Upstream, engine: OpenAIEngine) -> None:
    second_is_answered = threading.Event()

    def first(exchange: Exchange, body: dict[str, Any]) -> None:
        exchange.begin()
        exchange.chunk("one")
        assert second_is_answered.wait(PATIENCE_S)
        exchange.chunk("two", "stop")

    upstream.scripts = {1: first, 2: says("ok")}
    inbox = OpenInbox([row(1)])
    order = []
    for steps in engine.stream(inbox):
        for step in steps:
            order.append((step.key, step.text))
            if step.text == "one":
                inbox.add(row(2))
            if step.text == "ok":
                second_is_answered.set()
    assert order == [("row 1", "one"), ("row 2", "ok"), ("row 1", "two")]


def test_no_more_rows_are_taken_than_there_is_room_for(upstream: Upstream) -> None:
    upstream.scripts[1] = says("ok")
    made = OpenAIEngine(LlamaSettings.model_validate({"max_batch": 2, "upstream": {"base_url": upstream.url}}))
    assert made.capabilities.max_batch == 2
    prompts = [row(1, str(number)) for number in range(9)]
    inbox, ended = FixedInbox(list(prompts)), 0
    for steps in made.stream(inbox):
        left = len(inbox._waiting)
        assert len(prompts) - left - ended <= 2
        ended += sum(step.finish is not None for step in steps)
    assert ended == 9
    made.close()


@pytest.mark.parametrize("script", [silent, mute], ids=["mid-stream", "before the answer begins"])
def test_a_cancelled_row_ends_at_the_server_too(upstream: Upstream, engine: OpenAIEngine, script: Script) -> None:
    upstream.scripts = {1: script, 2: says("neighbour")}
    inbox = FixedInbox([row(1), row(2)])
    found: list[Step] = []
    for steps in engine.stream(inbox):
        found += steps
        if any(step.key == "row 2" and step.finish for step in found) and len(upstream.bodies) == 2:
            inbox.cancel("row 1")
    assert [step.finish for step in found if step.key == "row 1" and step.finish] == ["cancelled"]
    assert found[-1] == Step("row 1", finish="cancelled")
    assert upstream.gone.acquire(timeout=PATIENCE_S)


def test_a_cancelled_row_says_nothing_more(upstream: Upstream, engine: OpenAIEngine) -> None:
    """Its thread does: that its connection was cut."""

    def last(exchange: Exchange, body: dict[str, Any]) -> None:
        exchange.begin()
        exchange.chunk("on")
        for thread in reading():
            if thread.name == "upstream-row 1":
                thread.join(PATIENCE_S)
        exchange.chunk("", "stop")

    upstream.scripts = {1: silent, 2: last}
    inbox = FixedInbox([row(1), row(2)])
    found: list[Step] = []
    for steps in engine.stream(inbox):
        found += steps
        if {step.key for step in found} == {"row 1", "row 2"}:
            inbox.cancel("row 1")
    assert [(step.text, step.finish) for step in found if step.key == "row 1"] == [("one", None), (None, "cancelled")]


def test_a_row_cancelled_while_it_connects_is_never_asked(
    upstream: Upstream, engine: OpenAIEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, released = HTTPConnection.connect, threading.Event()

    def connect_late(connection: HTTPConnection) -> None:
        assert released.wait(PATIENCE_S)
        connect(connection)

    monkeypatch.setattr(HTTPConnection, "connect", connect_late)
    inbox = FixedInbox([row(1)])
    inbox.cancel("row 1")
    assert answers(engine, inbox)["row 1"] == [Step("row 1", finish="cancelled")]
    released.set()
    engine.close()
    assert upstream.bodies == []


def test_a_silent_server_leaves_the_stream_awake(upstream: Upstream, engine: OpenAIEngine) -> None:
    upstream.scripts[1] = mute
    inbox = FixedInbox([row(1)])
    stream = engine.stream(inbox)
    assert [next(stream) for _ in range(3)] == [[], [], []]
    inbox.cancel("row 1")
    assert next(stream) == [Step("row 1", finish="cancelled")]
    assert list(stream) == []


def test_a_caller_that_leaves_takes_its_rows_along(upstream: Upstream, engine: OpenAIEngine) -> None:
    upstream.scripts[1] = silent
    stream = engine.stream(FixedInbox([row(1), row(1, "twin")]))
    seen: set[str] = set()
    while len(seen) < 2:
        seen |= {step.key for step in next(stream)}
    stream.close()  # type: ignore[attr-defined]
    assert upstream.gone.acquire(timeout=PATIENCE_S)
    assert upstream.gone.acquire(timeout=PATIENCE_S)


def test_close_ends_every_connection_and_thread(upstream: Upstream, engine: OpenAIEngine) -> None:
    upstream.scripts[1] = silent
    stream = engine.stream(FixedInbox([row(1), row(1, "twin")]))
    while len(upstream.bodies) < 2:
        next(stream)
    assert len(reading()) == 2
    engine.close()
    assert reading() == []
    assert upstream.gone.acquire(timeout=PATIENCE_S)
    assert upstream.gone.acquire(timeout=PATIENCE_S)
    engine.close()
    assert {step.finish for steps in stream for step in steps if step.finish} == {"error"}


NOT_A_STREAM = '{"choices": [{"text": "all at once", "finish_reason": "stop"}]}'


def sends(raw: str, finished: bool = False) -> Script:
    def script(exchange: Exchange, body: dict[str, Any]) -> None:
        exchange.begin()
        exchange.send(raw)
        if finished:
            exchange.wfile.write(b"0\r\n\r\n")
        else:
            exchange.end()

    return script


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            refuses(400, {"error": {"message": "too long by 3", "type": "BadRequestError"}}),
            "the upstream server answered 400 Bad Request: too long by 3",
        ),
        (refuses(401, {"error": "who are you?"}), "the upstream server answered 401 Unauthorized: who are you?"),
        (refuses(404, {"detail": "Not Found"}), "the upstream server answered 404 Not Found: Not Found"),
        (refuses(500, b"<b>oh\xff"), "the upstream server answered 500 Internal Server Error: <b>oh�"),
        (refuses(500, b"x " * 2000), f"the upstream server answered 500 Internal Server Error: {'x ' * 200}"[:300]),
        (refuses(503, b""), "the upstream server answered 503 Service Unavailable"),
        (
            refuses(200, NOT_A_STREAM.encode()),
            f"the upstream server answered application/json in place of a stream: {NOT_A_STREAM}",
        ),
        (
            sends('data: {"error": {"message": "out of memory", "code": 500}}\n\n'),
            "the upstream server sent no completion: out of memory",
        ),
        (sends("data: {not JSON}\n\n"), "the upstream server sent no completion: {not JSON}"),
        (sends("data: [DONE]\n\n"), "the upstream server cut its answer short"),
        (sends(": nothing\n\n", finished=True), "the upstream server cut its answer short"),
        (
            sends('data: {"choices": [{"text": "", "finish_reason": "abort"}]}\n\n'),
            "the upstream server ended the answer with 'abort'",
        ),
    ],
)
def test_an_upstream_error_is_one_rows_and_names_the_status(
    upstream: Upstream, engine: OpenAIEngine, script: Script, message: str
) -> None:
    upstream.scripts = {1: script, 2: says("fine")}
    found = ask(engine, row(2, "before"), row(1), row(2, "after"))
    assert found.pop("row 1") == [Step("row 1", finish="error", message=message)]
    assert found == {key: [Step(key, text="fine", finish="stop")] for key in ("before", "after")}


def test_a_stream_cut_midway_keeps_what_came(upstream: Upstream, engine: OpenAIEngine) -> None:
    upstream.scripts = {1: cut_short, 2: says("fine")}
    found = ask(engine, row(1), row(2))
    first, last = found["row 1"]
    assert first == Step("row 1", text="half")
    assert last.finish == "error"
    assert last.message.startswith("the upstream server cut ")
    assert found["row 2"] == [Step("row 2", text="fine", finish="stop")]


@pytest.mark.parametrize("script", [silent, mute], ids=["mid-stream", "before the answer begins"])
def test_a_server_that_falls_silent_is_given_up(upstream: Upstream, script: Script) -> None:
    upstream.scripts[1] = script
    made = make_engine(upstream.url, timeout_s=0.2)
    assert ask(made, row(1))["row 1"][-1] == Step(
        "row 1", finish="error", message="the upstream server was silent for 0.2 s"
    )
    assert upstream.gone.acquire(timeout=PATIENCE_S)
    made.close()


def test_a_server_that_is_gone_when_rows_come(upstream: Upstream, engine: OpenAIEngine) -> None:
    upstream.shutdown()
    upstream.server_close()
    (step,) = ask(engine, row(1))["row 1"]
    assert step == Step("row 1", finish="error", message="the upstream server cannot be reached: Connection refused")


def test_what_cannot_even_be_asked_ends_its_own_row(upstream: Upstream, engine: OpenAIEngine) -> None:
    upstream.scripts[2] = says("fine")
    found = ask(engine, row(1, sampling=Sampling(seed=2**70)), row(2))
    assert found["row 1"][0].finish == "error"
    assert "64-bit" in found["row 1"][0].message
    assert found["row 2"] == [Step("row 2", text="fine", finish="stop")]


def test_heartbeats_usage_and_events_cut_anywhere_are_read(upstream: Upstream, engine: OpenAIEngine) -> None:
    def script(exchange: Exchange, body: dict[str, Any]) -> None:
        exchange.begin()
        raw = (
            ': ping\r\n\r\nevent: x\r\nid: 4\r\ndata: {"choices": [{"text": "é€"}]}\r\n\r\n'
            ':\n\ndata:{"choices": [], "usage": {"total_tokens": 3}}\n\n'
            'data: {"choices": [{"text": "🙂",\ndata: "finish_reason": "stop"}]}\n\n'
        ).encode()
        for byte in raw:
            exchange.send(bytes([byte]))
        exchange.end()

    upstream.scripts[1] = script
    assert ask(engine, row(1))["row 1"] == [Step("row 1", text="é€"), Step("row 1", text="🙂", finish="stop")]


def test_a_server_that_knows_only_http_1_0_is_read(upstream: Upstream, engine: OpenAIEngine) -> None:
    def script(exchange: Exchange, body: dict[str, Any]) -> None:
        exchange.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        exchange.wfile.write(b'data: {"choices": [{"text": "old", "finish_reason": "stop"}]}\n\n')
        exchange.close_connection = True

    upstream.scripts[1] = script
    assert ask(engine, row(1))["row 1"] == [Step("row 1", text="old", finish="stop")]


def test_log_probabilities_come_a_token_a_step(upstream: Upstream, engine: OpenAIEngine) -> None:
    def script(exchange: Exchange, body: dict[str, Any]) -> None:
        exchange.begin()
        named = [{"token_id:5": -0.5, "token_id:9": -0.25}, {"token_id:6": -1.0}]
        exchange.chunk("c", logprobs={"token_logprobs": [-2.0], "top_logprobs": [{"c": -2.0}]})
        exchange.chunk("ab", "stop", logprobs={"token_logprobs": [-0.5, -1.0], "top_logprobs": named})

    upstream.scripts[1] = script
    assert ask(engine, row(1, sampling=Sampling(logprobs=2)))["row 1"] == [
        Step("row 1", text="c", logprob=-2.0),
        Step("row 1", text="ab", logprob=-0.5, top_logprobs=((9, -0.25), (5, -0.5))),
        Step("row 1", text="", logprob=-1.0, top_logprobs=((6, -1.0),), finish="stop"),
    ]


def test_the_key_goes_to_the_server_and_nowhere_else(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("UPSTREAM_KEY", f"{KEY}\n")  # as a file that is mounted ends
    made = make_engine(upstream.url, api_key_env="UPSTREAM_KEY")
    upstream.scripts[1] = lambda exchange, _: exchange.reply(
        401, {"error": {"message": f"no such key: {exchange.headers['Authorization']}"}}
    )
    (step,) = ask(made, row(1))["row 1"]
    assert [headers["Authorization"] for headers in upstream.headers] == [f"Bearer {KEY}"] * 2
    assert step.message == "the upstream server answered 401 Unauthorized: no such key: Bearer ***"
    assert KEY not in caplog.text + repr(made) + str(made.fingerprint())
    made.close()


@pytest.mark.parametrize("value", ["", " \n", "sk-\x07bell", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused_at_load(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", value)
    with pytest.raises(ValueError, match="UPSTREAM_KEY") as caught:
        make_engine("http://host:8000/v1", api_key_env="UPSTREAM_KEY")
    assert not value.strip() or value not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["host:8000/v1", "ftp://host/v1", "http://", "http://me:pass@host/v1", "http://:pass@host/v1", "http://h?a=b"],
)
def test_an_address_that_is_none_is_refused_at_load(url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        make_engine(url)
    assert "pass" not in str(caught.value)


@pytest.mark.parametrize(
    ("own", "listed", "expected"),
    [("auto", 100, 100), ("auto", None, 4096), (64, 100, 64), (512, 100, 100), (8192, None, 8192)],
)
def test_the_longest_row_is_what_both_allow(upstream: Upstream, own: Any, listed: int | None, expected: int) -> None:
    upstream.models = (200, {"data": [{"id": "llama", "max_model_len": listed}]})
    made = OpenAIEngine(LlamaSettings.model_validate({"max_length": own, "upstream": {"base_url": upstream.url}}))
    (shape,) = made.warmup()
    assert shape[0] == "models"
    assert made.capabilities.max_length == expected
    assert made.capabilities.max_batch == 64


def test_the_model_is_the_named_one_or_the_first(upstream: Upstream) -> None:
    upstream.scripts[1] = says("ok")
    for named, expected in ((None, "llama"), ("other", "other")):
        made = make_engine(f"{upstream.url}/", model=named)
        ask(made, row(1))  # looks the models up by itself when warmup has not
        assert upstream.bodies[-1]["model"] == expected
        assert made.fingerprint() == {"engine": "openai", "upstream": upstream.url, "model": expected}


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, MODELS, "has no model 'llamas'; it has llama, other"),
        (200, {"data": []}, "has no model 'llamas'; it has none"),
        (200, b"<html>", "does not list models as an OpenAI server does"),
        (401, {"error": {"message": "no key"}}, "the upstream server answered 401 Unauthorized: no key"),
        (404, b"", "the upstream server answered 404 Not Found"),
    ],
)
def test_a_server_that_has_no_such_model_is_told_at_warmup(
    upstream: Upstream, status: int, body: Any, message: str
) -> None:
    upstream.models = (status, body)
    with pytest.raises(UpstreamError) as caught:
        make_engine(upstream.url, model="llamas").warmup()
    assert str(caught.value).endswith(message)
    assert upstream.url in str(caught.value)


def test_a_server_that_is_not_there_is_told_at_warmup() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(UpstreamError) as caught:
            make_engine(url).warmup()
    assert str(caught.value) == f"{url}/models: the upstream server cannot be reached: Connection refused"


LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=6)


@given(
    st.lists(st.tuples(st.lists(LINES, min_size=1, max_size=3), LINES), max_size=6),
    LINE_ENDS,
    st.lists(st.floats(0, 1), max_size=12),
)
def test_events_are_the_same_wherever_their_bytes_are_cut(
    events: list[tuple[list[str], str]], line_end: str, cuts: list[float]
) -> None:
    lines = [
        line
        for data, comment in events
        for line in (f":{comment}", "", f"id: {comment}", *(f"data: {part}" for part in data), "")
    ]
    raw = "".join(line + line_end for line in [*lines, "data: cut off by the end"]).encode()
    places = [0, *sorted(math.floor(cut * len(raw)) for cut in cuts), len(raw)]
    pieces = [raw[start:end] for start, end in pairwise(places)]
    assert list(sse_data(pieces)) == ["\n".join(data) for data, _ in events]
