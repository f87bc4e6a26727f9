"""The dialects in which prompts come: plain text, {"inputs", "parameters", "stream"}, OpenAI completions and chat.

From a body to a GenerationRequest: pure functions that know a tokenizer, but no engine, model or TorchServe. Plain
text is a text/plain body, or a JSON string: text that is no JSON under application/json, as the Inferentia2 article's
sample client sends it, was answered 400 by wire.read_body before it could come here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import orjson
from jinja2 import TemplateError
from pydantic import Field, model_validator

from servekit.engines.base import Sampling
from servekit.errors import RequestError
from servekit.settings import PositiveInt
from servekit.strict import Strict
from servekit.wire import Body, validate

COMPLETIONS = "v1/completions"
CHAT = "v1/chat/completions"

Dialect = Literal["text", "tgi", "completions", "chat"]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
# fail_fast: a body of half a megabyte can hold a hundred thousand wrong entries, and nobody reads as many errors.
Stops = Annotated[list[Stop], Field(fail_fast=True)]
TopP = Annotated[float, Field(gt=0, le=1)]
# Wide, but narrow enough that no logit overflows.
Penalty = Annotated[float, Field(ge=0.01, le=100)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Zero = Annotated[float, Field(ge=0, le=0)]

MAX_TEMPERATURE = 100.0
# Below it the best token wins in every case that floating point can tell apart: it is greedy, and nothing overflows.
MIN_TEMPERATURE = 1e-4


@dataclass(frozen=True)
class Limits:
    """What the server allows.

    model_name: what OpenAI's clients may call the model. max_length: prompt and new tokens together.
    default_max_new_tokens: for requests that name none. logprobs: whether the engine can report them.
    """

    model_name: str
    max_length: int
    default_max_new_tokens: int
    max_stop_strings: int
    logprobs: bool


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt, what to make of it, and how to answer.

    prompt_ids: not empty; with max_new_tokens at most max_length. model: the name for OpenAI's replies.
    include_usage: OpenAI's stream_options. details: TGI's, with every token in the reply.
    return_full_text: the prompt's text is put before the output (TGI's return_full_text, OpenAI's echo).
    """

    dialect: Dialect
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    ignore_eos: bool = False
    model: str = ""
    return_full_text: bool = False
    details: bool = False
    prompt_text: str = ""


class TgiParameters(Strict):
    """text-generation-inference's parameters, and ignore_eos. Those that only take null, false or 1 are not served."""

    max_new_tokens: PositiveInt | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: PositiveInt | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    repetition_penalty: Penalty | None = None
    stop: Stops | None = None
    stop_sequences: Stops | None = None
    truncate: PositiveInt | None = None
    return_full_text: bool | None = None
    details: bool | None = None
    top_n_tokens: Annotated[int, Field(ge=0, le=5)] | None = None
    ignore_eos: bool | None = None
    best_of: Literal[1] | None = None
    decoder_input_details: Literal[False] | None = None
    frequency_penalty: Zero | None = None
    typical_p: None = None
    watermark: Literal[False] | None = None


class TgiBody(Strict):
    """{"inputs": "…", "parameters": {…}, "stream": true}; without `stream` the Accept header decides."""

    inputs: str
    parameters: TgiParameters | None = None
    stream: bool | None = None


class StreamOptions(Strict):
    """OpenAI's options of a stream."""

    include_usage: bool | None = None


class OpenAIBody(Strict):
    """What OpenAI's two requests share; top_k, repetition_penalty and ignore_eos are vLLM's additions."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: PositiveInt | None = None
    temperature: float | None = None
    top_p: TopP | None = None
    top_k: PositiveInt | None = None
    repetition_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Stop | Stops | None = None
    ignore_eos: bool | None = None
    user: str | None = None
    n: Literal[1] | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None


class CompletionBody(OpenAIBody):
    """OpenAI's completions request: one prompt, as text or token ids."""

    prompt: str | Annotated[list[int], Field(fail_fast=True)] | Annotated[list[str], Field(min_length=1, max_length=1)]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None

    @model_validator(mode="after")
    def _no_logprobs_of_the_prompt(self) -> CompletionBody:
        if self.echo and self.logprobs is not None:
            raise ValueError("echo with logprobs: the prompt's own log probabilities are not computed here")
        return self


class TextPart(Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """One turn of a chat; the parts of a content are joined by line ends."""

    role: Literal["system", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]


class ChatBody(OpenAIBody):
    """OpenAI's chat request."""

    messages: Annotated[list[Message], Field(fail_fast=True)]
    max_completion_tokens: PositiveInt | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _alternatives_go_with_logprobs(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs goes with logprobs: true")
        return self


def parse(body: Body, path: str, tokenizer: Any, limits: Limits, accept: str = "") -> GenerationRequest:
    """path: what followed the model's version; accept: the header. tokenizer: transformers'.

    Plain text and TGI are greedy unless a sampling parameter is given; OpenAI's temperature is 1 unless it is given.
    Raises RequestError: 404 for an unknown path or model, 413 for too many tokens, 422 for a wrong shape, 400 for
    the rest.
    """
    if path not in ("", COMPLETIONS, CHAT):
        known = f"{COMPLETIONS}, {CHAT} and none at all"
        raise RequestError(404, "unknown_path", f"no such path: {path!r}; there are {known}")
    _check_utf8(body.content)
    if path == "":
        if isinstance(body.content, str):
            return _parse_text(body.content, tokenizer, limits)
        return _parse_tgi(validate(TgiBody, body.content), tokenizer, limits, accept)
    if not body.is_json:
        raise RequestError(400, "invalid_json", f"{path} takes JSON: set Content-Type: application/json")
    if path == COMPLETIONS:
        return _parse_completion(validate(CompletionBody, body.content), tokenizer, limits)
    return _parse_chat(validate(ChatBody, body.content), tokenizer, limits)


def _parse_text(text: str, tokenizer: Any, limits: Limits) -> GenerationRequest:
    ids = _encode(text, tokenizer, limits)
    return GenerationRequest(
        "text", ids, _new_tokens(ids, None, limits), Sampling(), stream=True, model=limits.model_name, prompt_text=text
    )


def _parse_tgi(parsed: TgiBody, tokenizer: Any, limits: Limits, accept: str) -> GenerationRequest:
    wanted = parsed.parameters or TgiParameters()
    given = (wanted.temperature, wanted.top_k, wanted.top_p, wanted.seed)
    sample = any(value is not None for value in given) if wanted.do_sample is None else wanted.do_sample
    logprobs = wanted.top_n_tokens or None
    if wanted.details and limits.logprobs:
        logprobs = logprobs or 0
    ids = _encode(parsed.inputs, tokenizer, limits, truncate=wanted.truncate)
    return GenerationRequest(
        "tgi",
        ids,
        _new_tokens(ids, wanted.max_new_tokens, limits),
        sampling=_sampling(wanted, 1.0 if sample else 0.0, sample, logprobs, tokenizer, limits),
        stop=_stops([*(wanted.stop or ()), *(wanted.stop_sequences or ())], limits),
        stream="text/event-stream" in accept.lower() if parsed.stream is None else parsed.stream,
        ignore_eos=bool(wanted.ignore_eos),
        model=limits.model_name,
        return_full_text=bool(wanted.return_full_text),
        details=bool(wanted.details),
        prompt_text=parsed.inputs,
    )


def _parse_completion(parsed: CompletionBody, tokenizer: Any, limits: Limits) -> GenerationRequest:
    prompt = parsed.prompt
    if isinstance(prompt, list) and isinstance(next(iter(prompt), 0), int):
        ids = _check_ids(prompt, tokenizer)
        text = tokenizer.decode(list(ids), skip_special_tokens=True) if parsed.echo else ""
    else:
        text = prompt if isinstance(prompt, str) else str(prompt[0])
        ids = _encode(text, tokenizer, limits)
    return _openai_request("completions", parsed, ids, text, parsed.max_tokens, parsed.logprobs, tokenizer, limits)


def _parse_chat(parsed: ChatBody, tokenizer: Any, limits: Limits) -> GenerationRequest:
    text = _apply_template(parsed.messages, tokenizer)
    # The template has written the special tokens already.
    ids = _encode(text, tokenizer, limits, add_special_tokens=False)
    new_tokens = parsed.max_completion_tokens or parsed.max_tokens
    logprobs = (parsed.top_logprobs or 0) if parsed.logprobs else None
    return _openai_request("chat", parsed, ids, text, new_tokens, logprobs, tokenizer, limits)


def _openai_request(
    dialect: Dialect,
    parsed: OpenAIBody,
    ids: tuple[int, ...],
    text: str,
    new_tokens: int | None,
    logprobs: int | None,
    tokenizer: Any,
    limits: Limits,
) -> GenerationRequest:
    name = limits.model_name
    if parsed.model not in (None, name):
        raise RequestError(404, "model_not_found", f"model: {parsed.model!r} is not served here, {name!r} is")
    stop = [parsed.stop] if isinstance(parsed.stop, str) else parsed.stop or []
    return GenerationRequest(
        dialect,
        ids,
        _new_tokens(ids, new_tokens, limits),
        sampling=_sampling(parsed, 1.0, True, logprobs, tokenizer, limits),
        stop=_stops(stop, limits),
        stream=bool(parsed.stream),
        include_usage=bool(parsed.stream and parsed.stream_options and parsed.stream_options.include_usage),
        ignore_eos=bool(parsed.ignore_eos),
        model=name,
        return_full_text=isinstance(parsed, CompletionBody) and bool(parsed.echo),
        prompt_text=text,
    )


def _check_utf8(content: Any) -> None:
    """Refuse what Python's json reads and no reply could say again: half a surrogate pair, endless nesting."""
    try:
        orjson.dumps(content)
    except TypeError as error:  # orjson's JSONEncodeError is one
        raise RequestError(400, "invalid_json", f"the body is not JSON: {error}") from None


def _sampling(
    wanted: TgiParameters | OpenAIBody,
    default_temperature: float,
    sample: bool,
    logprobs: int | None,
    tokenizer: Any,
    limits: Limits,
) -> Sampling:
    """Greedy requests come out equal in all that does not matter to them: engines batch rows of equal parameters."""
    temperature = default_temperature if wanted.temperature is None else wanted.temperature
    if not 0 <= temperature <= MAX_TEMPERATURE:
        raise RequestError(
            400, "invalid_temperature", f"temperature: {temperature} is not between 0 and {MAX_TEMPERATURE:g}"
        )
    if logprobs is not None and not limits.logprobs:
        raise RequestError(400, "no_logprobs", "the engine that serves this model reports no log probabilities")
    penalty = wanted.repetition_penalty or 1.0
    if not sample or temperature < MIN_TEMPERATURE:
        return Sampling(repetition_penalty=penalty, logprobs=logprobs)
    return Sampling(
        temperature=temperature,
        top_k=wanted.top_k if wanted.top_k and wanted.top_k < len(tokenizer) else None,
        top_p=wanted.top_p or 1.0,
        repetition_penalty=penalty,
        seed=None if wanted.seed is None else wanted.seed % 2**63,  # what every generator takes
        logprobs=logprobs,
    )


def _stops(stops: list[str], limits: Limits) -> tuple[str, ...]:
    if len(stops) > limits.max_stop_strings:
        raise RequestError(
            422, "too_many_stop_strings", f"stop: {len(stops)} strings, the limit is {limits.max_stop_strings}"
        )
    return tuple(dict.fromkeys(stops))


def _new_tokens(ids: tuple[int, ...], asked: int | None, limits: Limits) -> int:
    room = limits.max_length - len(ids)
    if room < 1:
        raise _prompt_too_long(str(len(ids)), limits)
    if asked is None:
        return min(limits.default_max_new_tokens, room)
    if asked > room:
        raise RequestError(
            413,
            "too_many_new_tokens",
            f"{len(ids)} tokens of prompt and {asked} new ones are more than max_length={limits.max_length}; "
            f"there is room for {room} new ones",
        )
    return asked


def _prompt_too_long(tokens: str, limits: Limits) -> RequestError:
    return RequestError(
        413,
        "prompt_too_long",
        f"the prompt has {tokens} tokens, max_length={limits.max_length} has to hold it and at least one new token",
    )


def _check_ids(ids: list[Any], tokenizer: Any) -> tuple[int, ...]:
    if not ids:
        raise _empty_prompt()
    vocabulary = len(tokenizer)
    wrong = next((token_id for token_id in ids if not 0 <= token_id < vocabulary), None)
    if wrong is not None:
        raise RequestError(
            400, "invalid_token_id", f"prompt: there is no token {wrong}, the vocabulary has {vocabulary}"
        )
    return tuple(ids)


def _encode(
    text: str, tokenizer: Any, limits: Limits, *, add_special_tokens: bool = True, truncate: int | None = None
) -> tuple[int, ...]:
    """Token ids; of more than `truncate`, the last, behind the BOS that the tokenizer puts first."""
    if not text:
        raise _empty_prompt()
    longest = _longest_token(tokenizer)
    if longest and not truncate:
        # Tokenizing half a megabyte takes half a second, in which no other row moves.
        at_least = sum(map(len, text.split())) // longest
        if at_least >= limits.max_length:
            raise _prompt_too_long(f"at least {at_least}", limits)
    ids = tuple(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
    if not ids:
        raise _empty_prompt()
    if truncate and len(ids) > truncate:
        first = ids[:1] if ids[0] == tokenizer.bos_token_id else ()
        ids = first + ids[len(ids) - truncate + len(first) :]
    return ids


def _empty_prompt() -> RequestError:
    return RequestError(400, "empty_prompt", "the prompt is empty")


@lru_cache(maxsize=4)
def _longest_token(tokenizer: Any) -> int | None:
    """Most characters, spaces aside, that one token can stand for; None where there is no telling.

    That is the longest entry of the vocabulary, unless unknown characters are joined or dropped, or normalization
    makes texts shorter.
    """
    unknown = "\U000f0000" * 64
    if len(tokenizer(unknown, add_special_tokens=False)["input_ids"]) < len(unknown):
        return None
    normalizer = tokenizer.backend_tokenizer.normalizer if tokenizer.is_fast else None
    composed = "e\u0301" * 64
    if normalizer and len(normalizer.normalize_str(composed)) < len(composed):
        return None
    return max(map(len, tokenizer.get_vocab()))


def _apply_template(messages: list[Message], tokenizer: Any) -> str:
    if not messages:
        raise _empty_prompt()
    if not tokenizer.chat_template:
        raise RequestError(
            400, "no_chat_template", f"this model's tokenizer has no chat template; send the prompt to {COMPLETIONS}"
        )
    turns = [{"role": message.role, "content": _content(message)} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    except TemplateError as error:  # also how templates refuse an order of roles
        raise RequestError(400, "chat_template", f"messages: the model's chat template says: {error}") from None


def _content(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text for part in message.content)
