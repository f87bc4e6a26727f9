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
from model_configs.schema import AnyModelConfig

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
        f"user {os.geteuid()} cannot read {path}",
        "let it be read, or run as another user; SageMaker expects root: build with --build-arg RUN_AS=0",
    )


def stage(archives: Sequence[Path], store: Path, changes: Mapping[str, Any]) -> list[AnyModelConfig]:
    """Put each archive into store, which must not exist, with these keys of `torchserve` changed. Raises KitError."""
    store.mkdir(parents=True)
    configs: dict[str, AnyModelConfig] = {}
    for archive in archives:
        try:
            config = read_config(archive, changes)
            name = config.model.name
            if name in configs:
                raise KitError(f"{archive}: a second model of the name {name}", "one archive a name")
            _place(archive, store / name)
            if changes:
                keys = yaml.safe_load(read_entry(archive, CONFIG_FILE))
                own = store / name / CONFIG_FILE
                own.unlink()
                own.write_text(yaml.safe_dump({**keys, **changes}, sort_keys=False))
        except PermissionError as error:
            raise unreadable(error.filename) from None
        configs[name] = config
    return list(configs.values())


def served(configs: Sequence[AnyModelConfig], store: Path) -> list[ServedModel]:
    """What a server has to know of models that were staged. Raises KitError for one without a golden request."""
    return [served_model(config, config.model.name, read_golden(store / config.model.name)) for config in configs]


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
