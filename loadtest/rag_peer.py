"""The script of PyTorch's article on RAG (pytorch.org, "Optimized RAG on Graviton"), run by a Python with LangChain.

    python rag_peer.py MODEL_FOLDER eager|compile

In the article's own order: documents, split, FAISS.from_documents, similarity_search; all under inference_mode. The
documents are CPython's `pydoc_data.topics`. A JSON line on standard input is answered by one on standard output:

    {"index": true}                                        {"seconds", "texts", "graphs"}
    {"questions": […], "warmup": n, "timed": n, "k": 5}    {"ms": […], "found": [[…]], "graphs"}

graphs: that torch.compile has made so far. found: the texts of each question. Knows nothing of the kit.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from itertools import cycle, islice
from typing import Any

import torch

CHUNK_SIZE, CHUNK_OVERLAP = 1000, 0
COMPILED_BATCH = 16
"""Documents in a batch of the compiled model, the article's."""
PACKAGES = ("langchain-huggingface", "langchain-community", "sentence-transformers", "faiss-cpu", "torch")


def split_topics() -> list[Any]:
    """LangChain documents of up to CHUNK_SIZE characters."""
    from pydoc_data.topics import topics

    from langchain_core.documents import Document  # type: ignore[import-not-found,unused-ignore]
    from langchain_text_splitters import RecursiveCharacterTextSplitter  # type: ignore[import-not-found,unused-ignore]

    documents = [Document(page_content=topics[name], metadata={"source": name}) for name in sorted(topics)]
    splitter = RecursiveCharacterTextSplitter(chunk_size=CHUNK_SIZE, chunk_overlap=CHUNK_OVERLAP)
    return list(splitter.split_documents(documents))


def eager_embeddings(folder: str) -> Any:
    """LangChain's, as they come."""
    from langchain_huggingface import HuggingFaceEmbeddings  # type: ignore[import-not-found,unused-ignore]

    return HuggingFaceEmbeddings(model_name=folder)


def compiled_embeddings(folder: str) -> Any:
    """The article's class that holds the model to compile it, with frozen and prepacked weights.

    Mended in its favour: the tokenizer is loaded once and not for each call, and vectors are the mean that the model
    was trained for and not the pooler's output, which it was not.
    """
    import torch._inductor.config as inductor
    from langchain_core.embeddings import Embeddings  # type: ignore[import-not-found,unused-ignore]
    from transformers import AutoModel, AutoTokenizer

    inductor.freezing = True
    inductor.cpp.weight_prepack = True

    class CompiledEmbeddings(Embeddings):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self.client: Any = torch.compile(AutoModel.from_pretrained(folder).eval())

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            vectors: list[list[float]] = []
            for start in range(0, len(texts), COMPILED_BATCH):
                batch = texts[start : start + COMPILED_BATCH]
                encoded = self.tokenizer(batch, padding=True, truncation=True, max_length=256, return_tensors="pt")
                hidden = self.client(**encoded).last_hidden_state  # [B, L, D]
                mask = encoded["attention_mask"].unsqueeze(-1)
                mean = (hidden * mask).sum(1) / mask.sum(1)
                vectors += torch.nn.functional.normalize(mean, dim=1).tolist()
            return vectors

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    return CompiledEmbeddings()


def graphs() -> int:
    """That torch.compile has made in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


class Peer:
    """The script's state."""

    def __init__(self, folder: str, kind: str) -> None:
        self.embeddings = {"eager": eager_embeddings, "compile": compiled_embeddings}[kind](folder)
        self.splits = split_topics()
        self.store: Any = None

    def index(self) -> dict[str, Any]:
        """Make the vector store anew."""
        from langchain_community.vectorstores import FAISS  # type: ignore[import-not-found,unused-ignore]

        started = time.perf_counter()
        self.store = FAISS.from_documents(self.splits, self.embeddings)
        return {"seconds": time.perf_counter() - started, "texts": len(self.splits), "graphs": graphs()}

    def ask(self, questions: list[str], warmup: int, timed: int, k: int) -> dict[str, Any]:
        """The questions again and again, warmup times untimed, then timed times."""
        for question in islice(cycle(questions), warmup):
            self.store.similarity_search(question, k=k)
        ms, found = [], []
        for question in islice(cycle(questions), timed):
            started = time.perf_counter()
            documents = self.store.similarity_search(question, k=k)
            ms.append(1e3 * (time.perf_counter() - started))
            found.append([document.page_content for document in documents])
        return {"ms": ms, "found": found[: len(questions)], "graphs": graphs()}


def main(folder: str, kind: str) -> None:
    """See the module's docstring."""
    with torch.inference_mode():
        peer = Peer(folder, kind)
        versions = {name: version(name) for name in PACKAGES}
        print(json.dumps({"versions": versions, "threads": torch.get_num_threads()}), flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            print(json.dumps(peer.index() if "index" in asked else peer.ask(**asked)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
