"""sentence-transformers behind LitServe: python -m loadtest.peers.litserve_server MODEL_FOLDER PORT THREADS.

LitServe's own batching, with the kit's batch size and delay; one worker with all threads and one process for HTTP.
Takes {"inputs": "…"} and answers {"embedding": […]}. Runs where there is nothing of the kit.
"""

from __future__ import annotations

import sys
from typing import Any

import litserve  # type: ignore[import-not-found,unused-ignore]
import torch

BATCH = 32
BATCH_TIMEOUT_S = 0.001


class Embeddings(litserve.LitAPI):  # type: ignore[misc,unused-ignore]
    """LitServe's four steps."""

    def __init__(self, folder: str, threads: int) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=BATCH_TIMEOUT_S, api_path="/predictions/minilm")
        self.folder, self.threads = folder, threads

    def setup(self, device: str) -> None:
        """Load the model, in the worker."""
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(self.threads)
        self.model = SentenceTransformer(self.folder, device=device, local_files_only=True)

    def decode_request(self, request: dict[str, str]) -> str:
        """The text."""
        return request["inputs"]

    def predict(self, texts: list[str]) -> Any:
        """Vectors of a batch."""
        with torch.inference_mode():
            return self.model.encode(texts, batch_size=BATCH, show_progress_bar=False)

    def encode_response(self, vector: Any) -> dict[str, list[float]]:
        """The reply."""
        return {"embedding": vector.tolist()}


def main(folder: str, port: str, threads: str) -> None:
    """Serve until killed."""
    server = litserve.LitServer(
        Embeddings(folder, int(threads)), accelerator="cpu", devices=1, workers_per_device=1, timeout=300
    )
    server.run(host="127.0.0.1", port=int(port), num_api_servers=1, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
