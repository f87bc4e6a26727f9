"""What may end sample() early: called after every token with the prompt's ids and the last probabilities."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class StoppingCriteriaList(list[Callable[[Tensor, Tensor], bool]]):
    """Stops when one of them says so."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> bool:
        return any(criterion(input_ids, scores) for criterion in self)
