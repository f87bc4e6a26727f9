"""Text generation under TorchServe: initialize, preprocess, inference, postprocess, in either of two ways to batch.

continuousBatching: true: TorchServe sends every open request in every round, and each round answers what the engine has
made meanwhile; requests join, end and go away one by one. Else a batch comes whole, and its micro-batches overlap in
preprocess, inference and postprocess (the `micro_batching:` section), with streams sent while the batch runs.
A request that is wrong gets its own 4xx; the others never notice.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import torch

from servekit import model_list, pinning
from servekit.engines import load_engine
from servekit.engines.base import FixedInbox, Step
from servekit.errors import RequestError, overloaded
from servekit.generation.loop import EngineLoop
from servekit.generation.requests import Limits, parse
from servekit.generation.sessions import Batch, Session, read_eos_ids
from servekit.log import log, quiet_worker
from servekit.metrics import (
    CANCELLED,
    FAILED,
    OCCUPANCY,
    QUEUE,
    RECOMPILES,
    REFUSED,
    SERVED,
    TOKENIZE,
    TOKENS_IN,
    TOKENS_OUT,
    TOKENS_SAVED,
    TPOT,
    TTFT,
    Recorder,
)
from servekit.micro_batching import Failed, Pipeline
from servekit.model_list import render_models
from servekit.settings import LlamaSettings, MicroBatching
from servekit.wire import Row, header, read_body, send, send_error, url_path

DEFAULT_RESPONSE_TIMEOUT_S = 120
# TorchServe kills a worker at responseTimeout: what is not done by then is answered before.
USABLE_SHARE_OF_TIMEOUT = 0.9


class LlamaHandler:
    """One worker's model. TorchServe makes one instance and calls initialize once, then handle for each batch."""

    def initialize(self, context: Any) -> None:
        """Take this worker's CPUs or devices, load tokenizer and engine, warm every size up, start the engine."""
        quiet_worker()
        config = context.model_yaml_config
        model_dir = Path(context.system_properties["model_dir"])
        self.name = context.model_name
        self.settings = LlamaSettings.model_validate(config.get("handler", {}))
        self.continuous = bool(config.get("continuousBatching"))
        micro = MicroBatching.model_validate(config.get("micro_batching", {}))
        batch_size = context.system_properties["batch_size"] or 1
        rows = micro.micro_batch_size if "micro_batching" in config and not self.continuous else batch_size
        rows = rows if self.settings.max_batch == "auto" else self.settings.max_batch
        self.timeout_s = config.get("responseTimeout", DEFAULT_RESPONSE_TIMEOUT_S) * USABLE_SHARE_OF_TIMEOUT
        claimed = pinning.claim(self.settings, config)
        torch.set_num_threads(claimed.threads)

        started = time.perf_counter()
        self.tokenizer, self.eos_ids = self._load_tokenizer(model_dir / self.settings.model_checkpoint_dir)
        # TorchServe gives the processes of a split model no gpu_id, and shows them their GPUs alone.
        gpu = os.environ.get("LOCAL_RANK", context.system_properties["gpu_id"])
        on_gpu = torch.cuda.is_available() and gpu is not None
        if on_gpu:
            torch.cuda.set_device(int(gpu))
        self.engine = load_engine(
            self.name,
            model_dir,
            self.settings,
            rows=rows,
            device="cuda" if on_gpu else "cpu",
            place=claimed.place,
            workers=config.get("maxWorkers") or 1,
        )
        loaded = time.perf_counter()
        for shape, seconds in self.engine.warmup():
            log.info("%s: warmed %s in %.2f s", self.name, shape, seconds)
        able = self.engine.capabilities
        self.limits = Limits(
            self.name,
            able.max_length,
            self.settings.default_max_new_tokens,
            self.settings.max_stop_strings,
            able.logprobs,
        )
        self.metrics = Recorder(context.metrics, self.name)
        self.open: dict[str, Session | None] = {}
        self.engine_lock = threading.Lock()
        self.recompiles = 0
        if self.engine.rank != 0:
            threading.Thread(target=self._follow, name="engine", daemon=True).start()
        elif self.continuous:
            self.loop = EngineLoop(self.engine)
            self.loop.start()
        else:
            self.pipeline = self._make_pipeline(micro, able.max_batch if "micro_batching" not in config else None)
        log.info(
            "%s: engine %s, %d rows of %d positions, %s, loaded in %.2f s, warmed in %.2f s; %s",
            self.name,
            self.settings.chosen_engine,
            able.max_batch,
            able.max_length,
            claimed.text,
            loaded - started,
            time.perf_counter() - loaded,
            ", ".join(f"{key} {value}" for key, value in self.engine.fingerprint().items()),
        )

    def handle(self, data: list[Row], context: Any) -> list[bytes]:
        """Answer one batch, or one round of those that are open: a body a request, in the same order."""
        if self.engine.rank != 0:
            return [b""] * len(data)  # TorchServe sends a batch to all processes of a split model, and hears rank 0's
        if self.continuous:
            return self._handle_round(data, context)
        batch = Batch(context)
        lists = [place for place in range(len(data)) if self._asks_for_list(context, place)]
        items = [(place, row, batch) for place, row in enumerate(data) if place not in lists]
        outcomes = self.pipeline.run(items, self.timeout_s)
        batch.end()
        replies = {place: send(context, place, render_models(self.name)) for place in lists}
        for (place, _, _), outcome in zip(items, outcomes, strict=True):
            replies[place] = self._outcome(batch, place, outcome)
        return [replies[place] for place in range(len(data))]

    def preprocess(self, row: Row, headers: Any, key: str) -> Session:
        """A request with its prompt in token ids. Raises RequestError."""
        started = time.perf_counter()
        body = read_body(row, headers, self.settings.max_request_bytes)
        request = parse(body, url_path(headers), self.tokenizer, self.limits, header(headers, "accept"))
        self.metrics.observe(TOKENIZE, time.perf_counter() - started)
        self.metrics.observe(TOKENS_IN, len(request.prompt_ids))
        return Session(key, request, self.tokenizer, self.eos_ids)

    def inference(self, batch: Batch, sessions: dict[int, Session]) -> dict[int, bytes]:
        """Run a micro-batch to its end, streams going out as they are made. Returns what is left to send, by place."""
        inbox = FixedInbox([session.prompt for session in sessions.values()])
        left = dict.fromkeys(sessions, b"")
        with self.engine_lock:
            for steps in self._streams(inbox, sessions):
                chunks: dict[int, bytes] = {}
                for place, session in sessions.items():
                    chunk = session.feed([step for step in steps if step.key == session.prompt.key])
                    if session.cut_short or batch.over:
                        inbox.cancel(session.prompt.key)
                    if session.request.stream and not session.failed:
                        chunks[place] = chunk
                    else:
                        left[place] += chunk
                batch.send({place: chunk for place, chunk in chunks.items() if chunk})
        for place, session in sessions.items():
            if not session.done:
                left[place] += session.fail("the engine ended without an answer")
        return left

    def postprocess(self, session: Session) -> None:
        """Count what a request came to."""
        self.metrics.observe(TOKENS_OUT, session.tokens)
        self.metrics.observe(SERVED, session.seconds)
        if session.failed:
            self.metrics.observe(FAILED, 1)
        if session.first_token_s is not None:
            self.metrics.observe(TTFT, session.first_token_s)
        if (seconds := session.seconds_per_token) is not None:
            self.metrics.observe(TPOT, seconds)

    def _handle_round(self, data: list[Row], context: Any) -> list[bytes]:
        """One round of continuous batching (ContinuousBatching.java).

        A request that was here before comes without its body, and one whose client has gone does not come. Each must be
        answered in each round. The header ts_stream_next says whether there will be more, and the first answer must not
        be the last: "false" in the first would leave the client without a status line (RestJob.java). A refusal has no
        such header: behind a status of 400 or more the connection is closed, and what came later would be lost.
        """
        keys: dict[int, str] = context.request_ids
        for key in self.open.keys() - set(keys.values()):
            self._give_up(key)
        is_first = {place: key not in self.open for place, key in keys.items()}
        replies = [b""] * len(data)
        for place, key in keys.items():
            if is_first[place]:
                replies[place] = self._admit(data[place], context, place, key)
        # Whoever has just come gets a status line, whoever has had everything is let go: neither waits.
        hurry = any(is_first.values()) or any(self.open[key] is None for key in keys.values())
        gained = self.loop.collect(0.0 if hurry else self.settings.heartbeat_s)
        is_last: dict[int, bool | None] = {}
        for place, key in keys.items():
            session = self.open[key]
            if session is not None:
                replies[place] += self._advance(session, gained.get(key, []))
                context.set_response_content_type(place, session.content_type)
            ended = session is None or session.done
            is_last[place] = ended and not is_first[place]
            if is_first[place] and context.get_response_status(place)[0] not in (None, HTTPStatus.OK):
                is_last[place] = None
            if ended:
                self.open[key] = None
            if is_last[place]:
                del self.open[key]
        context.stopping_criteria = [lambda _, last=is_last[place]: last for place in range(len(data))]
        self._observe_round(gained)
        return replies

    def _admit(self, row: Row, context: Any, place: int, key: str) -> bytes:
        """Begin a request, or refuse it; what to send of it now."""
        if self._asks_for_list(context, place):
            self.open[key] = None
            return send(context, place, render_models(self.name))
        try:
            session = self.preprocess(row, context.get_all_request_header(place), key)
        except RequestError as error:
            self.open[key] = None
            return self._refuse(context, place, error)
        self.open[key] = session
        self.loop.submit(session.prompt)
        return b""

    def _advance(self, session: Session, steps: list[Step]) -> bytes:
        chunk = session.feed(steps)
        if session.cut_short:
            self.loop.cancel(session.prompt.key)
        if session.done:
            self.postprocess(session)
        return chunk

    def _give_up(self, key: str) -> None:
        """A client has gone."""
        session = self.open.pop(key)
        if session is None:
            return
        self.loop.cancel(key)
        self.metrics.observe(CANCELLED, 1)
        self.metrics.observe(TOKENS_SAVED, session.saved_tokens)
        self.metrics.observe(TOKENS_OUT, session.tokens)

    def _observe_round(self, gained: dict[str, list[Step]]) -> None:
        if self.engine.recompiles > self.recompiles:
            self.metrics.observe(RECOMPILES, self.engine.recompiles - self.recompiles)
            self.recompiles = self.engine.recompiles
        if gained:
            self.metrics.observe(OCCUPANCY, len(gained) / self.engine.capabilities.max_batch)
        while self.loop.waits_s:
            self.metrics.observe(QUEUE, self.loop.waits_s.popleft())

    def _streams(self, inbox: FixedInbox, sessions: dict[int, Session]) -> Iterator[list[Step]]:
        """The engine's streams until all have their end: one takes no more rows than it has room for."""
        for _ in sessions:
            if all(session.done for session in sessions.values()):
                return
            yield from self.engine.stream(inbox)

    def _follow(self) -> None:
        """A follower's work. It ends with the process: TorchServe then starts all of them again."""
        try:
            self.engine.follow()
        except RuntimeError as error:
            log.error("%s: rank 0 is gone: %s", self.name, error)
        finally:
            os._exit(1)

    def _make_pipeline(self, micro: MicroBatching, size: int | None) -> Pipeline:
        """size: of a micro-batch where the configuration has none."""
        threads = micro.parallelism
        return Pipeline(
            [
                ("preprocess", self._stage_preprocess, threads.preprocess),
                ("inference", self._stage_inference, threads.inference),
                ("postprocess", self._stage_postprocess, threads.postprocess),
            ],
            micro_batch_size=size or micro.micro_batch_size,
        )

    def _stage_preprocess(self, items: list[tuple[int, Row, Batch]]) -> list[Any]:
        made: list[Any] = []
        for place, row, batch in items:
            try:
                headers, key = batch.context.get_all_request_header(place), batch.context.request_ids[place]
                batch.sessions[place] = self.preprocess(row, headers, key)
                made.append((place, batch))
            except RequestError as error:
                made.append(error)
        return made

    def _stage_inference(self, items: list[tuple[int, Batch]]) -> list[Any]:
        batch = items[0][1]
        left = self.inference(batch, {place: batch.sessions[place] for place, _ in items})
        return [(place, batch, left[place]) for place, _ in items]

    def _stage_postprocess(self, items: list[tuple[int, Batch, bytes]]) -> list[bytes]:
        for place, batch, _ in items:
            self.postprocess(batch.sessions[place])
        return [left for _, _, left in items]

    def _outcome(self, batch: Batch, place: int, outcome: Any) -> bytes:
        """The last bytes of one of a batch's requests."""
        context, session = batch.context, batch.sessions.get(place)
        if session is None:
            if isinstance(outcome, Failed) and isinstance(outcome.error, RequestError):
                return self._refuse(context, place, outcome.error)
            context.set_response_header(place, "Retry-After", "1")
            return self._refuse(context, place, overloaded())  # its turn never came
        if isinstance(outcome, Failed):
            log.error("%s: a request failed: %r", self.name, outcome.error)
            self.metrics.observe(FAILED, 1)
            outcome = session.fail(f"{type(outcome.error).__name__}: {outcome.error}")
        failed = session.failed and not session.request.stream
        context.set_response_status(*((503, "Service Unavailable") if failed else (200, "OK")), place)
        context.set_response_content_type(place, session.content_type)
        body: bytes = outcome
        return body

    def _asks_for_list(self, context: Any, place: int) -> bool:
        return url_path(context.get_all_request_header(place)) == model_list.PATH

    def _refuse(self, context: Any, place: int, error: RequestError) -> bytes:
        self.metrics.observe(REFUSED, 1)
        return send_error(context, place, error)

    def _load_tokenizer(self, folder: Path) -> tuple[Any, tuple[int, ...]]:
        from transformers import AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # TorchServe would log each of its states as a line
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return tokenizer, read_eos_ids(folder, tokenizer)
