"""What a client says of a server that does as it is told: right times, and every failure by its kind."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.clients import Answer, Client, HttpClient, Token, client_of
from loadtest.dialects import Call
from loadtest.plan import Target
from model_configs.errors import KitError
from model_configs.loadtest import LoadTest
from tests.fakes.scripted import Scripted, scripted_server

LOAD = LoadTest(payloads="any", timeout_s=5)
PORT = 18990


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripted]:
    with scripted_server(PORT, tmp_path_factory.mktemp("scripted")) as found:
        yield found


def whole(script: str) -> Call:
    return Call("p", f"/predictions/{script}", "text/plain", b"hello", 1, False)


def streamed(script: str) -> Call:
    return Call("p", f"/predictions/{script}/1.0/v1/completions", "application/json", b'{"stream": true}', 1, True)


def client(server: Scripted, token_file: Path | None = None) -> Client:
    target = Target(kind="predictions", url=server.url, model="m", token_file=str(token_file) if token_file else None)
    return client_of(target, LOAD)()


def ask(server: Scripted, call: Call, timeout_s: float = 5.0) -> Answer:
    asker = client(server)
    answer = asker.send(call, timeout_s)
    asker.close()
    return answer


def test_a_connection_is_kept_from_request_to_request(server: Scripted) -> None:
    asker = client(server)
    answers = [asker.send(whole("delay=20"), 5.0) for _ in range(3)]
    wire = asker._connection.sock  # type: ignore[attr-defined]
    answers.append(asker.send(whole("delay=20"), 5.0))
    assert asker._connection.sock is wire  # type: ignore[attr-defined]
    asker.close()
    assert [answer.error for answer in answers] == [None] * 4
    assert all(answer.ended_s - answer.sent_s >= 0.02 for answer in answers)


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

    received = bytearray()

    def serve_one_a_connection(listener: socket.socket) -> None:
        for _ in range(2):
            wire, _ = listener.accept()
            # All of the request: a socket that is closed with bytes unread resets its connection.
            while not received.endswith(b"hello"):
                received.extend(wire.recv(65536))
            received.clear()
            wire.sendall(answer)
            wire.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_one_a_connection, args=(listener,), daemon=True)
        thread.start()
        asker = HttpClient(f"http://127.0.0.1:{listener.getsockname()[1]}", Token(None))
        assert asker.send(whole("x"), 5.0).error is None
        # The end of the first connection has to have come.
        asker._connection.sock.settimeout(5)  # type: ignore[union-attr]
        assert asker._connection.sock.recv(1, socket.MSG_PEEK) == b""  # type: ignore[union-attr]
        assert asker.send(whole("x"), 5.0).error is None
        thread.join(5)
        asker.close()


def test_a_stream_s_times_are_the_server_s(server: Scripted) -> None:
    answer = ask(server, streamed("first=100,gap=30,tokens=6"))
    assert answer.error is None
    assert answer.stream is not None
    assert answer.stream.first_s is not None
    assert (answer.tokens_in, answer.tokens_out, answer.stream.chunks) == (3, 6, 6)
    (truth,) = server.truth("first=100,gap=30,tokens=6", 1)
    true_ttft_ms = 1e3 * (truth["first_s"] - truth["received_s"])
    assert 1e3 * (answer.stream.first_s - answer.sent_s) == pytest.approx(true_ttft_ms, rel=0.1)
    assert sum(answer.stream.gaps_ms) / 5 == pytest.approx(30, rel=0.1)


def test_tokens_that_come_together_are_counted_by_the_server_s_usage(server: Scripted) -> None:
    answer = ask(server, streamed("first=20,gap=5,tokens=9,coalesce=3"))
    assert answer.stream is not None
    assert (answer.tokens_out, answer.stream.chunks) == (9, 3)


@pytest.mark.parametrize(
    ("call", "error", "status"),
    [
        (streamed("first=5,gap=5,tokens=9,cut=4"), "stream_cut", 200),
        (streamed("first=5,gap=5,tokens=9,error=4"), "stream_error", 200),
        (whole("refuse=1"), "refused", 503),
        (whole("token=secret"), "client_error", 400),
        (whole("delay=2000"), "timeout", None),
        (whole("headers=60000"), "timeout", None),
        (streamed("first=5,gap=3000,tokens=9"), "timeout", 200),
    ],
)
def test_failures_have_their_kind_and_end_in_time(server: Scripted, call: Call, error: str, status: int | None) -> None:
    answer = ask(server, call, timeout_s=0.5)
    assert (answer.error, answer.status) == (error, status)
    assert answer.ended_s - answer.sent_s < 1.5
    assert answer.detail


def test_a_stream_that_failed_keeps_what_came_before(server: Scripted) -> None:
    answer = ask(server, streamed("first=5,gap=5,tokens=9,cut=4"))
    assert answer.stream is not None
    assert answer.stream.chunks == 4


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    asker = HttpClient(f"http://127.0.0.1:{port}", Token(None))
    assert asker.send(whole("x"), 1.0).error == "connection"


def test_an_expired_token_is_read_again_once(server: Scripted, tmp_path: Path) -> None:
    file = tmp_path / "key_file.json"
    file.write_text(json.dumps({"inference": {"key": "old"}}))
    asker = client(server, file)
    assert asker.send(whole("token=new"), 5.0).error == "client_error"
    file.write_text(json.dumps({"inference": {"key": "new"}}))
    assert asker.send(whole("token=new"), 5.0).error is None
    asker.close()


def test_a_bad_request_is_no_reason_to_read_the_token_again(server: Scripted, tmp_path: Path) -> None:
    file = tmp_path / "key_file.json"
    file.write_text(json.dumps({"inference": {"key": "k"}}))
    token = Token(file)
    file.write_text(json.dumps({"inference": {"key": "other"}}))
    asker = HttpClient(server.url, token)
    asker.send(whole("refuse=1"), 5.0)
    asker.close()
    assert token.value == "k"


def test_what_is_no_url_is_a_usage_error() -> None:
    with pytest.raises(KitError, match="no URL"):
        client_of(Target(kind="predictions", url="127.0.0.1:8080", model="m"), LOAD)


class TestSageMaker:
    """By the real boto3, from a server that speaks the event stream and refuses what is not signed."""

    @pytest.fixture(autouse=True)
    def _credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")

    def ask(self, server: Scripted, script: str, *, stream: bool = True, timeout_s: float = 5.0) -> Answer:
        kind = "sagemaker-stream" if stream else "sagemaker"
        target = Target(kind=kind, url=server.url, model=script, region="eu-west-1", stream=stream)  # type: ignore[arg-type]
        load = LOAD.model_copy(update={"timeout_s": timeout_s})
        call = Call("p", "", "text/plain", b"hello", 1, stream)
        return client_of(target, load)().send(call, timeout_s)

    def test_a_whole_answer(self, server: Scripted) -> None:
        answer = self.ask(server, "delay=10", stream=False)
        assert (answer.error, answer.status, answer.bytes) == (None, 200, len(b'{"answer": 42}'))

    def test_a_stream_cut_at_odd_places(self, server: Scripted) -> None:
        answer = self.ask(server, "first=100,gap=20,tokens=7")
        assert (answer.error, answer.tokens_out) == (None, 7)
        assert answer.stream is not None
        assert answer.stream.first_s is not None
        # boto3 makes its client's first connection in this time.
        assert 100 <= 1e3 * (answer.stream.first_s - answer.sent_s) < 150

    @pytest.mark.parametrize(
        ("script", "error", "status"),
        [
            ("first=5,gap=5,tokens=9,error=3", "stream_error", 200),
            ("first=5,gap=5,tokens=9,cut=3", "stream_cut", 200),
            ("refuse=1", "refused", 503),
            ("delay=2000", "timeout", None),
        ],
    )
    def test_failures_are_neither_retried_nor_lost(
        self, server: Scripted, script: str, error: str, status: int | None
    ) -> None:
        before = len(server.truth(f"/endpoints/{script}/"))
        answer = self.ask(server, script, timeout_s=0.5)
        assert (answer.error, answer.status) == (error, status)
        if status:
            assert len(server.truth(f"/endpoints/{script}/", before + 1)) == before + 1

    def test_without_credentials_nothing_begins(self, server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        with pytest.raises(KitError, match="credentials"):
            self.ask(server, "delay=1")
