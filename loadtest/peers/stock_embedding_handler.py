"""What a TorchServe user has who follows PyTorch's articles on embeddings on CPUs: the comparison's other side.

AutoModel and AutoTokenizer, mean pooling over a padded batch, TorchServe's BaseHandler; with `compiled`, the articles'
torch.compile with frozen and prepacked weights. Takes {"inputs": "…"}. Runs inside a worker, where there is nothing of
the kit.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer
from ts.torch_handler.base_handler import BaseHandler

MAX_LENGTH = 256


class StockEmbeddingHandler(BaseHandler):  # type: ignore[misc]
    """One worker's model."""

    def initialize(self, context: Any) -> None:
        """Load model and tokenizer."""
        settings = context.model_yaml_config["handler"]
        self.tokenizer = AutoTokenizer.from_pretrained(settings["model"])
        self.model: Any = AutoModel.from_pretrained(settings["model"]).eval()
        if settings["compiled"]:
            import torch._inductor.config as inductor

            inductor.freezing = True
            inductor.cpp.weight_prepack = True
            self.model = torch.compile(self.model)
        self.initialized = True

    def preprocess(self, requests: list[Any]) -> Any:
        """Token ids of the batch, padded to its longest text."""
        bodies = [request.get("data") or request.get("body") for request in requests]
        texts = [body["inputs"] for body in bodies]
        return self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")

    def inference(self, encoded: Any) -> torch.Tensor:
        """Vectors of the batch."""
        with torch.inference_mode():
            hidden = self.model(**encoded).last_hidden_state  # [B, L, D]
            mask = encoded["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            return torch.nn.functional.normalize(mean, dim=1)

    def postprocess(self, vectors: torch.Tensor) -> list[list[float]]:
        """A list for each request."""
        found: list[list[float]] = vectors.tolist()
        return found
