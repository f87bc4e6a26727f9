"""Text embeddings under TorchServe: initialize, preprocess, inference, postprocess.

Dialects: plain text, {"inputs": …}, OpenAI embeddings at /predictions/<model>/<version>/v1/embeddings, and the same
bodies posted to /invocations. A request that is wrong gets its own 4xx; the others in the batch never notice.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from servekit import model_list, pinning
from servekit.batching import count_admitted, padding_waste
from servekit.embedder import TextEmbedder
from servekit.embedding_requests import EmbeddingRequest, parse_request, render_reply
from servekit.errors import RequestError, overloaded
from servekit.log import log, quiet_worker
from servekit.metrics import (
    BATCH_FILL,
    FORWARD,
    PADDING,
    RECOMPILES,
    REFUSED,
    TEXTS,
    TOKENIZE,
    TRUNCATED,
    Recorder,
)
from servekit.model_list import render_models
from servekit.settings import EmbeddingSettings
from servekit.tokenizer import TokenRow
from servekit.vectors import Vectors
from servekit.wire import Headers, Row, read_body, send, send_error, url_path

DEFAULT_RESPONSE_TIMEOUT_S = 120
# TorchServe kills a worker at responseTimeout; requests that would not be done by then are turned away before.
USABLE_SHARE_OF_TIMEOUT = 0.5


class EmbeddingHandler:
    """One worker's encoder. TorchServe makes one instance and calls initialize once, then handle for each batch."""

    def initialize(self, context: Any) -> None:
        """Load tokenizer and encoder, run every warm-up shape, measure the encoder's speed."""
        quiet_worker()
        config = context.model_yaml_config
        model_dir = Path(context.system_properties["model_dir"])
        self.name = context.model_name
        self.settings = EmbeddingSettings.model_validate(config.get("handler", {}))
        self.batch_size = context.system_properties["batch_size"] or 1

        cpus = pinning.claim(self.settings, config)
        torch.set_num_threads(cpus.threads)

        started = time.perf_counter()
        self.embedder = TextEmbedder(self.name, model_dir / "model", self.settings, model_dir / "artefacts")
        loaded = time.perf_counter()
        tokens_per_s = self.embedder.warm_up()
        timeout_s = config.get("responseTimeout", DEFAULT_RESPONSE_TIMEOUT_S)
        self.token_budget = tokens_per_s * timeout_s * USABLE_SHARE_OF_TIMEOUT
        self.metrics = Recorder(context.metrics, self.name)
        log.info(
            "%s: %s encoder, %s, loaded in %.2f s, warmed in %.2f s, %.0f tokens/s",
            self.name,
            self.embedder.encoder.mode,
            cpus.text,
            loaded - started,
            time.perf_counter() - loaded,
            tokens_per_s,
        )

    def handle(self, data: list[Row], context: Any) -> list[bytes]:
        """Answer one batch: data holds a row a request, the reply a body a request, in the same order."""
        replies: list[bytes] = [b""] * len(data)
        requests = self.preprocess(data, context, replies)
        rows = self.tokenize(requests, context, replies)
        vectors = self.inference([row for request_rows in rows.values() for row in request_rows])
        self.postprocess(requests, rows, vectors, context, replies)
        self.metrics.observe(BATCH_FILL, len(data) / self.batch_size)
        self.metrics.observe(RECOMPILES, self.embedder.recompiled())
        return replies

    def preprocess(self, data: list[Row], context: Any, replies: list[bytes]) -> dict[int, EmbeddingRequest]:
        """Parse every row; the replies of wrong ones are written here. Returns the others by their place in data."""
        requests: dict[int, EmbeddingRequest] = {}
        for index, row in enumerate(data):
            headers: Headers = context.get_all_request_header(index)
            path = url_path(headers)
            if path == model_list.PATH:
                replies[index] = send(context, index, render_models(self.name))
                continue
            try:
                body = read_body(row, headers, self.settings.max_request_bytes)
                requests[index] = self._checked(parse_request(body, path, self.name, self.embedder.dimension))
            except RequestError as error:
                replies[index] = self._refuse(context, index, error)
        return requests

    def tokenize(
        self, requests: dict[int, EmbeddingRequest], context: Any, replies: list[bytes]
    ) -> dict[int, list[TokenRow]]:
        """Token ids of every text; requests that are too long, or too many for the time there is, leave here."""
        started = time.perf_counter()
        flat = iter(self.embedder.tokenizer([text for request in requests.values() for text in request.texts]))
        rows = {index: [next(flat) for _ in request.texts] for index, request in requests.items()}
        self.metrics.observe(TOKENIZE, time.perf_counter() - started)

        for index in [i for i, request in requests.items() if not request.truncate]:
            too_long = [place for place, row in enumerate(rows[index]) if row.truncated]
            if too_long:
                message = f"text {too_long[0]} is longer than the model's {self.embedder.spec.max_length} tokens"
                replies[index] = self._refuse(context, index, RequestError(413, "text_too_long", message))
                del rows[index]

        costs = [sum(len(row.ids) for row in request_rows) for request_rows in rows.values()]
        for index in list(rows)[count_admitted(costs, self.token_budget) :]:
            context.set_response_header(index, "Retry-After", "1")
            replies[index] = self._refuse(context, index, overloaded())
            del rows[index]
        return rows

    def inference(self, rows: list[TokenRow]) -> Vectors:
        """Vectors of all rows, [rows, D] float32, in forward passes of rows of similar length."""
        started = time.perf_counter()
        vectors, slots = self.embedder.embed(rows)
        if rows:
            self.metrics.observe(FORWARD, time.perf_counter() - started)
            self.metrics.observe(PADDING, padding_waste(sum(len(row.ids) for row in rows), slots))
        return vectors

    def postprocess(
        self,
        requests: dict[int, EmbeddingRequest],
        rows: dict[int, list[TokenRow]],
        vectors: Vectors,
        context: Any,
        replies: list[bytes],
    ) -> None:
        """Write the reply of every request that has rows."""
        start = 0
        for index, request_rows in rows.items():
            end = start + len(request_rows)
            tokens = sum(len(row.ids) for row in request_rows)
            replies[index] = send(context, index, render_reply(requests[index], vectors[start:end], tokens))
            start = end
        if start:
            self.metrics.observe(TEXTS, start)
        truncated = sum(row.truncated for request_rows in rows.values() for row in request_rows)
        if truncated:
            self.metrics.observe(TRUNCATED, truncated)

    def _checked(self, request: EmbeddingRequest) -> EmbeddingRequest:
        limit = self.settings.max_texts_per_request
        if len(request.texts) > limit:
            raise RequestError(
                413, "too_many_texts", f"{len(request.texts)} texts in one request, the limit is {limit}"
            )
        return request

    def _refuse(self, context: Any, index: int, error: RequestError) -> bytes:
        self.metrics.observe(REFUSED, 1)
        return send_error(context, index, error)
