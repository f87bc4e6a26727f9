from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from archives import build
from archives.build import checked_entries, entries_bytes, package, unpack
from model_configs import HANDLERS_DIR
from model_configs.archive_files import CONFIG_FILE, MANIFEST_FILE, SUFFIXES, read_entry
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig

FORMATS = list(SUFFIXES)


@pytest.fixture
def entries(tmp_path: Path, minilm: AnyModelConfig) -> build.Entries:
    """A stage with small stand-ins for the weights."""
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "model.safetensors").write_bytes(os.urandom(2 << 20))
    (weights / "pytorch_model.bin").write_bytes(b"pickle")
    (weights / "code.py").write_text("raise SystemExit")
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    (prepared / "golden.json").write_text("{}")
    return build.stage(minilm, weights, prepared)


def pack(entries: build.Entries, folder: Path, archive_format: str) -> tuple[Path, str]:
    target = folder / f"minilm{SUFFIXES[archive_format]}"
    sums = {name: build._sha256(content) for name, content in entries.items()}
    return target, package(entries, sums, target, archive_format)


def test_the_stage_holds_what_a_worker_needs_and_nothing_else(entries: build.Entries) -> None:
    assert {"embedding_handler.py", "model-config.yaml", "servekit/__init__.py", "servekit/encoders/aot.py"} <= set(
        entries
    )
    assert {name for name in entries if name.startswith("model/")} == {"model/config.json", "model/model.safetensors"}
    assert not [name for name in entries if "__pycache__" in name]


@pytest.mark.parametrize("archive_format", FORMATS)
def test_same_inputs_same_sha256(entries: build.Entries, tmp_path: Path, archive_format: str) -> None:
    _, first = pack(entries, tmp_path / "a", archive_format)
    for content in entries.values():
        if isinstance(content, Path) and content.is_relative_to(tmp_path):
            os.utime(content, (time.time() + 60, time.time() + 60))
    _, second = pack(dict(reversed(entries.items())), tmp_path / "b", archive_format)
    assert first == second
    _, third = pack({**entries, "model/config.json": b"{ }"}, tmp_path / "c", archive_format)
    assert third != first


@pytest.mark.parametrize("archive_format", FORMATS)
def test_unpacked_it_is_what_was_staged(entries: build.Entries, tmp_path: Path, archive_format: str) -> None:
    target, _ = pack(entries, tmp_path, archive_format)
    root = unpack(target, tmp_path / "root")
    found = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert found.pop("MAR-INF/servekit.json")
    assert found == {name: entries_bytes(content) for name, content in entries.items()}
    assert read_entry(target, "model/config.json") == b"{}"
    with pytest.raises(KeyError):
        read_entry(target, "nothing")


@pytest.mark.parametrize("archive_format", FORMATS)
def test_an_archive_is_replaced_whole(entries: build.Entries, tmp_path: Path, archive_format: str) -> None:
    pack({**entries, "model/old.json": b"{}"}, tmp_path / "store", archive_format)
    target, _ = pack(entries, tmp_path / "store", archive_format)
    with pytest.raises(KeyError):
        read_entry(target, "model/old.json")
    assert [path.name for path in (tmp_path / "store").iterdir()] == [target.name]


def test_nothing_in_a_mar_is_deflated(entries: build.Entries, tmp_path: Path) -> None:
    target, _ = pack(entries, tmp_path, "mar")
    with zipfile.ZipFile(target) as mar:
        assert {info.compress_type for info in mar.infolist()} == {zipfile.ZIP_STORED}


def test_large_weights_are_not_deflated_in_a_tar(
    entries: build.Entries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries["model/zeros.safetensors"] = b"\0" * (1 << 20)
    small, _ = pack(entries, tmp_path / "small", "tgz")
    monkeypatch.setattr(build, "GIGABYTE", 1 << 19)
    large, _ = pack(entries, tmp_path / "large", "tgz")
    assert large.stat().st_size > small.stat().st_size + (1 << 19)
    with gzip.open(large) as file, tarfile.open(fileobj=file) as tar:
        assert "minilm/model/zeros.safetensors" in tar.getnames()


def test_large_files_of_a_folder_are_links_and_small_ones_copies(entries: build.Entries, tmp_path: Path) -> None:
    target, _ = pack(entries, tmp_path, "no-archive")
    assert (target / "model" / "model.safetensors").stat().st_nlink == 2
    assert (target / "embedding_handler.py").stat().st_nlink == 1


@pytest.mark.parametrize(
    "name", ["utils.py", "metrics/__init__.py", "json.py", "numpy.py", "version.py", "tokenizers.py"]
)
def test_names_that_clash_on_a_workers_path_are_refused(name: str) -> None:
    with pytest.raises(KitError, match="may not stand at the top of an archive"):
        checked_entries([(name, b"")])


def test_a_folder_without_code_may_have_any_name() -> None:
    assert checked_entries([("metrics/data.txt", b"")])


def test_a_name_that_stands_twice_is_refused() -> None:
    with pytest.raises(KitError, match="a.txt would stand twice"):
        checked_entries([("a.txt", b"1"), ("a.txt", b"2")])


def test_every_module_of_torchserves_folder_is_refused() -> None:
    import ts

    folder = Path(str(ts.__path__[0]))
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert modules - {"__init__"} - build.TORCHSERVE_NAMES == set()


def test_the_manifest_is_torch_model_archivers(minilm: AnyModelConfig, tmp_path: Path) -> None:
    """The real archiver, over the same handler and configuration."""
    config_file = tmp_path / CONFIG_FILE
    config_file.write_text(minilm.model_config_yaml())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    subprocess.run(
        [
            Path(sys.executable).with_name("torch-model-archiver"), "--model-name", "minilm", "--version", "1.0",
            "--handler", HANDLERS_DIR / "embedding_handler.py", "--config-file", config_file,
            "--export-path", tmp_path,
        ],
        check=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    theirs = json.loads(read_entry(tmp_path / "minilm.mar", MANIFEST_FILE))
    ours = json.loads(build.manifest(minilm))
    assert theirs.pop("createdOn") != ours.pop("createdOn")
    assert ours == theirs
