"""Retrieval under TorchServe: initialize, preprocess, inference, postprocess.

A query, in plain text or {"query", "k", "filters"}, gets passages with scores and sources, and a ready prompt. With
handler.answer the OpenAI paths v1/completions and v1/chat/completions get an answer written from them, by another
server, whole or as a stream. All queries of a batch share one call of the encoder and one search.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from servekit import model_list, pinning
from servekit.batching import count_admitted, padding_waste
from servekit.embedder import TextEmbedder
from servekit.errors import RequestError, overloaded
from servekit.log import log, quiet_worker
from servekit.metrics import (
    ANSWER,
    BATCH_FILL,
    FAILED,
    FORWARD,
    PADDING,
    RECOMPILES,
    REFUSED,
    SEARCH,
    TEXTS,
    TOKENIZE,
    TRUNCATED,
    Recorder,
)
from servekit.model_list import render_models
from servekit.retrieval.answers import EVENT_STREAM, AnswerFailed, answer
from servekit.retrieval.index import Index, encoder_fingerprint
from servekit.retrieval.passages import Passage
from servekit.retrieval.prompt import prompt_of
from servekit.retrieval.requests import RetrievalRequest, parse_request, render_reply, source_of
from servekit.settings import RetrievalSettings
from servekit.streaming import BatchStream
from servekit.tokenizer import TokenRow
from servekit.wire import Headers, Row, header, read_body, send, send_error, url_path

DEFAULT_RESPONSE_TIMEOUT_S = 120
# TorchServe kills a worker at responseTimeout; requests that would not be done by then are turned away before.
USABLE_SHARE_OF_TIMEOUT = 0.5
Found = list[tuple[Passage, float]]


class RetrievalHandler:
    """One worker's encoder and index. TorchServe calls initialize once, then handle for each batch."""

    def initialize(self, context: Any) -> None:
        """Load encoder and index, refuse them when they do not belong together, run every warm-up shape."""
        quiet_worker()
        config = context.model_yaml_config
        model_dir = Path(context.system_properties["model_dir"])
        self.name = context.model_name
        self.settings = RetrievalSettings.model_validate(config.get("handler", {}))
        self.batch_size = context.system_properties["batch_size"] or 1

        cpus = pinning.claim(self.settings, config)
        torch.set_num_threads(cpus.threads)

        started = time.perf_counter()
        self.embedder = TextEmbedder(self.name, model_dir / "model", self.settings, model_dir / "artefacts")
        self.index = Index(model_dir / "index", encoder_fingerprint(self.embedder.spec), cpus.threads)
        loaded = time.perf_counter()
        tokens_per_s = self.embedder.warm_up()
        timeout_s = config.get("responseTimeout", DEFAULT_RESPONSE_TIMEOUT_S)
        self.token_budget = tokens_per_s * timeout_s * USABLE_SHARE_OF_TIMEOUT
        self.metrics = Recorder(context.metrics, self.name)
        log.info(
            "%s: %s encoder, %s index of %d passages, %s, loaded in %.2f s, warmed in %.2f s, %.0f tokens/s",
            self.name,
            self.embedder.encoder.mode,
            self.index.info.kind,
            self.index.info.passages,
            cpus.text,
            loaded - started,
            time.perf_counter() - loaded,
            tokens_per_s,
        )

    def handle(self, data: list[Row], context: Any) -> list[bytes]:
        """Answer one batch: data holds a row a request, the reply a body a request, in the same order."""
        replies: list[bytes] = [b""] * len(data)
        requests = self.preprocess(data, context, replies)
        found = self.inference(requests)
        self.postprocess(requests, found, context, replies)
        self.metrics.observe(BATCH_FILL, len(data) / self.batch_size)
        self.metrics.observe(RECOMPILES, self.embedder.recompiled())
        return replies

    def preprocess(
        self, data: list[Row], context: Any, replies: list[bytes]
    ) -> dict[int, tuple[RetrievalRequest, list[TokenRow]]]:
        """Parse and tokenize every row; the replies of wrong ones are written here. The others, by place in data."""
        requests: dict[int, RetrievalRequest] = {}
        for index, row in enumerate(data):
            headers: Headers = context.get_all_request_header(index)
            path = url_path(headers)
            if path == model_list.PATH:
                replies[index] = send(context, index, render_models(self.name))
                continue
            try:
                body = read_body(row, headers, self.settings.max_request_bytes)
                requests[index] = parse_request(body, path, self.name, self.settings)
            except RequestError as error:
                replies[index] = self._refuse(context, index, error)
        started = time.perf_counter()
        flat = iter(self.embedder.tokenizer([text for request in requests.values() for text in request.queries]))
        rows = {index: (request, [next(flat) for _ in request.queries]) for index, request in requests.items()}
        self.metrics.observe(TOKENIZE, time.perf_counter() - started)
        costs = [sum(len(row.ids) for row in own) for _, own in rows.values()]
        for index in list(rows)[count_admitted(costs, self.token_budget) :]:
            context.set_response_header(index, "Retry-After", "1")
            replies[index] = self._refuse(context, index, overloaded())
            del rows[index]
        return rows

    def inference(self, requests: dict[int, tuple[RetrievalRequest, list[TokenRow]]]) -> dict[int, list[Found]]:
        """For each request, for each of its queries, passages with scores: one search for all."""
        flat = [row for _, rows in requests.values() for row in rows]
        if not flat:
            return {}
        started = time.perf_counter()
        vectors, slots = self.embedder.embed(flat)
        embedded = time.perf_counter()
        ks = [request.k for request, rows in requests.values() for _ in rows]
        filters = [request.filters for request, rows in requests.values() for _ in rows]
        hits = iter(self.index.search(vectors, ks, filters))
        found = {
            index: [[(self.index.passages[hit.place], hit.score) for hit in next(hits)] for _ in rows]
            for index, (_, rows) in requests.items()
        }
        self.metrics.observe(FORWARD, embedded - started)
        self.metrics.observe(SEARCH, time.perf_counter() - embedded)
        self.metrics.observe(PADDING, padding_waste(sum(len(row.ids) for row in flat), slots))
        self.metrics.observe(TEXTS, len(flat))
        if truncated := sum(row.truncated for row in flat):
            self.metrics.observe(TRUNCATED, truncated)
        return found

    def postprocess(
        self,
        requests: dict[int, tuple[RetrievalRequest, list[TokenRow]]],
        found: dict[int, list[Found]],
        context: Any,
        replies: list[bytes],
    ) -> None:
        """Write the reply of every request that is left; answers are written by another server, all at once."""
        prompts = {index: self._prompts(request, found[index]) for index, (request, _) in requests.items()}
        to_answer = [index for index, (request, _) in requests.items() if request.answer is not None]
        for index, (request, _) in requests.items():
            if request.answer is None:
                replies[index] = send(context, index, render_reply(request, found[index], prompts[index]))
        if not to_answer:
            return
        stream = BatchStream(context)
        with ThreadPoolExecutor(len(to_answer)) as pool:
            for done in [
                pool.submit(
                    self._answer,
                    requests[index][0],
                    prompts[index][0],
                    [source_of(*hit) for hit in found[index][0]],
                    stream,
                    index,
                    replies,
                )
                for index in to_answer
            ]:
                done.result()
        stream.end()

    def _answer(
        self,
        request: RetrievalRequest,
        prompt: str,
        sources: Sequence[dict[str, Any]],
        stream: BatchStream,
        index: int,
        replies: list[bytes],
    ) -> None:
        """One answer, whole or streamed, into its place."""
        context, settings = stream.context, self.settings.answer
        assert settings is not None  # noqa: S101 - parse_request knows no path for answers without it
        started, began = time.perf_counter(), False

        def send_chunk(chunk: bytes) -> None:
            nonlocal began
            began = True
            stream.send_chunks({index: chunk}, {index: EVENT_STREAM})

        authorization = header(context.get_all_request_header(index), "authorization")
        try:
            body = answer(request, prompt, sources, settings, authorization, send_chunk)
            replies[index] = body if began else send(context, index, body)
        except RequestError as error:
            replies[index] = self._refuse(context, index, error)
        except AnswerFailed as error:
            self.metrics.observe(FAILED, 1)
            told = b"data: " + error.body + b"\n\n"
            replies[index] = told if began else send(context, index, error.body, 502, "Bad Gateway")
        self.metrics.observe(ANSWER, time.perf_counter() - started)

    def _prompts(self, request: RetrievalRequest, found: list[Found]) -> list[str]:
        if not request.with_prompt:
            return []
        settings = self.settings
        return [
            prompt_of(
                query,
                [passage for passage, _ in hits],
                settings.template,
                settings.passage_template,
                settings.max_context_chars,
            )
            for query, hits in zip(request.queries, found, strict=True)
        ]

    def _refuse(self, context: Any, index: int, error: RequestError) -> bytes:
        self.metrics.observe(REFUSED, 1)
        return send_error(context, index, error)
