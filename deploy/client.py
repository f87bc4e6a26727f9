"""A model somewhere, one way to ask it: whole answers, or a stream's lines as they come; TorchServe's and SageMaker's.

No retries: whoever asks decides. Knows nothing of what is in a body.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import requests

from model_configs.errors import Failed, KitError

PIECE_BYTES = 1 << 16
JSON = "application/json"


class Endpoint(Protocol):
    """Where a model answers."""

    def invoke(self, body: bytes, content_type: str = JSON) -> bytes:
        """A whole answer. Raises Failed with the endpoint's own words when it gives none."""

    def lines(self, body: bytes, content_type: str = JSON) -> Iterator[bytes]:
        """A stream's lines without their ends, each as soon as it is whole. Raises Failed, also when it is cut off."""


class TorchServeEndpoint:
    """A model of a TorchServe, by its predictions API."""

    def __init__(self, url: str, model: str, token: str | None = None, timeout_s: float = 60.0) -> None:
        """timeout_s: longest silence."""
        self._url = f"{url.rstrip('/')}/predictions/{model}"
        self._timeout_s = timeout_s
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy from the environment has no business on loopback
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def invoke(self, body: bytes, content_type: str = JSON) -> bytes:
        return b"".join(self._pieces(body, content_type))

    def lines(self, body: bytes, content_type: str = JSON) -> Iterator[bytes]:
        return whole_lines(self._pieces(body, content_type))

    def _pieces(self, body: bytes, content_type: str) -> Iterator[bytes]:
        try:
            with self._session.post(
                self._url, body, headers={"Content-Type": content_type}, timeout=self._timeout_s, stream=True
            ) as reply:
                if reply.status_code != 200:
                    raise Failed(f"{self._url}: {reply.status_code} {reply.content[:300].decode(errors='replace')}")
                yield from reply.iter_content(chunk_size=None)
        except requests.RequestException as error:
            raise Failed(f"{self._url}: {error}") from None


class SageMakerEndpoint:
    """An endpoint of SageMaker's, by boto3. url: of the runtime, the region's own if None."""

    def __init__(self, name: str, region: str | None = None, url: str | None = None, timeout_s: float = 60.0) -> None:
        """Raises KitError without a region or credentials."""
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        self._name = name
        config = Config(
            retries={"total_max_attempts": 1, "mode": "standard"}, connect_timeout=10, read_timeout=timeout_s
        )
        try:
            session = boto3.Session(region_name=region)
            if session.get_credentials() is None:
                raise KitError("no AWS credentials", "aws configure, or AWS_PROFILE")
            self._runtime: Any = session.client("sagemaker-runtime", endpoint_url=url, config=config)
        except BotoCoreError as error:
            raise KitError(str(error), "AWS_REGION, AWS_PROFILE, or --region") from None

    def invoke(self, body: bytes, content_type: str = JSON) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            reply = self._runtime.invoke_endpoint(EndpointName=self._name, ContentType=content_type, Body=body)
            return bytes(reply["Body"].read())
        except (BotoCoreError, ClientError) as error:
            raise Failed(f"{self._name}: {error}") from None

    def lines(self, body: bytes, content_type: str = JSON) -> Iterator[bytes]:
        return whole_lines(self._pieces(body, content_type))

    def _pieces(self, body: bytes, content_type: str) -> Iterator[bytes]:
        from botocore.exceptions import BotoCoreError, ClientError, EventStreamError
        from urllib3.exceptions import HTTPError

        try:
            reply = self._runtime.invoke_endpoint_with_response_stream(
                EndpointName=self._name, ContentType=content_type, Body=body
            )
            # PayloadParts end anywhere, in the middle of a character too.
            for event in reply["Body"]:
                yield event.get("PayloadPart", {}).get("Bytes", b"")
        except (BotoCoreError, ClientError, EventStreamError, HTTPError, OSError) as error:
            raise Failed(f"{self._name}: {error}") from None


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends, out of pieces that end anywhere; the last one may have no end."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
    if rest:
        yield rest
