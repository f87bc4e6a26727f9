"""deploy/container_models.py: archives found, and put where TorchServe looks, without a byte written to them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from deploy.container_models import find_archives, served, stage
from model_configs.errors import KitError
from tests.fakes.archive import GOLDEN, fake_archive


def make_mar(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as mar:
        for path in folder.rglob("*"):
            if path.is_file():
                mar.write(path, path.relative_to(folder))
    return target


def test_a_folder_that_is_an_archive(tmp_path: Path) -> None:
    archive = fake_archive(tmp_path / "model", "minilm")
    assert find_archives(archive) == [archive]


def test_what_was_unpacked_from_a_tar_gz(tmp_path: Path) -> None:
    """Its files are in a folder of the model's name."""
    archive = fake_archive(tmp_path / "model" / "minilm", "minilm")
    assert find_archives(tmp_path / "model") == [archive]


def test_a_folder_of_several(tmp_path: Path) -> None:
    first, other = fake_archive(tmp_path / "models" / "first", "first"), fake_archive(tmp_path / "other", "other")
    mar = make_mar(other, tmp_path / "models" / "other.mar")
    (tmp_path / "models" / "lost+found").mkdir()
    assert find_archives(tmp_path / "models") == [first, mar]


def test_no_folder_and_no_archive(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="there is no model folder"):
        find_archives(tmp_path / "nowhere")
    with pytest.raises(KitError, match="there is no archive in"):
        find_archives(tmp_path)


def test_links_into_the_archive(tmp_path: Path) -> None:
    archive, store = fake_archive(tmp_path / "a", "minilm", batchSize=2), tmp_path / "store"
    configs = stage([archive], store, {})
    assert {path.name: path.readlink() for path in (store / "minilm").iterdir()} == {
        path.name: path for path in archive.iterdir()
    }
    (model,) = served(configs, store)
    assert (model.name, model.version, model.archive, model.golden) == ("minilm", "1.0", "minilm", GOLDEN)


def test_changes_are_in_a_file_of_our_own(tmp_path: Path) -> None:
    archive, store = fake_archive(tmp_path / "a", "minilm", batchSize=2, maxWorkers=1), tmp_path / "store"
    before = (archive / "model-config.yaml").read_bytes()
    (model,) = served(stage([archive], store, {"maxWorkers": 3}), store)
    assert model.max_workers == 3
    own = store / "minilm" / "model-config.yaml"
    assert yaml.safe_load(own.read_text()) == {**yaml.safe_load(before), "maxWorkers": 3}
    assert not own.is_symlink()
    assert (archive / "model-config.yaml").read_bytes() == before


def test_a_mar_is_unpacked(tmp_path: Path) -> None:
    mar, store = make_mar(fake_archive(tmp_path / "a", "minilm"), tmp_path / "minilm.mar"), tmp_path / "store"
    (model,) = served(stage([mar], store, {"batchSize": 5}), store)
    assert (store / model.archive / "model" / "weights").read_bytes() == b"weights"
    assert yaml.safe_load((store / "minilm" / "model-config.yaml").read_text())["batchSize"] == 5


def test_two_of_a_name(tmp_path: Path) -> None:
    archives = [fake_archive(tmp_path / each, "minilm") for each in "ab"]
    with pytest.raises(KitError, match="a second model of the name minilm"):
        stage(archives, tmp_path / "store", {})


def test_an_archive_that_cannot_be_proven(tmp_path: Path) -> None:
    archive, store = fake_archive(tmp_path / "a", "minilm"), tmp_path / "store"
    (archive / "artefacts" / "golden.json").unlink()
    with pytest.raises(KitError, match="has no golden request"):
        served(stage([archive], store, {}), store)


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that others can enter, and a user who is not root: root reads everything."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield Path(folder)
        os.seteuid(user)


def test_files_that_this_user_may_not_read(as_nobody: Path) -> None:
    archive = fake_archive(as_nobody / "a", "minilm")
    (archive / "model-config.yaml").chmod(0)
    with pytest.raises(KitError, match=rf"user \d+ cannot read {archive}/model-config.yaml") as caught:
        stage([archive], as_nobody / "store", {})
    assert "--build-arg RUN_AS=0" in caught.value.hint
    archive.chmod(0)
    with pytest.raises(KitError, match=f"cannot read {archive}"):
        find_archives(archive)
