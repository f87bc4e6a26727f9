"""The files of a built archive folder, with sizes and sums: what goes to S3 and what an endpoint's name depends on.

Trusts the sums that the builder wrote down; the upload checks them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from model_configs.archive_files import SUMS_FILE
from model_configs.errors import KitError

MOST_KEY_BYTES = 1024


@dataclass(frozen=True)
class ArchiveFile:
    """path: inside the archive, with /."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything in a no-archive folder, sorted."""

    folder: Path
    files: tuple[ArchiveFile, ...]

    @property
    def digest(self) -> str:
        """Of all names and sums: the same content has the same, wherever it lies."""
        lines = "".join(f"{file.sha256}  {file.path}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)


def read(folder: Path) -> Manifest:
    """The manifest of a no-archive folder. Raises KitError when it is none, or when files are missing or too many."""
    sums_file = folder / SUMS_FILE
    if not sums_file.is_file():
        raise KitError(f"{folder} is no archive folder: {SUMS_FILE} is missing", "kit.py archive --format no-archive")
    sums = dict(json.loads(sums_file.read_text())["sha256"])
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    sums[SUMS_FILE] = hashlib.sha256(sums_file.read_bytes()).hexdigest()
    odd = sorted(there ^ set(sums))
    if odd:
        what = "is missing" if odd[0] in sums else "was not built"
        raise KitError(f"{folder}: {odd[0]} {what}", "kit.py archive --format no-archive --force")
    files = [ArchiveFile(name, (folder / name).stat().st_size, sums[name]) for name in sorted(sums)]
    return Manifest(folder, tuple(files))


def problems(manifest: Manifest, prefix: str) -> list[str]:
    """Why these files cannot be an endpoint's model data under this prefix; none when they can."""
    names = {file.path for file in manifest.files}
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    long = [name for name in sorted(names) if len(f"{prefix}{name}".encode()) > MOST_KEY_BYTES]
    return [
        *(f"{name}: is a file and a folder; SageMaker cannot lay it out" for name in sorted(names & folders)),
        *(f"{name}: its key in S3 would be longer than {MOST_KEY_BYTES} bytes" for name in long),
        *(["the archive is empty"] if not names else []),
    ]
