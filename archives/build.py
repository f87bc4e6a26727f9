"""A model's archive: staged from the handler, servekit, its configuration and assets, and packaged reproducibly.

The formats are torch-model-archiver's own (.mar, no-archive folder, tar.gz); packaging is ours, since the
archiver writes the time into every archive, deletes $TMPDIR/<model name>, flattens packages given as extra files
and lets the last of two equal names win. Knows nothing of how an archive is served.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from archives import STORE, assets, indexing
from model_configs import HANDLERS_DIR
from model_configs.archive_files import (
    ARTEFACTS_FOLDER,
    CONFIG_FILE,
    INDEX_FOLDER,
    MANIFEST_FILE,
    MODEL_FOLDER,
    SUFFIXES,
    SUMS_FILE,
    read_entry,
)
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig
from servekit import fingerprint
from servekit.golden import GOLDEN_FILE

EPOCH = (1980, 1, 1, 0, 0, 0)
GIGABYTE = 1 << 30
LINKED_BYTES = 1 << 20
RETRIEVAL = "retrieval_handler.py"

# TorchServe's own folder stands before the archive on a worker's sys.path (EnvironmentUtils.java), so these names
# would be its modules, not ours.
TORCHSERVE_NAMES = frozenset(
    {
        "arg_parser", "async_service", "configs", "context", "handler_utils", "launcher", "llm_launcher", "metrics",
        "model_loader", "model_server", "model_service", "model_service_worker", "protocol", "service", "tests",
        "torch_handler", "utils", "version",
    }
)  # fmt: skip

Entries = dict[str, Path | bytes]


@dataclass(frozen=True)
class Archive:
    """A packaged model. path: the file or folder in the store; sha256: of the file, or of the folder's sums."""

    name: str
    version: str
    path: Path
    sha256: str
    size_bytes: int
    built: bool
    """False when it stood in the store already, unchanged."""


def build(
    config: AnyModelConfig, store: Path = STORE, archive_format: str | None = None, *, force: bool = False
) -> Archive:
    """Stage and package a model into store, unless what is there came from the same inputs. Raises KitError, Failed."""
    weights = assets.find_weights(config)
    prepared = assets.prepare(config, weights, store / ".prepared")
    entries = stage(config, weights, prepared)
    archive_format = archive_format or config.model.format
    target = store / f"{config.model.name}{SUFFIXES[archive_format]}"
    record = store / f".{target.name}.json"
    sums = {name: _sha256(content) for name, content in sorted(entries.items())}
    inputs = hashlib.sha256(json.dumps(sums).encode()).hexdigest()

    known = json.loads(record.read_text()) if record.exists() else {}
    if force or known.get("inputs") != inputs or not target.exists():
        sha256 = package(entries, sums, target, archive_format)
        known = {"inputs": inputs, "sha256": sha256}
        record.write_text(json.dumps(known) + "\n")
        built = True
    else:
        built = False
    size = sum(_size(content) for content in entries.values())
    return Archive(config.model.name, config.model.version, target, known["sha256"], size, built)


def stage(config: AnyModelConfig, weights: Path, prepared: Path) -> Entries:
    """Every file of the archive by its name there. Raises KitError for a name that stands twice or is forbidden."""
    handler = HANDLERS_DIR / config.model.handler
    package = HANDLERS_DIR / "servekit"
    sources = sorted([*package.rglob("*.py"), *package.rglob("*.cpp")])
    made = sorted(path for path in prepared.rglob("*") if path.is_file())
    index = indexing.required(config) if config.model.handler == RETRIEVAL else None
    if index:  # what proves the model is a query that needs its index
        made = [path for path in made if path.name != GOLDEN_FILE]
    folder = getattr(config.handler, "model_checkpoint_dir", MODEL_FOLDER)
    pairs: list[tuple[str, Path | bytes]] = [
        (config.model.handler, handler),
        (CONFIG_FILE, config.model_config_yaml().encode()),
        (MANIFEST_FILE, manifest(config).encode()),
        *((f"servekit/{p.relative_to(package).as_posix()}", p) for p in sources),
        *((f"{folder}/{p.as_posix()}", weights / p) for p in assets.model_files(weights, config)),
        *((f"{ARTEFACTS_FOLDER}/{p.relative_to(prepared).as_posix()}", p) for p in made),
        *((f"{ARTEFACTS_FOLDER if p.name == GOLDEN_FILE else INDEX_FOLDER}/{p.name}", p) for p in _files(index)),
    ]
    return checked_entries(pairs)


def _files(folder: Path | None) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder else []


def checked_entries(pairs: Iterable[tuple[str, Path | bytes]]) -> Entries:
    """The pairs as a dict. Raises KitError for duplicates and for names that hide a module or are hidden by one."""
    entries: Entries = {}
    for name, content in pairs:
        if name in entries:
            raise KitError(f"{name} would stand twice in the archive", "rename one of the files")
        entries[name] = content
    for top in sorted({PurePosixPath(name).parts[0] for name in entries}):
        module = top.removesuffix(".py")
        is_module = top.endswith(".py") or any(n.startswith(f"{top}/") and n.endswith(".py") for n in entries)
        if is_module and (reason := _forbidden(module)):
            raise KitError(f"{top} may not stand at the top of an archive: {reason}", "rename it")
    return entries


def _forbidden(module: str) -> str:
    if module in TORCHSERVE_NAMES:
        return "TorchServe has a module of that name, and its own comes first"
    if module in sys.stdlib_module_names:
        return "Python has a module of that name"
    spec = importlib.util.find_spec(module)
    origin = spec.origin if spec else None
    if origin and "site-packages" in origin:
        return f"it would hide the installed package {module}"
    return ""


def manifest(config: AnyModelConfig) -> str:
    """MANIFEST.json as torch-model-archiver writes it, but for the time of day."""
    from model_archiver.manifest_components.manifest import Manifest
    from model_archiver.manifest_components.model import Model

    model = Model(
        config.model.name,
        serialized_file=None,
        handler=config.model.handler,
        model_version=config.model.version,
        config_file=CONFIG_FILE,
    )
    content = json.loads(str(Manifest("python", model)))
    content["createdOn"] = "01/01/1980 00:00:00"
    return json.dumps(content, indent=2)


def package(entries: Entries, sums: Mapping[str, str], target: Path, archive_format: str) -> str:
    """Write the archive next to target and put it in place in one step. Returns its sha256."""
    entries = {**entries, SUMS_FILE: (json.dumps({"sha256": dict(sums)}, indent=2, sort_keys=True) + "\n").encode()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".packaging-") as folder:
        draft = Path(folder) / target.name
        if archive_format == "no-archive":
            write_folder(entries, draft)
            sha256 = hashlib.sha256(entries_bytes(entries[SUMS_FILE])).hexdigest()
            if target.exists():
                target.rename(Path(folder) / "old")
        else:
            (write_mar if archive_format == "mar" else write_tgz)(entries, draft)
            sha256 = fingerprint.file_sha256(draft)
        draft.rename(target)
    return sha256


def write_mar(entries: Entries, target: Path) -> None:
    """A .mar is a zip. Nothing is deflated: weights hardly shrink, and TorchServe unpacks them at every start."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, EPOCH)
            info.external_attr = 0o644 << 16
            info.file_size = _size(entries[name])  # tells zipfile beforehand when a file needs zip64
            with archive.open(info, "w") as target_file, _open(entries[name]) as source:
                shutil.copyfileobj(source, target_file, fingerprint.CHUNK_BYTES)


def write_folder(entries: Entries, target: Path) -> None:
    """The no-archive form, also what SageMaker takes as uncompressed model data. Large files are hard links."""
    for name in sorted(entries):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = entries[name]
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            _place(content.resolve(), path)


def write_tgz(entries: Entries, target: Path) -> None:
    """SageMaker's model.tar.gz, one folder at its root as torch-model-archiver makes it; large weights undeflated."""
    root = target.name.removesuffix(".tar.gz")
    large = any(_size(content) > GIGABYTE for content in entries.values())
    with (
        target.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=0 if large else 1, fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(entries):
            info = tarfile.TarInfo(f"{root}/{name}")
            info.size, info.mode = _size(entries[name]), 0o644
            with _open(entries[name]) as source:
                archive.addfile(info, source)


def read_sums(archive: Path) -> dict[str, str]:
    """The sha256 of every file of an archive in any format, or unpacked, as recorded when it was built."""
    return dict(json.loads(read_entry(archive, SUMS_FILE))["sha256"])


def has_entry(archive: Path, name: str) -> bool:
    """Whether an archive in any format has this file."""
    return name in read_sums(archive)


def unpack(archive: Path, folder: Path) -> Path:
    """The archive's root as a worker sees it: the folder itself, or the file unpacked into folder."""
    if archive.is_dir():
        return archive
    if archive.suffix == ".mar":
        with zipfile.ZipFile(archive) as mar:
            mar.extractall(folder)
        return folder
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def entries_bytes(content: Path | bytes) -> bytes:
    """An entry's content."""
    return content if isinstance(content, bytes) else content.read_bytes()


def _open(content: Path | bytes) -> io.BufferedIOBase:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _sha256(content: Path | bytes) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else fingerprint.file_sha256(content)


def _place(source: Path, target: Path) -> None:
    """Link what is large, copy what somebody may edit in place."""
    if source.stat().st_size >= LINKED_BYTES:
        try:
            os.link(source, target)
        except OSError:  # another file system
            pass
        else:
            return
    shutil.copyfile(source, target)
