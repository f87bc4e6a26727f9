"""The retrieval handler with a fake context, a tiny random model and a server that writes answers as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval_handler import RetrievalHandler
from servekit.retrieval.index import IndexMismatch
from servekit.settings import RetrievalSettings
from tests.fakes.context import ask, make_context
from tests.fakes.tiny_index import PASSAGES, tiny_index

JSON = {"Content-Type": "application/json"}
CHAT = {**JSON, "url_path": "v1/chat/completions", "Authorization": "Bearer of-the-client"}
COMPLETIONS = {**JSON, "url_path": "v1/completions"}
SETTINGS: dict[str, Any] = {
    "compile": {"mode": "eager"},
    "max_batch_texts": 4,
    "max_texts_per_request": 6,
    "warmup": {"batch_sizes": [1, 4]},
    "k": 2,
    "max_k": 10,
    "template": "{context}\n?{question}",
    "passage_template": "{number}. {title}: {text}",
}


class Writer(BaseHTTPRequestHandler):
    """Answers with what it was asked; `[fail]`, `[refuse]`, `[cut]` in a prompt make it do so."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, Any], str | None]] = []  # noqa: RUF012 - the test reads it

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Writer.seen.append((self.path, body, self.headers["Authorization"]))
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        if "[fail]" in prompt or "[refuse]" in prompt:
            self._whole(500 if "[fail]" in prompt else 413, {"error": {"message": "too long"}})
        elif body.get("stream"):
            self._stream("[cut]" in prompt)
        else:
            self._whole(200, {"choices": [{"text": prompt.upper()}], "usage": {"completion_tokens": 3}})

    def _whole(self, status: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, cut: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in ("one", "two"):
            line = f"data: {json.dumps({'choices': [{'delta': {'content': word}}]})}\n\n".encode()
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        if cut:
            self.close_connection = True
            return
        end = b"data: [DONE]\n\n"
        self.wfile.write(f"{len(end):x}\r\n".encode() + end + b"\r\n0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def writer() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Writer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def served(writer: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RetrievalHandler, Any]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "model").symlink_to(tiny_model)
    (folder / "artefacts").mkdir()
    handler_settings = SETTINGS | {"answer": {"base_url": writer, "model": "writer", "max_tokens": 7}}
    tiny_index(folder / "index", tiny_model, RetrievalSettings.model_validate(handler_settings).encoder)
    context = make_context(folder, {"handler": handler_settings, "maxWorkers": 1}, name="rag")
    handler = RetrievalHandler()
    handler.initialize(context)
    return handler, context


def test_a_passage_s_own_text_finds_it_first(served: tuple[RetrievalHandler, Any]) -> None:
    for passage in PASSAGES:
        ((status, reply),) = ask(*served, [(passage.text.encode(), {})])
        found = json.loads(reply)
        assert status == 200
        first = found["passages"][0]
        assert (first["source"], first["start"], first["text"]) == (passage.source, passage.start, passage.text)
        assert first["score"] == pytest.approx(1.0, abs=1e-4)
        assert len(found["passages"]) == 2
        scores = [each["score"] for each in found["passages"]]
        assert scores == sorted(scores, reverse=True)


def test_the_prompt_is_made_by_the_template(served: tuple[RetrievalHandler, Any]) -> None:
    ((_, reply),) = ask(*served, [(b'{"query": "the fox jumps", "k": 1}', JSON)])
    assert json.loads(reply)["prompt"] == "1. Foxes: the fox jumps\n?the fox jumps"


def test_many_queries_of_many_requests_are_one_call_and_one_search(
    served: tuple[RetrievalHandler, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, context = served
    calls: list[int] = []
    search = handler.index._faiss.search
    monkeypatch.setattr(handler.index, "_faiss", _Counting(handler.index._faiss, calls, search))
    embedded: list[int] = []
    embed = handler.embedder.embed

    def counting(rows: Any) -> Any:
        embedded.append(len(rows))
        return embed(rows)

    monkeypatch.setattr(handler.embedder, "embed", counting)
    replies = ask(
        handler,
        context,
        [(b"the fox", {}), (b'{"query": ["dog", "server"], "k": 3, "prompt": false}', JSON), (b"text", {})],
    )
    assert (embedded, calls) == ([4], [4])
    many = json.loads(replies[1][1])
    assert [(each["query"], len(each["passages"])) for each in many] == [("dog", 3), ("server", 3)]
    assert all("prompt" not in each for each in many)
    assert len(json.loads(replies[0][1])["passages"]) == 2


class _Counting:
    def __init__(self, index: Any, calls: list[int], search: Any) -> None:
        self._index, self._calls, self._search = index, calls, search

    def search(self, queries: Any, k: int) -> Any:
        self._calls.append(len(queries))
        return self._search(queries, k)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)


def test_filters_choose_among_passages(served: tuple[RetrievalHandler, Any]) -> None:
    def sources(filters: dict[str, Any]) -> list[str]:
        body = json.dumps({"query": "the fox jumps", "k": 10, "filters": filters}).encode()
        ((status, reply),) = ask(*served, [(body, JSON)])
        assert status == 200
        return [each["source"] for each in json.loads(reply)["passages"]]

    assert set(sources({"source": "machines/*"})) == {"machines/server.md"}
    assert sources({"source": ["animals/dog.md", "none"]}) == ["animals/dog.md"]
    assert sources({"title": "Foxes", "source": "machines/*"}) == []
    assert len(sources({})) == 4


BAD_REQUESTS: list[tuple[int, str, tuple[bytes | None, dict[str, str]]]] = [
    (422, "empty_query", (b"", {})),
    (422, "empty_query", (b'{"query": ["a", " "]}', JSON)),
    (422, "empty_query", (b'{"query": []}', JSON)),
    (422, "invalid_request", (b"{}", JSON)),
    (422, "invalid_request", (b'{"query": "a", "inputs": "a"}', JSON)),
    (422, "invalid_request", (b'{"query": "a", "k": 0}', JSON)),
    (422, "invalid_request", (b'{"query": "a", "k": 11}', JSON)),
    (422, "invalid_request", (b'{"query": "a", "filters": {"text": "x"}}', JSON)),
    (422, "invalid_request", (b'{"query": "a", "filter": {"source": "x"}}', JSON)),
    (413, "too_many_queries", (json.dumps({"query": ["a"] * 7}).encode(), JSON)),
    (413, "body_too_large", (b"x" * 600_000, {})),
    (400, "invalid_json", (b'{"query": ', JSON)),
    (400, "invalid_utf8", (b"\xff\xfe", {})),
    (415, "unsupported_media_type", (b"\x89PNG", {"Content-Type": "image/png"})),
    (404, "unknown_path", (b"a", {"url_path": "v1/embeddings"})),
    (404, "model_not_found", (b'{"messages": [{"role": "user", "content": "a"}], "model": "gpt"}', CHAT)),
    (422, "invalid_request", (b'{"messages": []}', CHAT)),
    (422, "invalid_request", (b'{"messages": [{"role": "system", "content": "a"}]}', CHAT)),
    (422, "invalid_request", (b'{"prompt": ["a", "b"]}', COMPLETIONS)),
    (422, "invalid_request", (b'{"prompt": "a", "retrieval": {"k": 99}}', COMPLETIONS)),
    (413, "answer_refused", (b'{"prompt": "the [refuse] fox"}', COMPLETIONS)),
    (502, "answer_failed", (b'{"prompt": "the [fail] fox"}', COMPLETIONS)),
]


def test_a_bad_request_gets_its_own_answer_and_its_neighbours_theirs(served: tuple[RetrievalHandler, Any]) -> None:
    good: list[tuple[bytes | None, dict[str, str]]] = [(b"the fox", {}), (b'{"query": ["dog", "a"], "k": 1}', JSON)]
    expected = ask(*served, good)
    assert [status for status, _ in expected] == [200, 200]
    for status, code, bad in BAD_REQUESTS:
        replies = ask(*served, [good[0], bad, good[1]])
        found, body = replies.pop(1)
        assert (found, json.loads(body)["error"]["code"]) == (status, code), bad
        assert replies == expected


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from([{}, JSON, CHAT, COMPLETIONS]))
def test_no_body_is_a_fault(served: tuple[RetrievalHandler, Any], body: bytes, headers: dict[str, str]) -> None:
    ((status, reply), (neighbour, _)) = ask(*served, [(body, headers), (b"the fox", {})])
    assert status == 200 or 400 <= status < 500
    assert neighbour == 200
    assert reply


def test_an_answer_is_written_from_the_passages_and_names_its_sources(served: tuple[RetrievalHandler, Any]) -> None:
    Writer.seen.clear()
    body = {"prompt": "the fox jumps", "temperature": 0, "retrieval": {"k": 1, "filters": {"source": "animals/*"}}}
    ((status, reply),) = ask(*served, [(json.dumps(body).encode(), COMPLETIONS)])
    answer = json.loads(reply)
    assert (status, answer["choices"][0]["text"]) == (200, "1. FOXES: THE FOX JUMPS\n?THE FOX JUMPS")
    assert [each["source"] for each in answer["sources"]] == ["animals/fox.md"]
    assert "text" not in answer["sources"][0]
    ((path, sent, authorization),) = Writer.seen
    assert path == "/v1/completions"
    assert (sent["model"], sent["max_tokens"], sent["temperature"], authorization) == ("writer", 7, 0, None)
    assert "retrieval" not in sent


def test_a_chat_is_streamed_with_its_sources_first(
    served: tuple[RetrievalHandler, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ts.handler_utils.utils as ts_utils

    Writer.seen.clear()
    chunks: list[dict[int, bytes]] = []
    monkeypatch.setattr(ts_utils, "send_intermediate_predict_response", lambda chunk, ids, *_: chunks.append(chunk))
    messages = [{"role": "system", "content": "short"}, {"role": "user", "content": "the fox jumps"}]
    body = json.dumps({"messages": messages, "stream": True, "model": "rag"}).encode()
    replies = ask(*served, [(b"dog", {}), (body, CHAT)])
    assert json.loads(replies[0][1])["query"] == "dog"
    assert all(set(chunk) == {1} for chunk in chunks)
    text = b"".join([chunk[1] for chunk in chunks] + [replies[1][1]])
    events = [line[5:].strip() for line in text.splitlines() if line.startswith(b"data:")]
    assert events[-1] == b"[DONE]"
    first, second = json.loads(events[0]), json.loads(events[1])
    assert first["sources"][0]["source"] == "animals/fox.md"
    assert "sources" not in second
    assert [each["choices"][0]["delta"]["content"] for each in (first, second)] == ["one", "two"]
    _, sent, authorization = Writer.seen[0]
    # The other server is on this machine, so that the client's own key is good there.
    assert authorization == "Bearer of-the-client"
    assert sent["messages"][0] == messages[0]
    assert sent["messages"][1]["content"].startswith("1. Foxes: the fox jumps")


def test_a_stream_that_is_cut_off_says_so(
    served: tuple[RetrievalHandler, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ts.handler_utils.utils as ts_utils

    chunks: list[dict[int, bytes]] = []
    monkeypatch.setattr(ts_utils, "send_intermediate_predict_response", lambda chunk, ids, *_: chunks.append(chunk))
    ((_, reply),) = ask(*served, [(b'{"prompt": "the [cut] fox", "stream": true}', COMPLETIONS)])
    assert len(chunks) > 0
    assert json.loads(reply.removeprefix(b"data:"))["error"]["code"] == "answer_failed"


def test_an_index_of_another_encoder_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(tiny_model)
    (tmp_path / "artefacts").mkdir()
    other = RetrievalSettings.model_validate(SETTINGS | {"pooling": "cls"}).encoder
    tiny_index(tmp_path / "index", tiny_model, other)
    with pytest.raises(IndexMismatch, match="pooling: built for cls, here mean"):
        RetrievalHandler().initialize(make_context(tmp_path, {"handler": SETTINGS, "maxWorkers": 1}))


def test_an_archive_without_an_index_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(tiny_model)
    (tmp_path / "artefacts").mkdir()
    with pytest.raises(IndexMismatch, match="holds no index"):
        RetrievalHandler().initialize(make_context(tmp_path, {"handler": SETTINGS, "maxWorkers": 1}))
