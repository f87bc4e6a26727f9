"""A model's index: documents into passages, passages into vectors, vectors into faiss, all of it put in place at once.

    <version>/     index.json, vectors.faiss, passages.jsonl (servekit/retrieval/index.py) and golden.json
    .vectors/      vectors of earlier builds, a folder an encoder: only what is new is embedded

A build that is killed loses nothing that was embedded, and leaves the version before as it is. Knows nothing of the
encoder but its fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from archives.indexing import versions
from archives.indexing.nearest import choose_kind, make_index, recall_against_flat
from archives.indexing.site import Say
from archives.indexing.sources import all_documents
from archives.indexing.split import passages as split
from archives.indexing.vector_cache import VectorCache, text_hash
from model_configs.errors import Failed, KitError
from model_configs.schema import AnyModelConfig, Index
from servekit.cpus import read_machine
from servekit.golden import Golden
from servekit.retrieval.index import INFO_FILE, PASSAGES_FILE, VECTORS_FILE, IndexInfo, Kind
from servekit.retrieval.passages import Passage
from servekit.vectors import Vectors, normalised

SCHEMA = "servekit.index_build/1"
CACHE_FOLDER, CACHE_FILE = ".vectors", "vectors.bin"
OTHER_CACHES = 1
"""Of encoders that were used before, for who compares two."""
MOST_STALE = 0.5
"""Share of a cache's vectors that may be of texts which are in the index no more, before it is written anew."""

QUERIES = 3
QUERY_CHARS = 200
CANDIDATES = 16
CLEAR_LEAD = 0.01
"""By so much cosine the nearest passage of a golden query leads, so that another CPU or int8 finds the same one."""

Embed = Callable[[Sequence[str]], Iterator[tuple[list[int], Vectors]]]
"""Texts to vectors, pass by pass: places in the texts, and a vector for each, [places, D] float32."""
Progress = Callable[[int, int], None]
"""Texts embedded in this build so far, and how many there are to embed."""


@dataclass(frozen=True)
class Built:
    """A version of an index. folder: its own; embedded: passages' texts that were new; size_bytes: of all files."""

    name: str
    folder: Path
    info: IndexInfo
    embedded: int
    seconds: float
    size_bytes: int

    def row(self) -> dict[str, Any]:
        """For a table."""
        return {
            "model": self.name,
            "kind": self.info.kind,
            "documents": len(self.info.documents),
            "passages": self.info.passages,
            "embedded": self.embedded,
            "recall@10": f"{self.info.recall:.3f}",
            "MB": round(self.size_bytes / 1e6, 1),
            "s": round(self.seconds, 1),
            "version": self.folder.name,
        }

    def document(self) -> dict[str, Any]:
        """All figures, with units in their names."""
        return {
            "schema": SCHEMA,
            "model": self.name,
            "version": self.folder.name,
            "folder": str(self.folder),
            "kind": self.info.kind,
            "documents": len(self.info.documents),
            "passages": self.info.passages,
            "dimension": self.info.dimension,
            "embedded": self.embedded,
            "recall_at_10": self.info.recall,
            "size_bytes": self.size_bytes,
            "seconds": round(self.seconds, 3),
            "splitter": self.info.splitter,
            "encoder": self.info.encoder,
        }


def build_index(
    config: AnyModelConfig,
    sources: Sequence[str],
    *,
    depth: int,
    embed: Embed,
    spec_fingerprint: Mapping[str, str],
    dimension: int,
    folder: Path,
    kind: Kind | None = None,
    say: Say,
    progress: Progress,
) -> Built:
    """Make the index of these sources the model's current one.

    spec_fingerprint: encoder_fingerprint's, dimension: D, both of the encoder that embeds. folder: the model's own
    among the indexes. kind: instead of the YAML's. Raises KitError for sources that cannot be had or hold no text, and
    while another process builds this index; Failed when the encoder gives no numbers.
    """
    started, name, settings = time.perf_counter(), config.model.name, config.index or Index()
    with versions.building(folder, name) as draft:
        passages, documents = _passages(name, sources, depth, settings, say)
        asked = golden_candidates(passages)
        with _cache(folder, spec_fingerprint, dimension) as cache:
            texts = [passage.text for passage in passages]
            embedded = _embed_missing(texts + asked, cache, embed, progress) & set(texts)
            vectors, queries = _vectors(texts, cache), _vectors(asked, cache)
            if len(cache) * MOST_STALE > len({*texts, *asked}):
                cache.keep({text_hash(text) for text in texts + asked})
        kind = kind or (choose_kind(len(passages)) if settings.kind == "auto" else settings.kind)
        index = make_index(vectors, kind, read_machine().available)
        info = IndexInfo(
            encoder=dict(spec_fingerprint),
            kind=kind,
            passages=len(passages),
            dimension=dimension,
            splitter={"chunk_size": settings.chunk_size, "chunk_overlap": settings.chunk_overlap},
            documents=documents,
            recall=1.0 if kind == "flat" else recall_against_flat(index, vectors),
        )
        golden = golden_request(passages, vectors, asked, queries, index)
        key = _write(draft, info, passages, index, golden)
        version = versions.publish(draft, folder, key)
        size = sum(path.stat().st_size for path in version.iterdir())
    return Built(name, version, info, len(embedded), time.perf_counter() - started, size)


def golden_candidates(passages: Sequence[Passage]) -> list[str]:
    """The beginnings of passages all over the index: texts that a golden request may ask."""
    places = np.linspace(0, len(passages) - 1, min(CANDIDATES, len(passages))).astype(int)
    starts = [passages[place].text[:QUERY_CHARS].strip() for place in dict.fromkeys(places.tolist())]
    # A drawing says nothing by which a passage could be found.
    return [text for text in starts if any(map(str.isalnum, text))] or starts[:1]


def golden_request(
    passages: Sequence[Passage], vectors: Vectors, texts: Sequence[str], queries: Vectors, index: Any
) -> Golden:
    """A request whose first passages are known: queries all over the index whose nearest passage is beyond doubt.

    texts, queries [texts, D]: golden_candidates' and their vectors. index: must find what a flat one finds. Without any
    such query, as where all passages are the same, it is the first, and what index finds.
    """
    scores = queries @ vectors.T  # [texts, passages]
    nearest = scores.argmax(axis=1)
    leads = _leads(scores)
    _, found = index.search(queries, 1)
    clear = [row for row in range(len(texts)) if leads[row] >= CLEAR_LEAD and found[row, 0] == nearest[row]] or [0]
    spread = np.linspace(0, len(clear) - 1, min(QUERIES, len(clear))).astype(int)
    chosen = [clear[place] for place in spread]
    expected = [passages[max(0, int(found[row, 0]))] for row in chosen]
    return Golden(
        body={"query": [texts[row] for row in chosen], "k": 1, "prompt": False},
        kind="passages",
        expected=[{"source": passage.source, "start": passage.start} for passage in expected],
        tolerance=0.0,
    )


def _leads(scores: Vectors) -> Vectors:
    """By how much each row's best is better than its second."""
    if scores.shape[1] == 1:
        return np.full(len(scores), np.inf, dtype=np.float32)
    best = np.partition(scores, -2, axis=1)[:, -2:]
    return np.asarray(best[:, 1] - best[:, 0], dtype=np.float32)


def _passages(
    name: str, sources: Sequence[str], depth: int, settings: Index, say: Say
) -> tuple[list[Passage], dict[str, str]]:
    """All passages by source and start, and each document's sha256."""
    passages: list[Passage] = []
    sums: dict[str, str] = {}
    for document in all_documents(sources, depth, say):
        sums[document.source] = hashlib.sha256(document.text.encode()).hexdigest()
        passages += split(document, settings.chunk_size, settings.chunk_overlap)
    if not passages:
        raise KitError(f"{name}: there is no text to index in {', '.join(sources) or 'no sources'}", "name some others")
    return sorted(passages, key=lambda passage: (passage.source, passage.start)), dict(sorted(sums.items()))


def _cache(folder: Path, spec_fingerprint: Mapping[str, str], dimension: int) -> VectorCache:
    """This encoder's."""
    encoder = json.dumps([dict(spec_fingerprint), dimension], sort_keys=True)
    own = folder / CACHE_FOLDER / hashlib.sha256(encoder.encode()).hexdigest()[: versions.KEY_LENGTH]
    cache = VectorCache(own / CACHE_FILE, dimension)
    os.utime(own)
    versions.keep(own, OTHER_CACHES, versions.VERSIONS)
    return cache


def _embed_missing(texts: Sequence[str], cache: VectorCache, embed: Embed, progress: Progress) -> set[str]:
    """Bring the vectors of all texts into the cache, each pass as it comes. Returns the texts that were not there."""
    hashes = {text_hash(text): text for text in texts}
    known = cache.get(hashes)
    keys = [key for key in hashes if key not in known]
    missing = [hashes[key] for key in keys]
    done = 0
    progress(done, len(missing))
    for places, vectors in embed(missing) if missing else ():
        if not np.isfinite(vectors).all():
            raise Failed(f"the encoder gives no numbers for {missing[places[0]][:80]!r} or a text beside it")
        cache.add([keys[place] for place in places], vectors)
        done += len(places)
        progress(done, len(missing))
    return set(missing)


def _vectors(texts: Sequence[str], cache: VectorCache) -> Vectors:
    """[texts, D], each at length 1."""
    hashes = [text_hash(text) for text in texts]
    known = cache.get(hashes)
    return normalised(np.stack([known[key] for key in hashes]))


def _write(draft: Path, info: IndexInfo, passages: Sequence[Passage], index: Any, golden: Golden) -> str:
    """The version's files. Returns its key, of what was indexed by what."""
    with (draft / PASSAGES_FILE).open("wb") as file:
        for passage in passages:
            file.write(json.dumps(asdict(passage), ensure_ascii=False).encode() + b"\n")
    faiss.write_index(index, str(draft / VECTORS_FILE))
    info.write(draft)
    golden.save(draft)
    digest = hashlib.sha256((draft / INFO_FILE).read_bytes() + (draft / PASSAGES_FILE).read_bytes())
    return digest.hexdigest()[: versions.KEY_LENGTH]
