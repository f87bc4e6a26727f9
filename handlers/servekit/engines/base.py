"""The interface of an engine: prompts of token ids in, steps of token ids out. Knows no tokenizer, client or server.

An engine runs in one thread. It takes prompts from an Inbox, as many as it has room for, and yields after every step
of the model what each row has gained. A stream always ends: every prompt that was taken gets exactly one Step with a
finish reason, also when the engine fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Finish = Literal["stop", "length", "cancelled", "error"]
"""stop: an end-of-sequence token. length: max_new_tokens or the engine's last position. cancelled: nobody waits."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, in the order that transformers applies it.

    repetition_penalty > 0 (1: off); temperature > 0, or 0 for greedy; top_k ≥ 1 or None for off; 0 < top_p ≤ 1.
    seed: the same prompt, parameters and seed give the same tokens; None draws one.
    logprobs: how many alternatives to report with every token, None for no log probabilities at all.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logprobs: int | None = None


@dataclass(frozen=True)
class Prompt:
    """One row of work. key: the caller's own, unique among rows in flight; token_ids: not empty.

    max_new_tokens ≥ 1; stop_ids: tokens that end the row (they are not reported); () when nothing does.
    """

    key: str
    token_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Step:
    """What one row gained in one step: a token, a finish reason, or both (the last token of "length").

    text: in place of token_id, from engines that answer in text. logprob: natural logarithm, of the token that was
    chosen, before temperature and filters; top_logprobs: (token id, logprob), best first.
    message: why, with finish "error".
    """

    key: str
    token_id: int | None = None
    text: str | None = None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish: Finish | None = None
    message: str = ""


class Inbox(Protocol):
    """Where an engine finds its prompts, and learns that a row is no longer wanted. Methods may be called any time."""

    def take(self, most: int) -> list[Prompt]:
        """Up to `most` prompts that wait, oldest first; never blocks."""
        ...

    def cancelled(self, key: str) -> bool:
        """Whether nobody waits for this row any more."""
        ...


@dataclass(frozen=True)
class Capabilities:
    """What callers have to know of an engine.

    max_batch: rows in flight. max_length: prompt and new tokens together. continuous: rows join between steps; else
    a stream takes prompts once, at its start. per_request_sampling: False when the rows of a stream share the
    parameters of the first, and seeds are not kept. logprobs: whether it can report them.
    """

    max_batch: int
    max_length: int
    continuous: bool
    per_request_sampling: bool
    logprobs: bool


class Engine(Protocol):
    """A loaded model."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def rank(self) -> int:
        """0; of the processes that a model is split over, the others only follow() the one that is."""
        ...

    @property
    def recompiles(self) -> int:
        """Compilations since warmup: pauses that it should have spared."""
        ...

    def warmup(self) -> list[tuple[str, float]]:
        """Run every shape that serving will use, so that nothing compiles later. Returns (shape, seconds) for each."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Versions and settings that decide whether compiled artefacts fit."""
        ...

    def stream(self, inbox: Inbox) -> Iterator[list[Step]]:
        """Take prompts and yield their steps, until no row is left and the inbox gives none.

        A row that is cancelled ends within one step. Engines yield an empty list after a step that gave no token
        (a chunk of a long prompt), so that the caller is heard between any two steps. Not re-entrant.
        """
        ...

    def follow(self) -> None:
        """Take part in rank 0's steps until it closes. Raises RuntimeError when it is gone, and on rank 0 itself."""
        ...

    def close(self) -> None:
        """Give memory and devices back."""
        ...


class OneProcess:
    """What an engine says that is never split over processes and compiles nothing after its warm-up."""

    rank = 0
    recompiles = 0

    def follow(self) -> None:
        raise RuntimeError("rank 0 has nobody to follow")


def prompt_problem(prompt: Prompt, max_length: int, vocabulary: int) -> str:
    """Why no engine of this length and vocabulary can run this prompt; empty when it can."""
    if not 1 <= len(prompt.token_ids) < max_length:
        return f"a prompt of {len(prompt.token_ids)} tokens; the engine takes 1 to {max_length - 1}"
    if not all(0 <= token < vocabulary for token in prompt.token_ids):
        return f"a token that is not in the vocabulary of {vocabulary}"
    return ""


class FixedInbox:
    """Prompts that are all there from the start; `cancel` ends one of them."""

    def __init__(self, prompts: list[Prompt]) -> None:
        self._waiting = list(prompts)
        self._cancelled: set[str] = set()

    def take(self, most: int) -> list[Prompt]:
        taken, self._waiting = self._waiting[:most], self._waiting[most:]
        return taken

    def cancelled(self, key: str) -> bool:
        return key in self._cancelled

    def cancel(self, key: str) -> None:
        """End this row at the next step."""
        self._cancelled.add(key)
