"""Where model data may come from, what its files may be called, and whether it stayed as it was."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.emulator import model_data
from deploy.emulator.errors import StartFailed
from deploy.emulator.model_data import Source, paths, source


def container(uri: str, kind: str = "S3Prefix", compression: str = "None") -> dict[str, Any]:
    data = {"S3Uri": uri, "S3DataType": kind, "CompressionType": compression}
    return {"ModelDataSource": {"S3DataSource": data}}


def test_sources() -> None:
    assert source({}) is None
    assert source(container("s3://b/m/")) == Source("b", "m/", "prefix")
    assert source(container("s3://b/m.bin", "S3Object")) == Source("b", "m.bin", "object")
    assert source(container("s3://b/m.tar.gz", "S3Object", "Gzip")) == Source("b", "m.tar.gz", "gzip")
    assert source({"ModelDataUrl": "s3://b/m.tar.gz"}) == Source("b", "m.tar.gz", "gzip")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (container("s3://b/m"), "forward slash"),
        (container("s3://b/m/", compression="Gzip"), "CompressionType has to be None"),
        (container("https://b/m/"), "not s3://"),
        (container("s3:///m/"), "not s3://"),
    ],
)
def test_sources_that_cannot_be(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        source(given)


PREFIX = Source("b", "m/", "prefix")


def test_keys_become_paths_below_the_prefix() -> None:
    assert paths(PREFIX, {"m/a": 1, "m/b/c": 1}) == {"m/a": "a", "m/b/c": "b/c"}
    assert paths(Source("b", "x/y.bin", "object"), {"x/y.bin": 1}) == {"x/y.bin": "y.bin"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["m/"], "''"),
        (["m/a/"], "''"),
        (["m/a//b"], "''"),
        (["m/../b"], "'..'"),
        (["m/./b"], "'.'"),
        (["m/" + "x" * 256], "not a name"),
        (["m/weights", "m/weights/part1"], "weights is a file and a directory"),
        (["m/a/b", "m/a/b/c/d"], "a/b is a file and a directory"),
    ],
)
def test_names_that_sagemaker_does_not_take(keys: list[str], words: str) -> None:
    with pytest.raises(StartFailed, match=words):
        paths(PREFIX, dict.fromkeys(keys, 1))


class Bucket:
    """As much of an S3 client as a download uses."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def get_paginator(self, name: str) -> Bucket:
        assert name == "list_objects_v2"
        return self

    def paginate(self, Bucket: str, Prefix: str) -> Iterator[dict[str, Any]]:
        yield {
            "Contents": [
                {"Key": key, "Size": len(data)} for key, data in self.objects.items() if key.startswith(Prefix)
            ]
        }

    def download_file(self, bucket: str, key: str, target: str) -> None:
        Path(target).write_bytes(self.objects[key])


def test_a_download_is_read_only_and_changes_are_seen(tmp_path: Path) -> None:
    model_data.download(Bucket({"m/a": b"1", "m/b/c": b"2"}), PREFIX, tmp_path, 1, 60)
    assert (tmp_path / "b/c").read_bytes() == b"2"
    assert [path.stat().st_mode & 0o222 for path in (tmp_path, tmp_path / "a", tmp_path / "b")] == [0, 0, 0]
    before = model_data.state(tmp_path)
    model_data.make_removable(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "handler.pyc").write_bytes(b"")
    assert model_data.changes(before, tmp_path) == []
    (tmp_path / "new").write_text("")
    (tmp_path / "a").chmod(0o600)
    (tmp_path / "a").write_text("changed")
    (tmp_path / "b" / "c").unlink()
    assert model_data.changes(before, tmp_path) == ["a", "b/c", "new"]


@pytest.mark.parametrize(
    ("objects", "volume_gib", "timeout_s", "words"),
    [
        ({}, 1, 60, "nothing is there"),
        ({"m/a": b"xx"}, 1 / model_data.GIB, 60, "does not fit"),
        ({"m/a": b"1"}, 1, -1, "timed out"),
    ],
)
def test_downloads_that_fail(
    tmp_path: Path, objects: dict[str, bytes], volume_gib: float, timeout_s: float, words: str
) -> None:
    with pytest.raises(StartFailed, match=words):
        model_data.download(Bucket(objects), PREFIX, tmp_path, volume_gib, timeout_s)


def test_a_tar_is_unpacked_or_refused(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("folder/file")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    gzip = Source("b", "m.tar.gz", "gzip")
    model_data.download(Bucket({"m.tar.gz": packed.getvalue()}), gzip, tmp_path / "good", 1, 60)
    assert [path.name for path in (tmp_path / "good").rglob("*")] == ["folder", "file"]
    with pytest.raises(StartFailed, match="extract"):
        model_data.download(Bucket({"m.tar.gz": b"no tar"}), gzip, tmp_path / "bad", 1, 60)
