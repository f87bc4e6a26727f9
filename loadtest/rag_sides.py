"""Two sides that index the same documents and answer the same queries: the article's script in a process of its own
(rag_peer.py), this kit's embedder and index in this one. Knows nothing of servers and of what is compared.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Literal, Protocol

import faiss
import torch
from torch._dynamo.utils import counters

from archives import STORE, indexing
from archives.indexing import build, embedding
from archives.indexing.evaluate import Search
from loadtest.line_process import LineProcess
from model_configs import ROOT
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig
from servekit.embedder import TextEmbedder
from servekit.retrieval.index import Index, encoder_fingerprint
from servekit.vectors import normalised

PEER = Path(__file__).with_name("rag_peer.py")
ENVIRONMENT = ROOT / ".venv" / "rag"


@dataclass(frozen=True)
class Indexed:
    """Documents made searchable. graphs: that torch.compile had made by then."""

    texts: int
    seconds: float
    graphs: int

    @property
    def texts_per_s(self) -> float:
        """Passages a second, the search structure included."""
        return self.texts / self.seconds


@dataclass(frozen=True)
class Asked:
    """ms: of each query; found: of each question, texts, best first; graphs: that torch.compile had made by then."""

    ms: list[float]
    found: list[list[str]]
    graphs: int


class Side(Protocol):
    """What is measured."""

    def index(self) -> Indexed:
        """Index all documents anew."""
        ...

    def ask(self, questions: Sequence[str], warmup: int, timed: int, k: int) -> Asked:
        """The questions again and again, one at a time: warmup queries that are not timed, then those that are."""
        ...


def python(environment: Path = ENVIRONMENT) -> Path:
    """The Python that has LangChain. Raises KitError."""
    path = environment / "bin" / "python"
    if not path.exists():
        raise KitError(f"there is no {path}, which is to have LangChain", "make bench-rag, which installs it first")
    return path


class Peer:
    """The article's script, running; a context manager. It sleeps while it is not asked."""

    def __init__(self, model: Path, kind: Literal["eager", "compile"], log: Path) -> None:
        """log: a file for what it says. Raises KitError, Failed."""
        self._process = LineProcess("the article's script", [str(python()), str(PEER), str(model), kind], log)
        self.versions: dict[str, str] = self._process.hello["versions"]
        self.threads: int = self._process.hello["threads"]

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.__exit__(*exception)

    def index(self) -> Indexed:
        """FAISS.from_documents."""
        return Indexed(**self._process.told({"index": True}))

    def ask(self, questions: Sequence[str], warmup: int, timed: int, k: int) -> Asked:
        """FAISS.similarity_search."""
        words = {"questions": list(questions), "warmup": warmup, "timed": timed, "k": k}
        return Asked(**self._process.told(words))


class Kit:
    """The embedder and the index of a worker, without one."""

    def __init__(self, embedder: TextEmbedder, index: Index) -> None:
        self._embedder, self._index = embedder, index
        self._texts = [passage.text for passage in index.passages]
        self.info = index.info

    def index(self) -> Indexed:
        """All passages to vectors, and these into a flat index."""
        started = time.perf_counter()
        vectors, _ = self._embedder.embed(self._embedder.tokenizer(self._texts))
        faiss.IndexFlatIP(vectors.shape[1]).add(normalised(vectors))
        return Indexed(len(self._texts), time.perf_counter() - started, graphs())

    def ask(self, questions: Sequence[str], warmup: int, timed: int, k: int) -> Asked:
        """Tokens, vector, search, texts."""
        for question in islice(cycle(questions), warmup):
            self._texts_for(question, k)
        ms, found = [], []
        for question in islice(cycle(questions), timed):
            started = time.perf_counter()
            texts = self._texts_for(question, k)
            ms.append(1e3 * (time.perf_counter() - started))
            found.append(texts)
        return Asked(ms, found[: len(questions)], graphs())

    @property
    def search(self) -> Search:
        """For evaluate: the sources of the nearest passages of each text."""

        def sources(texts: list[str], k: int) -> list[list[str]]:
            vectors, _ = self._embedder.embed(self._embedder.tokenizer(texts))
            hits = self._index.search(vectors, [k] * len(texts))
            return [[self._index.passages[hit.place].source for hit in own] for own in hits]

        return sources

    def _texts_for(self, question: str, k: int) -> list[str]:
        vectors, _ = self._embedder.embed(self._embedder.tokenizer([question]))
        (hits,) = self._index.search(vectors, [k])
        return [self._index.passages[hit.place].text for hit in hits]


def variant(config: AnyModelConfig, precision: str = "fp32", kind: str = "flat") -> AnyModelConfig:
    """The model with another precision of its encoder or another kind of index."""
    assert config.index is not None  # noqa: S101 - a retrieval model of the kit has one
    compiling = config.handler.compile.model_copy(update={"precision": precision})
    return config.model_copy(
        update={
            "handler": config.handler.model_copy(update={"compile": compiling}),
            "index": config.index.model_copy(update={"kind": kind}),
        }
    )


def make_index(config: AnyModelConfig, embedder: TextEmbedder, folder: Path) -> Path:
    """The index of the YAML's sources, made or brought up to date in folder; returns where it is."""
    assert config.index is not None  # noqa: S101 - as in variant
    build.build_index(
        config,
        config.index.sources,
        depth=0,
        embed=embedding.embed(embedder),
        spec_fingerprint=encoder_fingerprint(embedder.spec),
        dimension=embedder.dimension,
        folder=folder,
        say=lambda line: None,
        progress=lambda done, of: None,
    )
    return folder / indexing.CURRENT


def kit(config: AnyModelConfig, folder: Path) -> Kit:
    """This kit's side; its index is made in folder, or is there."""
    embedder = embedding.embedder_for(config, STORE)
    index = make_index(config, embedder, folder)
    return Kit(embedder, Index(index, encoder_fingerprint(embedder.spec), torch.get_num_threads()))


def graphs() -> int:
    """That torch.compile has made in this process."""
    return int(counters["stats"]["unique_graphs"])
