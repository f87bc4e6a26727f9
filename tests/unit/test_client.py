"""Both clients against servers that cut, stall, break and refuse, and what they make of pieces that end anywhere."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.aws import Aws, emulated_session
from deploy.client import Endpoint, SageMakerEndpoint, StreamEnded, TorchServeEndpoint, characters, said, whole_lines
from deploy.emulator import eventstream
from model_configs.errors import Failed
from tests.fakes.scripted import scripted_server
from tests.fakes.token_iterator import TokenIterator

PORT = 21540
BODY = b'{"stream": true}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAIN = HEAD % b"text/plain"
EVENTS = HEAD % b"application/vnd.amazon.eventstream"


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """The same bytes in pieces of these sizes, over and over."""
    pieces, place, turn = [], 0, 0
    while place < len(data):
        pieces.append(data[place : place + sizes[turn % len(sizes)]])
        place, turn = place + sizes[turn % len(sizes)], turn + 1
    return pieces


SIZES = st.lists(st.integers(1, 5), min_size=1)


@given(st.lists(st.text(alphabet="aé東\r", max_size=6)), SIZES)
def test_lines_are_whole_wherever_pieces_end(lines: list[str], sizes: list[int]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    assert [line.decode() for line in whole_lines(cut(data, sizes))] == [line.removesuffix("\r") for line in lines]


@given(st.text(), SIZES)
def test_characters_are_whole_wherever_pieces_end(text: str, sizes: list[int]) -> None:
    assert "".join(characters(cut(text.encode(errors="ignore"), sizes))) == text.encode(errors="ignore").decode()
    for piece in characters(cut("größer als 東京".encode(), sizes)):
        assert "\ufffd" not in piece


def test_half_a_character_at_the_end_shows_unless_the_stream_was_cut() -> None:
    assert list(characters([b"a\xe6\x9d"])) == ["a", "\ufffd"]
    assert list(characters([b"a\xe6\x9d"], cut=True)) == ["a"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "too long", "type": "t", "code": "c"}}', "too long"),
        (b'{"code": 503, "type": "T", "message": "queue is full"}', "queue is full"),
        (b'{"other": 1}', '{"other": 1}'),
        (b"[1]", "[1]"),
        (b"plain \xff", "plain \ufffd"),
        (b"x" * 9999, "x" * 500),
    ],
)
def test_an_errors_own_words_are_found(body: bytes, words: str) -> None:
    assert said(body) == words


class Canned:
    """Sends the same bytes to every connection, then closes it, or holds it until the end."""

    def __init__(self, data: bytes, *, hold: bool) -> None:
        self._data, self._hold = data, hold
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                request = b""
                while b"\r\n\r\n" not in request or not request.endswith(BODY):
                    request += connection.recv(1 << 16)
                self.asked += 1
                connection.sendall(self._data)
                if self._hold:
                    self._ended.wait(10)

    def close(self) -> None:
        self._ended.set()
        self._listener.close()


@contextmanager
def canned(data: bytes, *, hold: bool = False) -> Iterator[Canned]:
    server = Canned(data, hold=hold)
    try:
        yield server
    finally:
        server.close()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def torchserve(url: str) -> Endpoint:
    return TorchServeEndpoint(url, "m", silence_s=0.3)


def sagemaker(url: str) -> Endpoint:
    return SageMakerEndpoint("m", emulated_session(url), silence_s=0.3)


HALF = "Grö".encode()[:-1]
Make = Callable[[str], Endpoint]


@pytest.mark.parametrize(
    ("make", "data", "hold", "code", "words"),
    [
        (torchserve, PLAIN + chunk(HALF), False, "cut", "the stream was cut"),
        (torchserve, PLAIN + chunk(HALF), True, "timeout", "nothing came for 0.3 s"),
        (sagemaker, EVENTS + chunk(eventstream.payload_part(HALF)), False, "cut", "the stream was cut"),
        (sagemaker, EVENTS + chunk(eventstream.payload_part(HALF)), True, "timeout", "nothing came for 0.3 s"),
        (
            sagemaker,
            EVENTS + chunk(eventstream.payload_part(HALF) + eventstream.model_stream_error("it broke", "StreamBroken")),
            False,
            "ModelStreamError",
            "it broke",
        ),
        (
            sagemaker,
            EVENTS + chunk(eventstream.payload_part(HALF) + eventstream.internal_stream_failure("ours")),
            False,
            "InternalStreamFailure",
            "ours",
        ),
    ],
)
def test_a_stream_that_ends_early_says_how_and_keeps_what_came(
    make: Make, data: bytes, hold: bool, code: str, words: str
) -> None:
    with canned(data, hold=hold) as server:
        came: list[bytes] = []
        with pytest.raises(StreamEnded, match=words) as caught:
            came.extend(make(server.url).stream(BODY))
        assert b"".join(came) == HALF == caught.value.partial
        assert caught.value.text == "Gr"
        assert caught.value.code == code
        assert server.asked == 1, "a generation must not be repeated"


@pytest.mark.parametrize("make", [torchserve, sagemaker])
def test_silence_before_an_answer_is_told_and_not_asked_again(make: Make) -> None:
    with canned(b"", hold=True) as server:
        for ask in (make(server.url).invoke, lambda body: list(make(server.url).stream(body))):
            with pytest.raises(Failed, match=r"0\.3 s|Read timeout"):
                ask(BODY)
        assert server.asked <= 2


def reply(status: int, kind: str, document: dict[str, object]) -> bytes:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} X\r\nx-amzn-ErrorType: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            reply(424, "ModelError", {"Message": "long", "OriginalStatusCode": 413, "OriginalMessage": '{"message":"x"}',
                                      "LogStreamArn": "arn:aws:logs:eu-west-1:1:log-group:/aws/sagemaker/Endpoints/m"}),
            r"m: the model answered 413: x \(log: /aws/sagemaker/Endpoints/m\)",
        ),
        (reply(424, "ModelError", {"Message": "m", "OriginalStatusCode": 0, "OriginalMessage": "timed out"}), "ModelError: timed out"),
        (reply(429, "ModelNotReadyException", {"Message": "loading"}), "ModelNotReadyException: loading"),
        (reply(400, "ValidationError", {"Message": "Endpoint m of account 1 not found."}), "ValidationError: Endpoint m"),
        (reply(503, "ServiceUnavailable", {"Message": "later"}), "ServiceUnavailable: later"),
    ],
)  # fmt: skip
def test_what_sagemaker_says_before_a_stream_is_said(data: bytes, words: str) -> None:
    with canned(data) as server:
        for ask in (sagemaker(server.url).invoke, lambda body: list(sagemaker(server.url).stream(body))):
            with pytest.raises(Failed, match=words) as caught:
                ask(BODY)
            assert not isinstance(caught.value, StreamEnded)
        assert server.asked == 2


def test_the_articles_reader_reads_what_the_client_gives() -> None:
    lines = b'data:{"token": {"text": "Gr\xc3\xb6"}}\ndata:{"token": {"text": "\xc3\x9fer"}}\n'
    parts = b"".join(chunk(eventstream.payload_part(piece)) for piece in cut(lines, [7, 1, 11]))
    with canned(EVENTS + parts + b"0\r\n\r\n") as server:
        pieces = sagemaker(server.url).stream(BODY)
        assert list(TokenIterator({"PayloadPart": {"Bytes": piece}} for piece in pieces)) == ["Grö", "ßer"]


def test_both_kinds_give_the_same_lines_and_words(tmp_path: Path) -> None:
    with scripted_server(PORT, tmp_path) as server:
        remote: Aws = emulated_session(server.url)
        ends: list[Endpoint] = [
            TorchServeEndpoint(server.url, "first=5,gap=5,tokens=3/1.0/v1/completions"),
            SageMakerEndpoint("first=5,gap=5,tokens=3", remote),
        ]
        found = [[line for line in end.lines(BODY) if line] for end in ends]
        assert found[0] == found[1]
        assert found[0][-1] == b"data: [DONE]"
        assert len(found[0]) > 3
        assert json.loads(TorchServeEndpoint(server.url, "delay=1").invoke(b"{}")) == {"answer": 42}
        assert json.loads(SageMakerEndpoint("delay=1", remote).invoke(b"{}")) == {"answer": 42}
        with pytest.raises(Failed, match="503 the queue is full"):
            TorchServeEndpoint(server.url, "refuse=1").invoke(b"{}")
        with pytest.raises(Failed, match="503"):
            SageMakerEndpoint("refuse=1,tokens=1", remote).invoke(b"{}")


@pytest.mark.parametrize("make", [torchserve, sagemaker])
def test_where_nothing_listens_is_told(make: Make) -> None:
    with pytest.raises(Failed, match="127.0.0.1:9"):
        make("http://127.0.0.1:9").invoke(BODY)
