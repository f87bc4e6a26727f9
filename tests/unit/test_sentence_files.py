from __future__ import annotations

import json
from pathlib import Path

import pytest

from servekit.sentence_files import SentenceFiles, UnsupportedModel, read_sentence_files
from tests.fakes.tiny_model import make_tiny_model


def test_a_plain_transformers_folder_is_mean_pooled(tmp_path: Path) -> None:
    assert read_sentence_files(tmp_path) == SentenceFiles("mean", False, None, False, "")


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_and_normalisation_are_read(tmp_path: Path, pooling: str, normalize: bool) -> None:
    files = read_sentence_files(make_tiny_model(tmp_path, pooling=pooling, normalize=normalize))
    assert (files.pooling, files.normalize, files.max_length) == (pooling, normalize, 32)


def test_minilm_is_read(minilm_weights: Path) -> None:
    assert read_sentence_files(minilm_weights) == SentenceFiles("mean", True, 256, False, "")


def test_the_default_prompt_is_read(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert read_sentence_files(tmp_path).prompt == "query: "


def test_a_module_that_we_do_not_have_is_refused(tmp_path: Path) -> None:
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    modules.append({"type": "sentence_transformers.models.Dense", "path": "2_Dense"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UnsupportedModel, match="module Dense is not supported"):
        read_sentence_files(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"pooling_mode_lasttoken": True}, {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}]
)
def test_a_pooling_that_we_do_not_have_is_refused(tmp_path: Path, wrong: dict[str, bool]) -> None:
    make_tiny_model(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(wrong))
    with pytest.raises(UnsupportedModel, match=r"1_Pooling/config.json: pooling .* is not supported"):
        read_sentence_files(tmp_path)


def test_sentence_transformers_6_names_the_pooling_itself(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": "cls"}))
    assert read_sentence_files(tmp_path).pooling == "cls"
