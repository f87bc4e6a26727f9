"""The one error a request can end in, and the body it is told in; the one that a worker refuses to start with.

Knows nothing of batches or of TorchServe.
"""

from __future__ import annotations

from http import HTTPStatus

import orjson


class UnusableArtefact(Exception):
    """A worker may not start: what was compiled for it does not fit, and it may not do without."""


class RequestError(Exception):
    """A client's mistake: one request gets this answer, its neighbours in the batch never see it.

    status is a 4xx code; code is a stable machine-readable word, e.g. "invalid_json".
    """

    def __init__(self, status: int, code: str, message: str, *, kind: str = "invalid_request_error") -> None:
        if not 400 <= status < 500:
            raise ValueError(f"status={status}: a client's mistake is a 4xx")
        super().__init__(message)
        self.status = HTTPStatus(status)
        self.code = code
        self.kind = kind

    def at(self, index: int) -> RequestError:
        """The same error, saying which of several inputs it is about."""
        return RequestError(self.status, self.code, f"input {index}: {self}", kind=self.kind)

    @property
    def body(self) -> bytes:
        """OpenAI's error object as JSON."""
        return orjson.dumps({"error": {"message": str(self), "type": self.kind, "code": self.code}})


def overloaded() -> RequestError:
    """For a request that fits no more into the time there is; answer it with a Retry-After header."""
    return RequestError(429, "overloaded", "too much work queued before this request; try again", kind="overloaded")
