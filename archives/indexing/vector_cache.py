"""Vectors of texts, kept in a file as they are computed, so that no text is embedded twice.

Records of 32 bytes, the sha256 of a text, and D float32, little-endian, one after the other: a build that is killed
leaves whole records and perhaps a torn last one. One process writes at a time; whoever uses this sees to it. Knows
nothing of encoders: each has a file of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servekit.vectors import Vectors

HASH_BYTES = 32
NO_HASH = bytes(HASH_BYTES)
"""What a file system leaves where power failed before the data was on the disk."""
COPIED_RECORDS = 1 << 16


def text_hash(text: str) -> bytes:
    """A text's key."""
    return hashlib.sha256(text.encode()).digest()


class VectorCache:
    """The file at path, which is made when there is none. dimension: D."""

    def __init__(self, path: Path, dimension: int) -> None:
        """Cuts off what is no whole record."""
        self.path = path
        self.dimension = dimension
        self._record = np.dtype([("hash", f"V{HASH_BYTES}"), ("vector", "<f4", (dimension,))])
        path.parent.mkdir(parents=True, exist_ok=True)
        for draft in path.parent.glob(f".{path.name}-*"):  # of a process that died in keep
            draft.unlink()
        self._open()

    def __enter__(self) -> VectorCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Texts whose vectors are here."""
        return len(self._places)

    def close(self) -> None:
        """Nothing is lost without it."""
        self._file.close()

    def get(self, hashes: Iterable[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """The vectors that are here of those asked for, by hash."""
        found = [key for key in dict.fromkeys(hashes) if key in self._places]
        if not found:
            return {}
        vectors = self._records()["vector"][[self._places[key] for key in found]]  # [found, D], a copy
        return dict(zip(found, np.asarray(vectors, dtype=np.float32), strict=True))

    def add(self, hashes: Sequence[bytes], vectors: Vectors) -> None:
        """Append vectors, [len(hashes), D]; the operating system has them when this returns. Raises ValueError."""
        if vectors.shape != (len(hashes), self.dimension):
            raise ValueError(f"vectors of shape {vectors.shape} for {len(hashes)} texts, D = {self.dimension}")
        if not hashes:
            return
        records = np.empty(len(hashes), dtype=self._record)
        records["hash"] = np.frombuffer(b"".join(hashes), dtype=f"V{HASH_BYTES}")
        records["vector"] = vectors
        self._file.write(records.tobytes())
        self._file.flush()
        for key in hashes:
            self._places[key] = self._count
            self._count += 1

    def keep(self, hashes: Collection[bytes]) -> None:
        """Forget all others: a new file takes the old one's place in one step."""
        places = sorted({self._places[key] for key in hashes if key in self._places})
        draft = self.path.with_name(f".{self.path.name}-{os.getpid()}")
        with draft.open("wb") as file:
            for start in range(0, len(places), COPIED_RECORDS):
                file.write(self._records()[places[start : start + COPIED_RECORDS]].tobytes())  # mapped, not read
        self.close()
        draft.replace(self.path)
        self._open()

    def _open(self) -> None:
        self._file = self.path.open("ab")
        self._count = self.path.stat().st_size // self._record.itemsize
        self._cut()
        keys = self._records()["hash"].tobytes() if self._count else b""
        self._places: dict[bytes, int] = {}
        for place in range(self._count):
            key = keys[place * HASH_BYTES : (place + 1) * HASH_BYTES]
            if key == NO_HASH:
                self._count = place
                self._cut()
                break
            self._places[key] = place

    def _cut(self) -> None:
        os.truncate(self.path, self._count * self._record.itemsize)

    def _records(self) -> NDArray[Any]:
        return np.memmap(self.path, dtype=self._record, mode="r", shape=(self._count,))
