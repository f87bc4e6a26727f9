"""What a retrieval model's YAML may say, and what of it its builder sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from archives import assets
from archives.build import build
from model_configs import CONFIGS_DIR
from model_configs.errors import KitError
from model_configs.schema import load_file, load_model, retrieval_model
from servekit.settings import EmbeddingSettings

RAG = yaml.safe_load((CONFIGS_DIR / "pydoc-rag.yaml").read_text())


def changed(folder: Path, **sections: Any) -> Path:
    document = {**RAG, **{name: {**RAG[name], **keys} for name, keys in sections.items()}}
    file = folder / "model.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"handler": {"template": "{context}"}}, "template: {question} is missing"),
        ({"handler": {"k": 200}}, "k: 200 is more than max_k=100"),
        ({"handler": {"answer": {"base_url": "/v1", "model": "m", "timeout_s": 60}}}, "handler.answer.timeout_s: 60"),
        ({"handler": {"compile": {"mode": "eager", "precision": "int8"}}}, "int8 goes with mode: aot"),
        ({"index": {"chunk_overlap": 1000}}, "chunk_overlap: 1000 is not less than chunk_size=1000"),
        ({"index": {"knd": "flat"}}, "did you mean 'kind'"),
        ({"model": {"handler": "embedding_handler.py"}, "handler": {}}, "handler"),
    ],
)
def test_what_does_not_go_together_is_said(sections: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(KitError) as error:
        load_file(changed(tmp_path, **sections))
    assert words in str(error.value)


def test_the_builder_sees_an_encoder_alone() -> None:
    config = load_model("pydoc-rag")
    assert type(config.resolved_handler) is EmbeddingSettings
    weights = assets.find_weights(config)
    other = config.model_copy(update={"handler": config.handler.model_copy(update={"k": 9, "template": "{context}"})})
    assert assets.prepared_key(other, weights) == assets.prepared_key(config, weights)


def test_an_archive_needs_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from archives import indexing

    monkeypatch.setattr(assets, "prepare", lambda *_: tmp_path)
    monkeypatch.setattr(indexing, "required", lambda config: (_ for _ in ()).throw(KitError("no index", "make one")))
    with pytest.raises(KitError, match="no index"):
        build(load_model("pydoc-rag"), tmp_path / "store")


def test_only_retrieval_models_are_indexed_and_asked() -> None:
    with pytest.raises(KitError, match="minilm is no retrieval model"):
        retrieval_model("minilm")
