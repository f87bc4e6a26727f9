"""A model somewhere, one way to ask it: whole answers, or streams as they come; TorchServe's and SageMaker's.

    for chunk in client.stream(b'{"inputs": "The with statement", "stream": true}'):
        ...

Pieces of a stream end anywhere, in the middle of a line or of a character: lines() and characters() put them together.
No retries: a generation that is repeated costs and answers anew, so whoever asks decides. Knows nothing of what is in a
body.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import requests
from botocore.exceptions import BotoCoreError, ClientError, EventStreamError
from urllib3.exceptions import HTTPError, ReadTimeoutError

from deploy.aws import Aws
from model_configs.errors import Failed

JSON = "application/json"
CONNECT_TIMEOUT_S = 10.0
TORCHSERVE_SILENCE_S = 60.0
SAGEMAKER_SILENCE_S = 70.0
"""A container may take 60 s for the first byte; boto3's own 60 s would give up beside it."""
SHOWN_CHARACTERS = 500
ENDED_EARLY = "cut"
SILENT = "timeout"


class StreamEnded(Failed):
    """A stream that ended before its end. partial: what had come; code: SageMaker's, or "cut", or "timeout"."""

    def __init__(self, message: str, code: str, partial: bytes) -> None:
        super().__init__(message)
        self.code = code
        self.partial = partial

    @property
    def text(self) -> str:
        """partial as text, without half a character at its end."""
        return "".join(characters([self.partial], cut=True))


class Endpoint(Protocol):
    """Where a model answers."""

    def invoke(self, body: bytes, content_type: str = JSON) -> bytes:
        """A whole answer. Raises Failed with the endpoint's own words when it gives none."""

    def stream(self, body: bytes, content_type: str = JSON) -> Iterator[bytes]:
        """An answer's pieces as they come. Raises Failed, and StreamEnded once something has come."""

    def lines(self, body: bytes, content_type: str = JSON) -> Iterator[bytes]:
        """A stream's lines without their ends, each as soon as it is whole. Raises as stream does."""


class TorchServeEndpoint:
    """A model of a TorchServe, by its predictions API."""

    def __init__(
        self,
        url: str,
        model: str,
        token: str | None = None,
        silence_s: float = TORCHSERVE_SILENCE_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        """silence_s: longest wait for the next byte."""
        self._url = f"{url.rstrip('/')}/predictions/{model}"
        self._timeouts_s = (connect_timeout_s, silence_s)
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy from the environment has no business on loopback
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def invoke(self, body: bytes, content_type: str = JSON) -> bytes:
        return b"".join(self.stream(body, content_type))

    def stream(self, body: bytes, content_type: str = JSON) -> Iterator[bytes]:
        came = bytearray()
        try:
            with self._session.post(
                self._url, body, headers={"Content-Type": content_type}, timeout=self._timeouts_s, stream=True
            ) as reply:
                if reply.status_code != 200:
                    raise Failed(f"{self._url}: {reply.status_code} {said(reply.content)}")
                for piece in reply.iter_content(chunk_size=None):
                    came += piece
                    yield piece
        except requests.RequestException as error:
            raise self._ended(error, bytes(came)) from None

    def lines(self, body: bytes, content_type: str = JSON) -> Iterator[bytes]:
        return whole_lines(self.stream(body, content_type))

    def _ended(self, error: requests.RequestException, came: bytes) -> Failed:
        # requests tells a silence in the middle of a body as a ConnectionError that holds urllib3's own error.
        silent = isinstance((*error.args, error)[0], ReadTimeoutError) or isinstance(error, requests.Timeout)
        words = f"nothing came for {self._timeouts_s[1]:g} s" if silent else str(error)
        if not came:
            return Failed(f"{self._url}: {words}")
        return StreamEnded(f"{self._url}: the stream was cut: {words}", SILENT if silent else ENDED_EARLY, came)


class SageMakerEndpoint:
    """An endpoint of SageMaker's, or of the emulator's, by boto3."""

    def __init__(
        self,
        name: str,
        aws: Aws,
        silence_s: float = SAGEMAKER_SILENCE_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        """silence_s: longest wait for the next byte."""
        self._name = name
        self._silence_s = silence_s
        self._runtime = aws.client(
            "sagemaker-runtime",
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=connect_timeout_s,
            read_timeout=silence_s,
        )

    def invoke(self, body: bytes, content_type: str = JSON) -> bytes:
        try:
            reply = self._runtime.invoke_endpoint(EndpointName=self._name, ContentType=content_type, Body=body)
            return bytes(reply["Body"].read())
        except (BotoCoreError, ClientError) as error:
            raise Failed(f"{self._name}: {self._words(error)}") from None

    def stream(self, body: bytes, content_type: str = JSON) -> Iterator[bytes]:
        try:
            reply = self._runtime.invoke_endpoint_with_response_stream(
                EndpointName=self._name, ContentType=content_type, Body=body
            )
        except (BotoCoreError, ClientError) as error:
            raise Failed(f"{self._name}: {self._words(error)}") from None
        came = bytearray()
        try:
            for event in reply["Body"]:
                piece = event.get("PayloadPart", {}).get("Bytes", b"")
                came += piece
                yield piece
        except EventStreamError as error:
            said_by_aws = error.response["Error"]
            words = f"{self._name}: the stream broke: {said_by_aws['Code']}: {said_by_aws['Message']}"
            raise StreamEnded(words, said_by_aws["Code"], bytes(came)) from None
        except ReadTimeoutError:
            words = f"{self._name}: the stream was cut: nothing came for {self._silence_s:g} s"
            raise StreamEnded(words, SILENT, bytes(came)) from None
        except (HTTPError, OSError) as error:  # botocore lets urllib3's errors of a stream through
            raise StreamEnded(f"{self._name}: the stream was cut: {error}", ENDED_EARLY, bytes(came)) from None
        finally:
            reply["Body"].close()

    def lines(self, body: bytes, content_type: str = JSON) -> Iterator[bytes]:
        return whole_lines(self.stream(body, content_type))

    def _words(self, error: BotoCoreError | ClientError) -> str:
        if not isinstance(error, ClientError):
            return str(error)
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        if code == "ModelError" and error.response.get("OriginalStatusCode"):
            status, original = error.response["OriginalStatusCode"], error.response.get("OriginalMessage", "")
            return f"the model answered {status}: {said(original.encode())} (log: {_log(error)})"
        return f"{code}: {error.response.get('OriginalMessage') or message}"


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends, out of pieces that end anywhere; the last one may have no end."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
    if rest:
        yield rest


def characters(pieces: Iterable[bytes], *, cut: bool = False) -> Iterator[str]:
    """Text out of pieces of UTF-8 that end anywhere; what is no UTF-8 becomes U+FFFD. cut: so may its end be."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for piece in pieces:
        if text := decoder.decode(piece):
            yield text
    if not cut and (text := decoder.decode(b"", final=True)):
        yield text


def said(body: bytes) -> str:
    """What an error's body says: the message of the kit's and OpenAI's errors, of TorchServe's, or its beginning."""
    text = body[: 1 << 16].decode(errors="replace").strip()
    try:
        document = json.loads(text)
    except ValueError:
        return text[:SHOWN_CHARACTERS]
    inner: Any = document.get("error", document) if isinstance(document, dict) else document
    message = inner.get("message") if isinstance(inner, dict) else None
    return str(message or text)[:SHOWN_CHARACTERS]


def _log(error: ClientError) -> str:
    return str(error.response.get("LogStreamArn", "")).rpartition("log-group:")[2] or "none"
