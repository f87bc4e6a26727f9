"""The reader that the SageMaker streaming article gives its users: what the kit streams has to suit it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from typing import Any


class TokenIterator:
    """The SageMaker article's client as it is meant: its `ord("n")` is a line end."""

    def __init__(self, stream: Iterable[dict[str, Any]]) -> None:
        self.byte_iterator = iter(stream)
        self.buffer = io.BytesIO()
        self.read_pos = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            self.buffer.seek(self.read_pos)
            line = self.buffer.readline()
            if line and line[-1] == ord("\n"):
                self.read_pos += len(line) + 1
                full_line = line[:-1].decode("utf-8")
                line_data = json.loads(full_line.lstrip("data:").rstrip("/n"))  # noqa: B005
                return line_data["token"]["text"]
            chunk = next(self.byte_iterator)
            self.buffer.seek(0, io.SEEK_END)
            self.buffer.write(chunk["PayloadPart"]["Bytes"])
