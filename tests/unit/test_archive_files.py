"""model_configs/archive_files.py: an archive read without unpacking it. test_build.py has the formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model_configs.archive_files import CONFIG_FILE, MANIFEST_FILE, read_config, read_golden
from model_configs.errors import KitError
from tests.fakes.archive import GOLDEN, fake_archive


def test_a_model_is_read_as_its_yaml_had_it(tmp_path: Path) -> None:
    config = read_config(fake_archive(tmp_path / "a", "minilm", batchSize=32))
    assert (config.model.name, config.model.version, config.model.handler) == ("minilm", "1.0", "embedding_handler.py")
    assert config.torchserve.batchSize == 32
    assert read_golden(tmp_path / "a") == GOLDEN


def test_changes_win_and_are_checked(tmp_path: Path) -> None:
    archive = fake_archive(tmp_path / "a", "minilm", maxWorkers=2)
    assert read_config(archive, {"maxWorkers": 3}).torchserve.maxWorkers == 3
    with pytest.raises(KitError, match=r"model-config\.yaml: torchserve: .*maxWorkers=2 is less than minWorkers=4"):
        read_config(archive, {"minWorkers": 4})


def test_another_tools_archive_is_refused(tmp_path: Path) -> None:
    archive = fake_archive(tmp_path / "a", "minilm")
    (archive / CONFIG_FILE).write_text("minWorkers: 1\nunheard_of: 3\n")
    with pytest.raises(KitError, match="unheard_of: unknown key"):
        read_config(archive)
    manifest = json.loads((archive / MANIFEST_FILE).read_text())
    manifest["model"]["handler"] = "their_handler.py"
    (archive / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(KitError, match=r"'their_handler.py' is no handler of this kit"):
        read_config(archive)
    (archive / CONFIG_FILE).unlink()
    with pytest.raises(KitError, match=r"'model-config.yaml' is missing"):
        read_config(archive)
