"""An index over a few passages, made by the encoder that will ask it."""

from __future__ import annotations

from pathlib import Path

import faiss
import orjson

from servekit.embedder import TextEmbedder
from servekit.retrieval.index import INFO_FILE, PASSAGES_FILE, VECTORS_FILE, IndexInfo, encoder_fingerprint
from servekit.retrieval.passages import Passage
from servekit.settings import EmbeddingSettings
from servekit.vectors import Vectors, normalised

PASSAGES = [
    Passage("animals/fox.md", "Foxes", 0, "the fox jumps"),
    Passage("animals/dog.md", "Dogs", 0, "the lazy dog"),
    Passage("machines/server.md", "Servers", 0, "the server model"),
    Passage("machines/server.md", "Servers", 17, "text over vector"),
]


def write_index(folder: Path, passages: list[Passage], vectors: Vectors, encoder: dict[str, str]) -> Path:
    """A flat index."""
    folder.mkdir(parents=True, exist_ok=True)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(normalised(vectors))
    faiss.write_index(index, str(folder / VECTORS_FILE))
    (folder / PASSAGES_FILE).write_bytes(b"".join(orjson.dumps(passage) + b"\n" for passage in passages))
    info = IndexInfo(encoder, "flat", len(passages), vectors.shape[1], {"chunk_size": 1000, "chunk_overlap": 0})
    info.write(folder)
    assert (folder / INFO_FILE).exists()
    return folder


def tiny_index(folder: Path, model_dir: Path, settings: EmbeddingSettings) -> Path:
    """PASSAGES by this model."""
    embedder = TextEmbedder("tiny", model_dir, settings, folder / "no-artefacts")
    embedder.warm_up()
    vectors, _ = embedder.embed(embedder.tokenizer([passage.text for passage in PASSAGES]))
    return write_index(folder, PASSAGES, vectors, encoder_fingerprint(embedder.spec))
