"""What a TorchServe user has who follows PyTorch's article on RAG: the comparison's other side, not the kit's.

The article's pipeline, rag_peer.py's, in a plain handler on TorchServe's BaseHandler. Takes {"query", "k"}. Runs inside
a worker of an environment with LangChain, where there is nothing of the kit.
"""

from __future__ import annotations

from typing import Any

import rag_peer  # type: ignore[import-not-found] # beside this file in the archive
import torch
from ts.torch_handler.base_handler import BaseHandler


class StockRagHandler(BaseHandler):  # type: ignore[misc]
    """One worker's model and vector store."""

    def initialize(self, context: Any) -> None:
        """Load the model and index the documents, as the article does each time."""
        settings = context.model_yaml_config["handler"]
        with torch.inference_mode():
            peer = rag_peer.Peer(settings["model"], "eager")
            peer.index()
        self.store, self.embeddings = peer.store, peer.embeddings
        self.batched = settings["batched"]
        self.initialized = True

    def preprocess(self, requests: list[Any]) -> list[dict[str, Any]]:
        """The bodies, which TorchServe has read."""
        return [request.get("data") or request.get("body") for request in requests]

    def inference(self, bodies: list[dict[str, Any]]) -> list[list[Any]]:
        """The article's similarity_search of each query; batched: all queries in one call of the model first."""
        with torch.inference_mode():
            if self.batched:
                vectors = self.embeddings.embed_documents([body["query"] for body in bodies])
                return [
                    self.store.similarity_search_by_vector(vector, k=body["k"])
                    for vector, body in zip(vectors, bodies, strict=True)
                ]
            return [self.store.similarity_search(body["query"], k=body["k"]) for body in bodies]

    def postprocess(self, found: list[list[Any]]) -> list[dict[str, Any]]:
        """For each query its passages."""
        return [
            {"passages": [{"source": each.metadata["source"], "text": each.page_content} for each in documents]}
            for documents in found
        ]
