"""A small HTTP client for one TorchServe: a base URL, a bearer token, bytes in and out. Knows no dialect."""

from __future__ import annotations

from dataclasses import dataclass

import requests


class Unreachable(Exception):
    """There was no HTTP answer at all."""


@dataclass(frozen=True)
class Response:
    """status: the HTTP code."""

    status: int
    body: bytes
    headers: dict[str, str]


class Client:
    """Keeps its connection. token: sent as a bearer token when given."""

    def __init__(self, base_url: str, token: str | None = None, timeout_s: float = 60.0) -> None:
        self.base_url = base_url
        self._timeout_s = timeout_s
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy from the environment has no business on loopback
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str) -> Response:
        """GET base_url + path. Raises Unreachable."""
        return self._send("GET", path, None, {})

    def post(self, path: str, body: bytes, content_type: str = "application/json") -> Response:
        """POST body to base_url + path. Raises Unreachable."""
        return self._send("POST", path, body, {"Content-Type": content_type})

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
        try:
            reply = self._session.request(
                method, self.base_url + path, data=body, headers=headers, timeout=self._timeout_s
            )
        except requests.RequestException as error:
            raise Unreachable(f"{method} {self.base_url}{path}: {error}") from None
        return Response(reply.status_code, reply.content, dict(reply.headers))
