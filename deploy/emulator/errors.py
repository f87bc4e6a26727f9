"""What a service answers in place of what was asked, by its own names."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An error of a service's API: its code, its HTTP status, and further members of its body."""

    def __init__(self, code: str, message: str, status: int = 400, **members: Any) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.members = members


def invalid(message: str) -> ApiError:
    """The control plane's refusal."""
    return ApiError("ValidationException", message)


def not_emulated(what: str) -> ApiError:
    """SageMaker does this; the emulator says that it does not, instead of seeming to."""
    return invalid(f"the emulator does not do {what} (SageMaker does)")


class StartFailed(Exception):
    """Containers that do not come up: a deployment's FailureReason."""
