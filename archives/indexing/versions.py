"""Versions of one thing in a folder: built aside, put in place whole, the newest behind a link.

    <16 hex digits>/    a version, never changed
    current             a link to the newest
    .building-<pid>/    one that is being built
    .lock               held by who builds

Whoever reads through `current` sees one whole version at any time. Knows nothing of what is in them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from archives.indexing import CURRENT
from model_configs.errors import KitError

KEY_LENGTH = 16
KEPT = 2
"""The current version, and the one before for who wants to go back."""
VERSIONS = "[0-9a-f]" * KEY_LENGTH


def current(folder: Path) -> Path | None:
    """The newest version's own folder; None when there is none."""
    link = folder / CURRENT
    return link.resolve() if link.exists() else None


@contextmanager
def building(folder: Path, name: str) -> Iterator[Path]:
    """An empty folder to build a version in, gone afterwards unless it was published.

    What builds that died have left is removed. name: of the model. Raises KitError while another process builds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KitError(
                f"{name}: its index is being built by another process", "wait until that one is done"
            ) from None
        for stale in folder.glob(".building-*"):
            shutil.rmtree(stale)
        for stale in folder.glob(f".{CURRENT}-*"):
            stale.unlink()
        draft = folder / f".building-{os.getpid()}"
        draft.mkdir()
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def publish(draft: Path, folder: Path, key: str) -> Path:
    """Put the draft in place as version `key`, make it the current one, remove old ones. Returns its folder.

    A version of the same key stays as it is: graphs that several threads build are never the same twice, and an archive
    should not change when nothing has. Only one that somebody damaged is replaced.
    """
    version = folder / key
    if not (version.is_dir() and _sizes(version) == _sizes(draft)):
        if version.exists():
            version.rename(draft.with_name(f"{draft.name}-damaged"))
        draft.rename(version)
    os.utime(version)
    link = folder / f".{CURRENT}-{os.getpid()}"
    link.symlink_to(key)
    link.replace(folder / CURRENT)
    for stale in folder.glob(".building-*-damaged"):
        shutil.rmtree(stale)
    keep(version, KEPT - 1, VERSIONS)
    return version


def keep(folder: Path, others: int, pattern: str) -> None:
    """Remove all folders of that pattern beside this one but the newest others, by the time they were last touched."""
    beside = [path for path in folder.parent.glob(pattern) if path != folder]
    for stale in sorted(beside, key=lambda path: path.stat().st_mtime_ns)[: max(0, len(beside) - others)]:
        shutil.rmtree(stale)


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}
