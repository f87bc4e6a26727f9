"""Where things stand in an archive, and how they are read without unpacking the rest: for whoever builds or serves it.

An archive is a .mar, a no-archive folder or a .tar.gz. Knows nothing of how one is made, nor of what answers.
"""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig, checked
from servekit.golden import GOLDEN_FILE, Golden

CONFIG_FILE = "model-config.yaml"
MANIFEST_FILE = "MAR-INF/MANIFEST.json"
SUMS_FILE = "MAR-INF/servekit.json"
MODEL_FOLDER = "model"
ARTEFACTS_FOLDER = "artefacts"
INDEX_FOLDER = "index"
SUFFIXES = {"mar": ".mar", "no-archive": "", "tgz": ".tar.gz"}


def read_entry(archive: Path, name: str) -> bytes:
    """One file of an archive in any format, without unpacking the rest. Raises KeyError when it is not there."""
    if archive.is_dir():
        try:
            return (archive / name).read_bytes()
        except FileNotFoundError:
            raise KeyError(name) from None
    if archive.suffix == ".mar":
        with zipfile.ZipFile(archive) as mar:
            return mar.read(name)
    with tarfile.open(archive) as tar:
        file = tar.extractfile(f"{archive.name.removesuffix('.tar.gz')}/{name}")
        if file is None:
            raise KeyError(name)
        return file.read()


def read_golden(archive: Path) -> Golden:
    """The golden request of an archive. Raises KitError when it has none."""
    try:
        return Golden.parse(read_entry(archive, f"{ARTEFACTS_FOLDER}/{GOLDEN_FILE}"))
    except KeyError:
        raise KitError(f"{archive} has no golden request", "build it with `kit.py archive`") from None


def read_config(archive: Path, changes: Mapping[str, object] | None = None) -> AnyModelConfig:
    """The model of an archive as its YAML described it, what is not served left out. Raises KitError.

    changes: keys of `torchserve` with the values that they get instead.
    """
    try:
        model = json.loads(read_entry(archive, MANIFEST_FILE))["model"]
        keys = yaml.safe_load(read_entry(archive, CONFIG_FILE))
    except KeyError as error:
        raise KitError(f"{archive}: {error} is missing", "build it with `kit.py archive`") from None
    own = {key: keys.pop(key) for key in ("handler", "micro_batching") if key in keys}
    described = {
        "name": model["modelName"],
        "version": model["modelVersion"],
        "handler": model["handler"],
        "assets": {"path": str(archive)},
    }
    return checked({"model": described, "torchserve": {**keys, **(changes or {})}, **own}, archive / CONFIG_FILE)
