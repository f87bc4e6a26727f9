"""One request from its tokens to its last byte. Knows nothing of engines, batches or TorchServe's ways to send."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from servekit.engines.base import Prompt, Step
from servekit.generation.replies import Reply, Usage
from servekit.generation.requests import GenerationRequest
from servekit.generation.text import TextStream
from servekit.streaming import BatchStream


class Session:
    """feed() it a row's steps, send what it returns; done when there will be no more.

    cut_short: it is done and its row is not: the row is to be cancelled. failed: it ended with an error.
    first_token_s: from its making to its first token, None before that.
    """

    def __init__(self, key: str, request: GenerationRequest, tokenizer: Any, eos_ids: tuple[int, ...]) -> None:
        self.request = request
        stops = () if request.ignore_eos else eos_ids
        self.prompt = Prompt(key, request.prompt_ids, request.max_new_tokens, request.sampling, stops)
        self._text = TextStream(tokenizer, request.stop, request.prompt_ids)
        self._reply = Reply(request, key, int(time.time()), tokenizer)
        self._began_s = time.perf_counter()
        self.first_token_s: float | None = None
        self.tokens = 0
        self.done = self.cut_short = self.failed = False

    @property
    def content_type(self) -> str:
        """Of the whole reply."""
        return self._reply.content_type

    @property
    def usage(self) -> Usage:
        """So far."""
        return Usage(len(self.request.prompt_ids), self.tokens)

    @property
    def seconds_per_token(self) -> float | None:
        """Mean time of the tokens after the first; None when there is only one. For a session that is done."""
        if self.first_token_s is None or self.tokens < 2:
            return None
        return (self.seconds - self.first_token_s) / (self.tokens - 1)

    @property
    def seconds(self) -> float:
        """From its making until now."""
        return time.perf_counter() - self._began_s

    @property
    def saved_tokens(self) -> int:
        """What was asked for and not computed."""
        return self.request.max_new_tokens - self.tokens

    def feed(self, steps: Iterable[Step]) -> bytes:
        """What the client is to get for these steps."""
        return b"".join(self._feed(step) for step in steps if not self.done)

    def fail(self, message: str) -> bytes:
        """End it with an error: the dialect's own in a stream, a JSON body else."""
        self.done = self.failed = True
        return self._reply.error(message)

    def _feed(self, step: Step) -> bytes:
        if step.finish == "error":
            return self.fail(step.message)
        if step.finish == "cancelled":
            self.done = True
            return b""
        text = self._push(step)
        if self._text.stopped:
            self.done, self.cut_short = True, step.finish is None
            return self._reply.end("stop_string", self.usage, text, step)
        if step.finish:
            self.done = True
            text += self._text.finish()
            return self._reply.end("stop_string" if self._text.stopped else step.finish, self.usage, text, step)
        return self._reply.chunk(text, step)

    def _push(self, step: Step) -> str:
        if step.token_id is None and step.text is None:
            return ""
        self.tokens += 1
        if self.first_token_s is None:
            self.first_token_s = self.seconds
        return self._text.push_text(step.text or "") if step.token_id is None else self._text.push(step.token_id)


class Batch(BatchStream):
    """The requests of one batch that TorchServe sent whole. sessions: by place in it, of those that are no mistake."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.sessions: dict[int, Session] = {}

    def send(self, chunks: dict[int, bytes]) -> None:
        """Send these places' chunks now, while the batch runs; nothing once it is over."""
        self.send_chunks(chunks, {place: self.sessions[place].content_type for place in chunks})


def read_eos_ids(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer: of generation_config.json, else of config.json, else the tokenizer's."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        found = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
        if found is not None:
            return tuple(found) if isinstance(found, list) else (found,)
    return () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
