"""Image and text classification under TorchServe: initialize, preprocess, inference, postprocess.

Takes image files, texts, {"inputs": …} with either, and pixels that the client has prepared; answers labels with
scores, best first. A request that is wrong gets its own 4xx; the others in the batch never notice.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from servekit import pinning
from servekit.batching import count_admitted
from servekit.classifier_requests import ClassifierRequest, Floats, render_reply, scores_of
from servekit.classifiers import load_classifier
from servekit.classifiers.readers import load_reader
from servekit.errors import RequestError, overloaded
from servekit.log import log, quiet_worker
from servekit.metrics import BATCH_FILL, FORWARD, ITEMS, READ, REFUSED, TRUNCATED, Recorder
from servekit.settings import ClassifierSettings
from servekit.wire import Row, read_body, send, send_error, url_path

DEFAULT_RESPONSE_TIMEOUT_S = 120
# TorchServe kills a worker at responseTimeout; requests that would not be done by then are turned away before.
USABLE_SHARE_OF_TIMEOUT = 0.5
WARMUP_RUNS = 2


class ClassifierHandler:
    """One worker's model. TorchServe makes one instance and calls initialize once, then handle for each batch."""

    def initialize(self, context: Any) -> None:
        """Take this worker's CPUs, load the model on the ladder's step, warm it up, measure its speed."""
        quiet_worker()
        config = context.model_yaml_config
        model_dir = Path(context.system_properties["model_dir"])
        self.name = context.model_name
        self.settings = ClassifierSettings.model_validate(config.get("handler", {}))
        self.batch_size = context.system_properties["batch_size"] or 1
        claimed = pinning.claim(self.settings, config)
        torch.set_num_threads(claimed.threads)

        started = time.perf_counter()
        self.reader = load_reader(self.name, model_dir / "model", self.settings)
        self.spec = self.reader.spec
        self.step, self.run = load_classifier(self.spec, self.settings, model_dir / "artefacts")
        loaded = time.perf_counter()
        units_per_s = self._warm_up()
        timeout_s = config.get("responseTimeout", DEFAULT_RESPONSE_TIMEOUT_S)
        self.budget = units_per_s * timeout_s * USABLE_SHARE_OF_TIMEOUT
        self.metrics = Recorder(context.metrics, self.name)
        log.info(
            "%s: step %s, %s, loaded in %.2f s, warmed in %.2f s, %.0f %s/s",
            self.name,
            self.step,
            claimed.text,
            loaded - started,
            time.perf_counter() - loaded,
            units_per_s,
            "tokens" if self.spec.is_text else "images",
        )

    def handle(self, data: list[Row], context: Any) -> list[bytes]:
        """Answer one batch: data holds a row a request, the reply a body a request, in the same order."""
        replies: list[bytes] = [b""] * len(data)
        requests, examples = self.preprocess(data, context, replies)
        logits = self.inference([example for own in examples.values() for example in own])
        self.postprocess(requests, examples, logits, context, replies)
        self.metrics.observe(BATCH_FILL, len(data) / self.batch_size)
        return replies

    def preprocess(
        self, data: list[Row], context: Any, replies: list[bytes]
    ) -> tuple[dict[int, ClassifierRequest], dict[int, list[Any]]]:
        """Requests and their examples by place in data; the replies of those that are wrong are written here."""
        started = time.perf_counter()
        requests: dict[int, ClassifierRequest] = {}
        examples: dict[int, list[Any]] = {}
        for index, row in enumerate(data):
            try:
                request = self._parse(row, context.get_all_request_header(index))
                examples[index] = self.reader.read(request.items)
                requests[index] = request
            except RequestError as error:
                replies[index] = self._refuse(context, index, error)
        costs = [sum(map(self.reader.cost, own)) for own in examples.values()]
        for index in list(examples)[count_admitted(costs, self.budget) :]:
            context.set_response_header(index, "Retry-After", "1")
            replies[index] = self._refuse(context, index, overloaded())
            del examples[index]
        self.metrics.observe(READ, time.perf_counter() - started)
        return requests, examples

    def inference(self, examples: list[Any]) -> Floats:
        """Logits of all examples, [examples, C] float32."""
        logits = np.empty((len(examples), len(self.spec.labels)), dtype=np.float32)
        if not examples:
            return logits
        started = time.perf_counter()
        for group in self.reader.groups(examples, self.run.sizes):
            logits[group] = self.run(self.reader.stack([examples[index] for index in group])).numpy()
        self.metrics.observe(FORWARD, time.perf_counter() - started)
        return logits

    def postprocess(
        self,
        requests: dict[int, ClassifierRequest],
        examples: dict[int, list[Any]],
        logits: Floats,
        context: Any,
        replies: list[bytes],
    ) -> None:
        """Write the reply of every request that has examples."""
        start = 0
        for index, own in examples.items():
            request, end = requests[index], start + len(own)
            try:
                scores = scores_of(logits[start:end], request.function or self.spec.function)
                replies[index] = send(context, index, render_reply(request, scores, self.spec.labels))
            except RequestError as error:
                replies[index] = self._refuse(context, index, error)
            start = end
        if start:
            self.metrics.observe(ITEMS, start)
        truncated = sum(self.reader.truncated(example) for own in examples.values() for example in own)
        if truncated:
            self.metrics.observe(TRUNCATED, truncated)

    def _parse(self, row: Row, headers: Any) -> ClassifierRequest:
        path = url_path(headers)
        if path:
            raise RequestError(404, "unknown_path", f"no such path: {path!r}; post to the model itself")
        request = self.reader.parse(read_body(row, headers, self.settings.max_request_bytes, self.reader.binary))
        return replace(request, top_k=min(request.top_k, len(self.spec.labels)))

    def _warm_up(self) -> float:
        """Run every size, check the number of classes. Returns images/s, or tokens/s, at the largest.

        Texts also at their greatest length: a model that has fewer positions than its files say fails here, not later.
        """
        if self.spec.is_text:
            self.run(self.spec.example(1, self.spec.max_length))
        for size in self.run.sizes or self.spec.batch_sizes:
            inputs = self.spec.example(size)
            for _ in range(WARMUP_RUNS):
                classes = self.run(inputs).shape[1]
        if classes != len(self.spec.labels):
            raise ValueError(f"{self.name}: the model has {classes} classes, its labels are {len(self.spec.labels)}")
        started = time.perf_counter()
        self.run(inputs)
        units = inputs[0].numel() if self.spec.is_text else size
        return units / (time.perf_counter() - started)

    def _refuse(self, context: Any, index: int, error: RequestError) -> bytes:
        self.metrics.observe(REFUSED, 1)
        return send_error(context, index, error)
