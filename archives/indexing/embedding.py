"""The encoder that a model's archive will hold, for embedding passages here. The only module here that needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from archives import assets
from archives.indexing.build import Embed
from archives.indexing.site import Say
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig
from servekit.cpus import read_machine
from servekit.embedder import TextEmbedder
from servekit.sentence_files import UnsupportedModel
from servekit.settings import EmbeddingSettings
from servekit.vectors import Vectors

SLICE_TEXTS = 256
"""Tokenised at a time: enough of them are of similar length, and a build that is killed soon has something to show."""


def embedder_for(config: AnyModelConfig, store: Path) -> TextEmbedder:
    """The model's encoder, warmed up, on all cores. store: where its compiled artefact is kept, as for its archive.

    Raises KitError when its weights are missing or its handler has no encoder, Failed when compiling fails.
    """
    settings = config.handler
    if not isinstance(settings, EmbeddingSettings):
        raise KitError(f"{config.model.name} embeds no texts", "one whose model.handler is retrieval_handler.py")
    weights = assets.find_weights(config)
    prepared = assets.prepare(config, weights, store / ".prepared")
    torch.set_num_threads(read_machine().available)
    try:
        embedder = TextEmbedder(config.model.name, weights, settings, prepared)
    except UnsupportedModel as error:
        raise KitError(f"{config.model.name}: {error}", "see model.assets in the YAML") from None
    embedder.warm_up()
    return embedder


def embed(embedder: TextEmbedder, say: Say = lambda line: None) -> Embed:
    """What build_index calls. say: hears how many texts were too long for the encoder."""

    def passes(texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        truncated = 0
        for start in range(0, len(texts), SLICE_TEXTS):
            rows = embedder.tokenizer(texts[start : start + SLICE_TEXTS])
            truncated += sum(row.truncated for row in rows)
            for places, vectors in embedder.passes(rows):
                yield [start + place for place in places], vectors
        if truncated:
            limit = embedder.spec.max_length
            say(
                f"{truncated} of {len(texts)} passages are longer than the encoder's {limit} tokens: "
                "nothing finds them by their ends; a smaller index.chunk_size would"
            )

    return passes
