"""The one error that a user of the kit sees: a line that says what is wrong, and a line that says what to do."""


class KitError(Exception):
    """A mistake in usage, configuration or set-up. kit.py prints it without a traceback and exits with 2."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Failed(Exception):
    """The thing that was measured or checked failed. kit.py prints it and exits with 1."""


class Invalid(Exception):
    """The measurement itself is not valid. kit.py prints it and exits with 3."""
