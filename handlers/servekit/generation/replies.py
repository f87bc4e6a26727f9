"""What a client reads: plain text, TGI's server-sent lines, OpenAI's events, or one JSON answer. No sockets, no clock.

Text can be known later than its tokens, while a character or a stop string may still be going on. Such tokens wait:
plain text and OpenAI's dialects send nothing meanwhile; TGI sends their lines once there is text, all of it in the
last of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from servekit.engines.base import Step
from servekit.generation.requests import GenerationRequest
from servekit.generation.text import CUT, token_text

Ending = Literal["stop", "stop_string", "length"]
"""stop: an end-of-sequence token. stop_string: one of the request's. Other ends are errors, or nobody waits."""

OPENAI_FINISH: dict[Ending, str] = {"stop": "stop", "stop_string": "stop", "length": "length"}
TGI_FINISH: dict[Ending, str] = {"stop": "eos_token", "stop_string": "stop_sequence", "length": "length"}
# What OpenAI writes for "very unlikely": JSON has no infinity.
LEAST_LOGPROB = -9999.0
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Usage:
    """Tokens that were read and written."""

    prompt_tokens: int
    completion_tokens: int


class Reply:
    """The answer to one request.

    Every step goes in once, with the text that TextStream made certain by it: chunk for each but the last, then end
    for that one, with TextStream.finish's text too; error in its place when there is no good end. b"" means that
    there is nothing to send. For a request that does not stream, chunk only collects, and end is whole.
    """

    def __init__(self, request: GenerationRequest, request_id: str, created: int, tokenizer: Any = None) -> None:
        """created: Unix time in seconds. tokenizer: names tokens, where the request asks for details or log
        probabilities. Raises ValueError where it asks and there is none."""
        self._request = request
        self._wants_logprobs = request.sampling.logprobs is not None
        if tokenizer is None and (request.details or self._wants_logprobs):
            raise ValueError("details and log probabilities name tokens: a tokenizer is needed")
        self._tokenizer = tokenizer
        self._texts: list[str] = []
        self._waiting: list[Step] = []
        self._begun = False
        self._prompt = request.prompt_text if request.return_full_text else ""
        # text_offset of the tokens that wait, as far as they have a text. The names of cut characters are no measure
        # of it, so every text that is certain begins anew.
        self._places_tokens = self._wants_logprobs and request.dialect == "completions"
        self._chars = len(self._prompt)
        self._offsets: list[int] = []
        if request.dialect == "chat":
            kind, head = "chat.completion.chunk" if request.stream else "chat.completion", "chatcmpl"
        else:
            kind, head = "text_completion", "cmpl"
        self._identity = {"id": f"{head}-{request_id}", "object": kind, "created": created, "model": request.model}

    @property
    def content_type(self) -> str:
        """Of the whole reply."""
        if not self._request.stream:
            return "application/json"
        return "text/plain; charset=utf-8" if self._request.dialect == "text" else "text/event-stream"

    def chunk(self, text: str, step: Step | None = None) -> bytes:
        """What a step adds to a stream."""
        self._take(text, step)
        if not self._request.stream or not text:
            return b""
        if self._request.dialect == "text":
            return text.encode()
        if self._request.dialect == "tgi":
            return b"".join(self._tgi_line(each, part) for each, part in self._settle(text))
        return self._openai_event([self._openai_choice(text, None)])

    def end(self, finish: Ending, usage: Usage, text: str = "", step: Step | None = None) -> bytes:
        """The last bytes."""
        if not self._request.stream:
            return self.whole(finish, usage, text, step)
        self._take(text, step)
        if self._request.dialect == "text":
            return text.encode()
        if self._request.dialect == "tgi":
            *lines, last = self._settle(text)
            summary = {"generated_text": self._full_text(), "details": self._tgi_details(finish, usage)}
            return b"".join(self._tgi_line(*line) for line in lines) + self._tgi_line(*last, summary)
        events = self._openai_event([self._openai_choice(text, finish)])
        if self._request.include_usage:
            events += self._openai_event([], _openai_usage(usage))
        return events + DONE

    def whole(self, finish: Ending, usage: Usage, text: str = "", step: Step | None = None) -> bytes:
        """The one JSON answer of a request that does not stream."""
        self._take(text, step)
        if self._request.dialect in ("text", "tgi"):
            answer: dict[str, Any] = {"generated_text": self._full_text()}
            if self._request.details:
                tokens = [self._tgi_token(each, self._name(each)) for each in self._waiting]
                answer["details"] = self._tgi_details(finish, usage) | {"prefill": [], "tokens": tokens}
                if self._request.sampling.logprobs:
                    answer["details"]["top_tokens"] = [self._tgi_alternatives(each) for each in self._waiting]
            return orjson.dumps([answer])
        text = "".join(self._texts)
        choice = self._openai_choice(text, finish)
        if self._request.dialect == "chat":
            del choice["delta"]
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        return orjson.dumps(self._identity | {"choices": [choice], "usage": _openai_usage(usage)})

    def error(self, message: str, code: str = "generation_failed") -> bytes:
        """What tells that a reply cannot go on: the dialect's event in a stream, else the body of an error reply."""
        body = orjson.dumps({"error": {"message": message, "type": "server_error", "code": code}})
        if not self._request.stream:
            return body
        if self._request.dialect == "text":
            return f"\n[error] {message}\n".encode()
        if self._request.dialect == "tgi":
            return _tgi_event({"error": message, "error_type": "generation"})
        return b"data: " + body + b"\n\n"

    def _take(self, text: str, step: Step | None) -> None:
        self._texts.append(text)
        if step is not None and self._tells(step):
            self._waiting.append(step)
        start, self._chars = self._chars, self._chars + len(text)
        if text and self._places_tokens:
            for waited in self._waiting[len(self._offsets) :]:
                self._offsets.append(min(start, self._chars))
                start += len(self._name(waited))

    def _tells(self, step: Step) -> bool:
        """Whether the reply has something of the token itself."""
        if self._request.dialect == "tgi":
            return step.token_id is not None or bool(step.text)
        return self._wants_logprobs and step.logprob is not None

    def _settle(self, text: str) -> list[tuple[Step | None, str]]:
        """The steps that waited, all text with the last; None where text or the end comes without one."""
        waited, self._waiting = self._waiting, []
        return [*((step, "") for step in waited[:-1]), (waited[-1] if waited else None, text)]

    def _full_text(self) -> str:
        return self._prompt + "".join(self._texts)

    def _name(self, step: Step) -> str:
        return step.text or "" if step.token_id is None else token_text(self._tokenizer, step.token_id)

    def _tgi_line(self, step: Step | None, text: str, summary: dict[str, Any] | None = None) -> bytes:
        event = {"token": self._tgi_token(step, text), **(summary or {"generated_text": None, "details": None})}
        if step is not None and self._request.sampling.logprobs:
            event["top_tokens"] = self._tgi_alternatives(step)
        return _tgi_event(event)

    def _tgi_token(self, step: Step | None, text: str) -> dict[str, Any]:
        if step is not None:
            logprob = None if step.logprob is None else _finite(step.logprob)
            return {"id": step.token_id, "text": text, "logprob": logprob, "special": False}
        # TGI's clients expect a token in every line, and leave out the text of special ones. Engines do not report
        # the one that ended the row, so here it stands without its text.
        end_id = None if text else getattr(self._tokenizer, "eos_token_id", None)
        return {"id": end_id, "text": text, "logprob": None, "special": not text}

    def _tgi_alternatives(self, step: Step) -> list[dict[str, Any]]:
        return [
            {"id": each, "text": token_text(self._tokenizer, each), "logprob": _finite(logprob), "special": False}
            for each, logprob in step.top_logprobs
        ]

    def _tgi_details(self, finish: Ending, usage: Usage) -> dict[str, Any]:
        return {
            "finish_reason": TGI_FINISH[finish],
            "generated_tokens": usage.completion_tokens,
            "seed": self._request.sampling.seed,
        }

    def _openai_event(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        event = self._identity | {"choices": choices}
        if self._request.include_usage:
            event["usage"] = usage
        return b"data: " + orjson.dumps(event) + b"\n\n"

    def _openai_choice(self, text: str, finish: Ending | None) -> dict[str, Any]:
        """The steps that waited, and their text; the first brings the role, or the prompt that is to be echoed."""
        choice = self._chat_choice(text) if self._request.dialect == "chat" else self._completion_choice(text)
        self._begun, self._waiting, self._offsets = True, [], []
        return {"index": 0, **choice, "finish_reason": finish and OPENAI_FINISH[finish]}

    def _chat_choice(self, text: str) -> dict[str, Any]:
        delta = {} if self._begun else {"role": "assistant", "content": ""}
        if text:
            delta["content"] = text
        content = [self._chat_logprob(step) for step in self._waiting]
        return {"delta": delta, "logprobs": {"content": content, "refusal": None} if self._wants_logprobs else None}

    def _completion_choice(self, text: str) -> dict[str, Any]:
        echo = "" if self._begun else self._prompt
        return {"text": echo + text, "logprobs": self._completion_logprobs() if self._wants_logprobs else None}

    def _completion_logprobs(self) -> dict[str, Any]:
        """Tokens without a text, such as those of a stop string, are at its end."""
        steps = self._waiting
        return {
            "tokens": [self._name(step) for step in steps],
            "token_logprobs": [_finite(step.logprob) for step in steps],
            "top_logprobs": [self._by_name(step) for step in steps] if self._request.sampling.logprobs else None,
            "text_offset": self._offsets + [self._chars] * (len(steps) - len(self._offsets)),
        }

    def _by_name(self, step: Step) -> dict[str, float]:
        """The alternatives and the chosen token; where two have the same name, the likelier one."""
        named = [(token_text(self._tokenizer, each), _finite(logprob)) for each, logprob in step.top_logprobs]
        return dict([(self._name(step), _finite(step.logprob)), *reversed(named)])

    def _chat_logprob(self, step: Step) -> dict[str, Any]:
        alternatives = [
            _named_logprob(token_text(self._tokenizer, each), logprob) for each, logprob in step.top_logprobs
        ]
        return _named_logprob(self._name(step), step.logprob) | {"top_logprobs": alternatives}


def _named_logprob(name: str, logprob: float | None) -> dict[str, Any]:
    # A token of a cut character has bytes of its own, which its name does not tell.
    return {"token": name, "logprob": _finite(logprob), "bytes": None if CUT in name else list(name.encode())}


def _finite(logprob: float | None) -> float:
    return LEAST_LOGPROB if logprob is None else max(LEAST_LOGPROB, logprob)


def _openai_usage(usage: Usage) -> dict[str, int]:
    total = usage.prompt_tokens + usage.completion_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": total,
    }


def _tgi_event(event: dict[str, Any]) -> bytes:
    # Exactly two line ends: the SageMaker article's client steps over one byte behind every line.
    return b"data:" + orjson.dumps(event) + b"\n\n"
