"""Names: two things never share one, none is longer than AWS takes, and what is an endpoint's is known by it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.hosting import archive, names
from deploy.hosting.archive import ArchiveFile, Manifest
from deploy.service_model import problems
from model_configs.archive_files import SUMS_FILE
from model_configs.errors import KitError
from tests.fakes.archive import fake_archive

MODELS = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,90}", fullmatch=True)
REGIONS = st.sampled_from(["eu-west-1", "us-gov-west-1", "ap-northeast-1"])
SUM = "0" * 64


@given(MODELS)
def test_an_endpoints_name_is_one_of_sagemakers(model: str) -> None:
    name = names.endpoint_name(model)
    assert problems("sagemaker", "CreateEndpoint", {"EndpointName": name, "EndpointConfigName": name}) == []


@given(MODELS, MODELS)
def test_two_models_never_share_an_endpoint(one: str, other: str) -> None:
    assert (one == other) == (names.endpoint_name(one) == names.endpoint_name(other))


@pytest.mark.parametrize(("one", "other"), [("a.b", "a-b"), ("a_b", "a-b"), ("a--b", "a-b"), ("a-", "a")])
def test_names_that_only_look_alike(one: str, other: str) -> None:
    assert names.endpoint_name(one) != names.endpoint_name(other)


def test_a_plain_name_stays_as_it_is() -> None:
    assert names.endpoint_name("llama-2-13b-inf2") == "servekit-llama-2-13b-inf2"
    assert names.endpoint_name("minilm", "search-staging") == "search-staging"


@given(MODELS, REGIONS, st.dictionaries(st.text(max_size=5), st.integers(), max_size=3))
def test_what_is_made_for_an_endpoint_has_names_that_aws_takes(
    model: str, region: str, content: dict[str, int]
) -> None:
    endpoint = names.endpoint_name(model)
    name = names.versioned(endpoint, content)
    assert problems("sagemaker", "CreateModel", {"ModelName": name}) == []
    assert problems("iam", "GetRole", {"RoleName": names.role(endpoint, region)}) == []
    assert names.is_versioned(name, endpoint)


@given(st.dictionaries(st.text(max_size=5), st.integers(), max_size=4), st.randoms())
def test_a_version_is_its_content_whatever_its_order(content: dict[str, int], random: object) -> None:
    keys = list(content)
    random.shuffle(keys)  # type: ignore[attr-defined]
    again = {key: content[key] for key in keys}
    assert names.versioned("e", content) == names.versioned("e", again)
    assert names.versioned("e", content) != names.versioned("e", content | {"another": 1})


def test_another_endpoints_version_is_not_this_ones() -> None:
    other = names.versioned("servekit-llama-13b", {})
    assert not names.is_versioned(other, "servekit-llama")
    assert not names.is_versioned("servekit-llama-0123456789-x", "servekit-llama")
    assert not names.is_versioned("servekit-llama", "servekit-llama")


@given(st.text(min_size=1, max_size=200), st.integers(min_value=20, max_value=80))
def test_a_shortened_name_is_short_and_its_own(name: str, most: int) -> None:
    short = names.shortened(name, most)
    assert len(short) <= most
    assert (short == name) == (len(name) <= most)
    assert names.shortened(f"{name}x", most) != short


def test_tags_there_and_back() -> None:
    tags = {"b": "1", "a": ""}
    assert names.as_list(tags) == [{"Key": "a", "Value": ""}, {"Key": "b", "Value": "1"}]
    assert names.as_dict(names.as_list(tags)) == tags


def built(folder: Path) -> Path:
    """A folder with the sums that its builder writes down."""
    fake_archive(folder, "tiny")
    sums = {path.relative_to(folder).as_posix(): SUM for path in folder.rglob("*") if path.is_file()}
    (folder / SUMS_FILE).write_text(json.dumps({"sha256": sums}))
    return folder


def test_an_archives_manifest(tmp_path: Path) -> None:
    found = archive.read(built(tmp_path / "tiny"))
    names_found = [file.path for file in found.files]
    assert names_found == sorted(names_found)
    assert {"MAR-INF/MANIFEST.json", SUMS_FILE, "embedding_handler.py", "model/weights"} < set(names_found)
    weights = next(file for file in found.files if file.path == "model/weights")
    assert (weights.size_bytes, weights.sha256) == (7, SUM)
    assert found.size_bytes == sum(file.size_bytes for file in found.files)
    assert re.fullmatch("[0-9a-f]{64}", found.digest)


def test_the_same_content_has_the_same_digest_wherever_it_lies(tmp_path: Path) -> None:
    one, other = archive.read(built(tmp_path / "a")), archive.read(built(tmp_path / "b"))
    assert one.digest == other.digest
    changed = Manifest(one.folder, (*one.files[1:], ArchiveFile("x", 0, SUM)))
    assert changed.digest != one.digest


def test_a_folder_that_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="is no archive folder"):
        archive.read(tmp_path)


@pytest.mark.parametrize(("add", "what"), [(True, "notes.txt was not built"), (False, "model/weights is missing")])
def test_a_folder_that_has_changed(tmp_path: Path, add: bool, what: str) -> None:
    folder = built(tmp_path / "tiny")
    if add:
        (folder / "notes.txt").touch()
    else:
        (folder / "model" / "weights").unlink()
    with pytest.raises(KitError, match=what):
        archive.read(folder)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["weights", "weights/part1"], ["weights: is a file and a folder; SageMaker cannot lay it out"]),
        (["a/b", "a/b/c", "a"], ["a: is a file", "a/b: is a file"]),
        (["é" * 513], [f"{'é' * 513}: its key in S3 would be longer than 1024 bytes"]),
        ([], ["the archive is empty"]),
        (["a/b", "a/c", "ab"], []),
    ],
)
def test_what_cannot_be_model_data(paths: list[str], expected: list[str]) -> None:
    manifest = Manifest(Path(), tuple(ArchiveFile(path, 1, SUM) for path in paths))
    found = archive.problems(manifest, "p/")
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))
