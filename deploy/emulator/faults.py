"""What a test or a rehearsal makes fail: POST /_emulator/faults with these keys, SageMaker's errors by their names."""

from __future__ import annotations

from threading import Lock
from typing import Annotated, Any, Literal

from pydantic import Field

from deploy.emulator.errors import ApiError
from servekit.strict import Strict

REFUSALS = {
    "ModelNotReadyException": 429,
    "InternalFailure": 500,
    "ServiceUnavailable": 503,
    "InternalDependencyException": 530,
}
Count = Annotated[int, Field(ge=0)]


class Faults(Strict):
    """Counts say how many of the next ones fail."""

    fail_starts: Count = 0
    """Containers that never pass the health check."""
    refuse: Literal[
        "ModelNotReadyException", "InternalFailure", "ServiceUnavailable", "InternalDependencyException"
    ] = "ServiceUnavailable"
    refusals: Count = 0
    """Requests that are refused with that error."""
    slow_s: Annotated[float, Field(ge=0)] = 0.0
    """Added to the time that every container takes for an answer."""
    break_streams: Count = 0
    """Streams that end with ModelStreamError."""
    cut_streams: Count = 0
    """Streams whose connection is cut."""
    after_bytes: Count = 0
    """How much such a stream gives before."""


class Injector:
    """The faults that are set now; each of a count is given out once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._faults = Faults()

    def set(self, given: dict[str, Any]) -> dict[str, Any]:
        """Changes those that are given. Raises pydantic's ValidationError."""
        with self._lock:
            self._faults = Faults.model_validate({**self._faults.model_dump(), **given})
            return self._faults.model_dump()

    def take(self, count: Literal["fail_starts", "refusals", "break_streams", "cut_streams"]) -> bool:
        """Whether this one fails."""
        with self._lock:
            left = getattr(self._faults, count)
            if left:
                self._faults = self._faults.model_copy(update={count: left - 1})
            return bool(left)

    @property
    def now(self) -> Faults:
        """All of them."""
        return self._faults

    def refuse(self) -> None:
        """Raises ApiError when this request is one to be refused."""
        if self.take("refusals"):
            name = self._faults.refuse
            raise ApiError(name, "a fault that was asked for", REFUSALS[name])
