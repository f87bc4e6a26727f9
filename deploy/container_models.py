"""The models of a container: found in a folder that may be read-only, and put where TorchServe looks for them.

TorchServe's model store is a folder of our own, in which each model is a folder of links into the archive; of what
the environment changes there is a file of our own instead of a link. Knows nothing of TorchServe's process.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deploy.local import ServedModel, served_model
from model_configs.archive_files import CONFIG_FILE, MANIFEST_FILE, read_config, read_entry, read_golden
from model_configs.errors import KitError

BUILD_HINT = "kit.py archive MODEL --format no-archive, and give this container that folder"


def find_archives(folder: Path) -> list[Path]:
    """The archives of a folder: itself, or its .mar files and its folders that are archives. Raises KitError."""
    try:
        if _is_archive(folder):
            return [folder]
        found = sorted(path for path in folder.iterdir() if path.suffix == ".mar" or _is_archive(path))
    except FileNotFoundError:
        raise KitError(f"there is no model folder {folder}", BUILD_HINT) from None
    except PermissionError as error:
        raise unreadable(error.filename) from None
    if not found:
        raise KitError(f"there is no archive in {folder}", BUILD_HINT)
    return found


def unreadable(path: object) -> KitError:
    """That this user may not read a file; SageMaker's containers are expected to run as root."""
    return KitError(
        f"user {os.getuid()} cannot read {path}",
        "let it be read, or run as another user; SageMaker expects root: build with --build-arg RUN_AS=0",
    )


def stage(archives: Sequence[Path], store: Path, changes: Mapping[str, Any]) -> list[ServedModel]:
    """Put each archive into store, which must not exist, with these keys of `torchserve` changed. Raises KitError."""
    store.mkdir(parents=True)
    models: list[ServedModel] = []
    for archive in archives:
        try:
            config = read_config(archive, changes)
            golden = read_golden(archive)
            model = served_model(config, config.model.name, golden)
            if model.name in [other.name for other in models]:
                raise KitError(f"{archive}: a second model of the name {model.name}", "one archive a name")
            _place(archive, store / model.name)
        except PermissionError as error:
            raise unreadable(error.filename) from None
        if changes:
            keys = yaml.safe_load(read_entry(archive, CONFIG_FILE))
            own = store / model.name / CONFIG_FILE
            own.unlink()
            own.write_text(yaml.safe_dump({**keys, **changes}, sort_keys=False))
        models.append(model)
    return models


def _is_archive(path: Path) -> bool:
    return (path / MANIFEST_FILE).is_file()


def _place(archive: Path, target: Path) -> None:
    """What TorchServe does with a .mar at every start, or links to everything at the top of a folder."""
    target.mkdir()
    if archive.is_file():
        with zipfile.ZipFile(archive) as mar:
            mar.extractall(target)
        return
    for path in archive.iterdir():
        (target / path.name).symlink_to(path.resolve())
