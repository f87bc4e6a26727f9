"""From logits to a token, in transformers' order: repetition penalty, temperature, top-k, top-p.

The draw is one uniform number from the row's own generator, so a row's tokens depend on nothing but its prompt, its
parameters and its seed. Knows nothing of engines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from servekit.engines.base import Sampling

NUCLEUS_FIRST_LOOK = 256
"""top_p alone needs the vocabulary in order; nearly always the nucleus lies within this many of the best."""


class Choice(NamedTuple):
    """A token, with natural log probabilities when they were asked for."""

    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass
class Sampler:
    """One row's parameters and state. seen: the ids of prompt and answer, which the repetition penalty counts."""

    sampling: Sampling
    seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.generator = torch.Generator()
        if self.sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(self.sampling.seed)

    @property
    def is_plain(self) -> bool:
        """Whether the best logit is all that counts."""
        own = self.sampling
        return own.temperature == 0 and own.repetition_penalty == 1 and own.logprobs is None

    def choose(self, logits: Tensor) -> Choice:
        """The next token from its logits, [vocab] float32."""
        own = self.sampling
        scores = penalized(logits, self.seen, own.repetition_penalty)
        token = int(scores.argmax()) if own.temperature == 0 else self._draw(scores)
        self.seen.add(token)
        if own.logprobs is None:
            return Choice(token)
        logprobs = logits.log_softmax(dim=-1)
        best = logprobs.topk(own.logprobs) if own.logprobs else None
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best else ()
        return Choice(token, float(logprobs[token]), tuple(pairs))

    def _draw(self, scores: Tensor) -> int:
        ids, probabilities = candidates(scores / self.sampling.temperature, self.sampling.top_k, self.sampling.top_p)
        running = probabilities.double().cumsum(dim=0)
        point = torch.rand((), generator=self.generator, dtype=torch.float64) * running[-1].cpu()
        place = min(int(torch.searchsorted(running, point.to(running.device), right=True)), len(running) - 1)
        return place if ids is None else int(ids[place])


def penalized(logits: Tensor, seen: set[int], penalty: float) -> Tensor:
    """Logits of seen tokens made less likely (arXiv 1909.05858), a copy; the same tensor when the penalty is 1."""
    if penalty == 1 or not seen:
        return logits
    ids = torch.tensor(sorted(seen), device=logits.device)
    own = logits[ids]
    return logits.scatter(0, ids, torch.where(own < 0, own * penalty, own / penalty))


def candidates(scores: Tensor, top_k: int | None, top_p: float) -> tuple[Tensor | None, Tensor]:
    """Ids that may be drawn, most likely first, with probabilities that need not add up to 1; None: all, in order.

    A token is in the nucleus when those before it have less than top_p together; the best always is.
    """
    if top_k is None and top_p >= 1:
        return None, scores.softmax(dim=-1)
    size = len(scores)
    look = min(top_k or NUCLEUS_FIRST_LOOK, size)
    best, ids = scores.topk(look)
    # top_p is a share of what top_k left over, as in transformers.
    total = best.logsumexp(0) if top_k else scores.logsumexp(0)
    probabilities = (best - total).exp()
    if top_p >= 1:
        return ids, probabilities
    if not top_k and look < size and probabilities.sum() < top_p:
        ordered, ids = scores.sort(descending=True)
        probabilities = (ordered - total).exp()
    before = probabilities.cumsum(0) - probabilities
    kept = int((before < top_p).sum().clamp(min=1))
    return ids[:kept], probabilities[:kept]


def choose(logits: Tensor, samplers: list[Sampler]) -> list[Choice]:
    """One choice for each row of logits, [rows, vocab] float32."""
    if all(sampler.is_plain for sampler in samplers):
        return [Choice(token) for token in logits.argmax(dim=-1).tolist()]
    return [sampler.choose(row) for sampler, row in zip(samplers, logits, strict=True)]
