"""A model's data from S3 into the folder that stands for /opt/ml/model, by SageMaker's rules, and whether it stayed so.

The rules are those of botocore's documentation of S3DataSource.CompressionType. Knows nothing of containers.
"""

from __future__ import annotations

import os
import stat
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from deploy.emulator.errors import StartFailed

NAME_BYTES = 255
READ_ONLY = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
ENTER = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
GIB = 1 << 30
BYTECODE = "__pycache__"


@dataclass(frozen=True)
class Source:
    """Where a container's model data is. kind: prefix, object or gzip."""

    bucket: str
    key: str
    kind: str

    @property
    def uri(self) -> str:
        """s3://…"""
        return f"s3://{self.bucket}/{self.key}"


def source(container: dict[str, Any]) -> Source | None:
    """The source of a ContainerDefinition, None if it has no model data. Raises ValueError for one that cannot be."""
    if url := container.get("ModelDataUrl"):
        return Source(*split(url), "gzip")
    data = container.get("ModelDataSource", {}).get("S3DataSource")
    if data is None:
        return None
    bucket, key = split(data["S3Uri"])
    if data["S3DataType"] == "S3Prefix":
        if data["CompressionType"] != "None":
            raise ValueError("S3Prefix: CompressionType has to be None")
        if not key.endswith("/"):
            raise ValueError(f"{data['S3Uri']}: an S3Prefix always ends with a forward slash")
        return Source(bucket, key, "prefix")
    return Source(bucket, key, "gzip" if data["CompressionType"] == "Gzip" else "object")


def split(uri: str) -> tuple[str, str]:
    """A bucket and a key or prefix out of s3://bucket/key."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ValueError(f"{uri}: not s3://bucket/key")
    return bucket, key


def keys(s3: Any, wanted: Source) -> dict[str, int]:
    """The objects of a source with their sizes in bytes; none when there is nothing. Raises botocore's ClientError."""
    found = {
        each["Key"]: int(each["Size"])
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=wanted.bucket, Prefix=wanted.key)
        for each in page.get("Contents", [])
    }
    return found if wanted.kind == "prefix" else {key: size for key, size in found.items() if key == wanted.key}


def paths(wanted: Source, found: dict[str, int]) -> dict[str, str]:
    """For every key its path below /opt/ml/model. Raises StartFailed for names that SageMaker does not take."""
    if wanted.kind != "prefix":
        return {key: key.rsplit("/", 1)[-1] for key in found}
    by_key = {key: key[len(wanted.key) :] for key in found}
    for path in by_key.values():
        for part in path.split("/"):
            if part in ("", ".", "..") or "\0" in part or len(part.encode()) > NAME_BYTES:
                raise StartFailed(f"{wanted.uri}{path}: {part!r} is not a name that model artifacts may have")
    folders = {folder for path in by_key.values() for folder in _folders(path)}
    if clashes := sorted(folders & set(by_key.values())):
        raise StartFailed(f"{wanted.uri}: {clashes[0]} is a file and a directory at once")
    return by_key


def download(s3: Any, wanted: Source, folder: Path, volume_gib: float, timeout_s: float) -> None:
    """Bring it all. Raises StartFailed when it is not there, too large for the volume, or too slow."""
    try:
        _download(s3, wanted, folder, volume_gib, timeout_s)
    except ClientError as error:
        raise StartFailed(f"Failed to download model data from {wanted.uri}: {error}") from None
    for each in [folder, *folder.rglob("*")]:
        each.chmod(READ_ONLY | ENTER if each.is_dir() else READ_ONLY)


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file's size and time of change: root may write what is read-only, so what is there is compared.

    Python's bytecode is left out: Python itself does without where it cannot write it.
    """
    found = (path for path in folder.rglob("*") if BYTECODE not in path.parts)
    return {str(path.relative_to(folder)): _stamp(path) for path in found}


def changes(before: dict[str, tuple[int, int]], folder: Path) -> list[str]:
    """Files that came, went or changed."""
    after = state(folder)
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def make_removable(folder: Path) -> None:
    """Gives directories their write permission back."""
    for path, _, _ in os.walk(folder):
        Path(path).chmod(stat.S_IRWXU)


def _download(s3: Any, wanted: Source, folder: Path, volume_gib: float, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    found = keys(s3, wanted)
    if not found:
        raise StartFailed(f"Failed to download model data from {wanted.uri}: nothing is there.")
    if sum(found.values()) > volume_gib * GIB:
        raise StartFailed(f"Model data of {sum(found.values())} bytes does not fit a volume of {volume_gib:g} GB.")
    for key, path in paths(wanted, found).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(wanted.bucket, key, str(target))
        if time.monotonic() > deadline:
            raise StartFailed(f"Model data download timed out after {timeout_s:g} s.")
        if wanted.kind == "gzip":
            _unpack(target, folder)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return (0, 0) if path.is_dir() else (found.st_size, found.st_mtime_ns)


def _folders(path: str) -> Iterator[str]:
    parts = path.split("/")[:-1]
    for end in range(1, len(parts) + 1):
        yield "/".join(parts[:end])


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive, "r:gz") as opened:
            opened.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise StartFailed(f"Failed to extract model data: {error}") from None
    archive.unlink()
