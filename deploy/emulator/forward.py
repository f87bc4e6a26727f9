"""One request to a container and its answer, within limits of time. Knows nothing of SageMaker's API."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator, Mapping
from typing import Any

from deploy.emulator.container import CONNECT_TIMEOUT_S, Container

PIECE_BYTES = 1 << 16


class TooSlow(Exception):
    """The container did not answer in time."""


class Broken(Exception):
    """The container's connection was refused or ended early."""


class Answer:
    """A container's answer whose head has come. pieces() gives the body as it comes; close() gives it up."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, sock: Any) -> None:
        self._connection = connection
        self._response = response
        self._socket = sock
        self.status = response.status

    def header(self, name: str) -> str | None:
        """One of its headers."""
        return self._response.getheader(name)

    def pieces(self, deadline: float) -> Iterator[bytes]:
        """Raises TooSlow when the monotonic clock passes deadline, Broken when it ends early."""
        try:
            while True:
                self._socket.settimeout(_left(deadline))
                data = self._response.read1(PIECE_BYTES)
                if not data:
                    break
                yield data
        except TimeoutError:
            raise TooSlow from None
        except (OSError, http.client.HTTPException) as error:
            raise Broken(f"{type(error).__name__} {error}".strip()) from None
        if self._response.length:
            raise Broken(f"{self._response.length} bytes are missing")

    def body(self, deadline: float) -> bytes:
        """All of it."""
        return b"".join(self.pieces(deadline))

    def close(self) -> None:
        """The container sees that nobody reads any more."""
        self._response.close()
        self._socket.close()
        self._connection.close()


def post(container: Container, body: bytes, headers: Mapping[str, str], deadline: float) -> Answer:
    """POST /invocations, and wait for the answer's head. Raises TooSlow, Broken."""
    connection = container.connect(CONNECT_TIMEOUT_S)
    try:
        connection.connect()
    except TimeoutError:
        raise Broken(f"the connection was not accepted within {CONNECT_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise Broken(f"{type(error).__name__} {error}") from None
    try:
        sock = connection.sock
        sock.settimeout(_left(deadline))
        connection.request("POST", "/invocations", body, dict(headers))
        sock.settimeout(_left(deadline))
        return Answer(connection, connection.getresponse(), sock)
    except TimeoutError:
        connection.close()
        raise TooSlow from None
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise Broken(f"{type(error).__name__} {error}".strip()) from None


def _left(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
