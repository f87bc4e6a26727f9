"""The choice of a token, held to transformers' own warpers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from servekit.engines import sampling
from servekit.engines.base import Sampling
from servekit.engines.sampling import Sampler, candidates, choose, penalized

VOCABULARY = 60


def logits_of(seed: int, size: int = VOCABULARY) -> torch.Tensor:
    return 3 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def transformers_probabilities(logits: torch.Tensor, own: Sampling, seen: set[int]) -> torch.Tensor:
    scores = logits[None].clone()
    if own.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(own.repetition_penalty)(torch.tensor([sorted(seen)]), scores)
    scores = TemperatureLogitsWarper(own.temperature)(None, scores)
    if own.top_k:
        scores = TopKLogitsWarper(own.top_k)(None, scores)
    if own.top_p < 1:
        scores = TopPLogitsWarper(own.top_p)(None, scores)
    return scores[0].softmax(dim=-1)


@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.2, 3),
    top_k=st.none() | st.integers(1, VOCABULARY),
    top_p=st.just(1.0) | st.floats(0.05, 0.99),
    penalty=st.just(1.0) | st.floats(0.5, 2),
    look=st.sampled_from([4, 256]),
)
def test_the_distribution_is_transformers(
    seed: int, temperature: float, top_k: int | None, top_p: float, penalty: float, look: int
) -> None:
    logits, seen = logits_of(seed), {1, 5, 9}
    own = Sampling(temperature, top_k, top_p, penalty)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "NUCLEUS_FIRST_LOOK", look)
        ids, kept = candidates(penalized(logits, seen, penalty) / temperature, top_k, top_p)
    ours = torch.zeros(VOCABULARY)
    ours[torch.arange(VOCABULARY) if ids is None else ids] = kept / kept.sum()
    theirs = transformers_probabilities(logits, own, seen)
    # Where a token lies on the nucleus' very edge, rounding decides.
    assert (ours > 0).sum() - (theirs > 0).sum() in (-1, 0, 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-2 if (ours > 0).sum() != (theirs > 0).sum() else 1e-4)


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    sampler = Sampler(Sampling(temperature=1.0, seed=1))
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[sampler.choose(logits).token_id] += 1
    torch.testing.assert_close(counts / 4000, logits.softmax(0), rtol=0, atol=0.03)


@given(seed=st.integers(0, 1000))
def test_greedy_is_the_best_and_nothing_else(seed: int) -> None:
    logits = torch.stack([logits_of(seed), logits_of(seed + 1)])
    plain = [Sampler(Sampling()), Sampler(Sampling())]
    told = [Sampler(Sampling(logprobs=0)), Sampler(Sampling(logprobs=2))]
    best = logits.argmax(dim=-1).tolist()
    assert [choice.token_id for choice in choose(logits, plain)] == best
    choices = choose(logits, told)
    assert [choice.token_id for choice in choices] == best
    assert choices[0].top_logprobs == ()
    assert choices[1].top_logprobs[0][0] == best[1]
    assert choices[1].logprob == choices[1].top_logprobs[0][1]


def test_what_was_said_is_said_less() -> None:
    logits = torch.tensor([2.0, 1.9, -1.0])
    sampler = Sampler(Sampling(repetition_penalty=1.5), {2})
    assert [sampler.choose(logits).token_id for _ in range(2)] == [0, 1]


def test_a_seed_gives_the_same_draws() -> None:
    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.choose(logits_of(n)).token_id for n in range(30)]

    assert draws(4) == draws(4)
    assert draws(4) != draws(5)
    assert draws(None) != draws(None)
