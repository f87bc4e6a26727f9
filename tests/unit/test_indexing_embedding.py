"""The real encoder as build_index calls it: every text once, where it belongs, and a word on what was cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from archives import assets
from archives.indexing import embedding
from archives.indexing.embedding import embed, embedder_for
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig, Assets, load_model
from servekit.cpus import read_machine
from servekit.embedder import TextEmbedder
from servekit.settings import EmbeddingSettings
from servekit.tokenizer import TextTokenizer, TokenRow


@pytest.fixture(scope="module")
def embedder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TextEmbedder:
    settings = EmbeddingSettings.model_validate({"compile": {"mode": "eager"}, "warmup": {"batch_sizes": [1]}})
    found = TextEmbedder("tiny", tiny_model, settings, tmp_path_factory.mktemp("none"))
    found.warm_up()
    return found


def test_every_text_has_its_own_vector(embedder: TextEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "SLICE_TEXTS", 5)
    texts = [" ".join(["the fox"] * (1 + number % 4)) + f" {chr(97 + number)}" for number in range(12)]
    wanted, _ = embedder.embed(embedder.tokenizer(texts))
    found = np.full_like(wanted, np.nan)
    passes = list(embed(embedder)(texts))
    for places, vectors in passes:
        found[places] = vectors
    assert sorted(place for places, _ in passes for place in places) == list(range(12))
    assert len(passes) >= 3
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert list(embed(embedder)([])) == []


def test_vectors_come_as_they_are_computed(embedder: TextEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "SLICE_TEXTS", 2)
    tokenised: list[int] = []
    real = TextTokenizer.__call__

    def counted(self: TextTokenizer, texts: Sequence[str | tuple[str, str]]) -> list[TokenRow]:
        tokenised.append(len(texts))
        return real(self, texts)

    monkeypatch.setattr(TextTokenizer, "__call__", counted)
    passes = embed(embedder)(["a", "b", "c", "d", "e"])
    next(passes)
    assert tokenised == [2]
    assert len([*passes]) >= 2
    assert tokenised == [2, 2, 1]


def test_texts_that_are_too_long_are_told_of(embedder: TextEmbedder) -> None:
    said: list[str] = []
    list(embed(embedder, said.append)(["the fox", "fox " * 200, "dog " * 300]))
    assert len(said) == 1
    assert said[0].startswith(f"2 of 3 passages are longer than the encoder's {embedder.spec.max_length} tokens")
    list(embed(embedder, said.append)(["the fox"]))
    assert len(said) == 1


def test_the_encoder_is_the_archive_s_and_has_all_cores(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_model("pydoc-rag")
    handler = config.handler.model_copy(update={"compile": config.handler.compile.model_copy(update={"mode": "eager"})})
    model = config.model.model_copy(update={"assets": Assets(path=str(tiny_model))})
    config = config.model_copy(update={"handler": handler, "model": model})
    asked: list[Path] = []

    def prepare(config: AnyModelConfig, weights: Path, cache: Path) -> Path:
        asked.extend([weights, cache])
        return tmp_path

    threads: list[int] = []
    monkeypatch.setattr(assets, "prepare", prepare)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    found = embedder_for(config, tmp_path / "store")
    assert asked == [tiny_model, tmp_path / "store" / ".prepared"]
    assert threads == [read_machine().available]
    assert found.dimension == 32


def test_a_model_without_an_encoder_is_refused() -> None:
    with pytest.raises(KitError, match="pydoc-llama embeds no texts"):
        embedder_for(load_model("pydoc-llama"), Path("nowhere"))
