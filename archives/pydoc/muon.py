"""Muon (Jordan et al. 2024) for a small network's matrices: momentum whose singular values are all made about one.

torch.optim.Muon computes in bfloat16, which a CPU without that type does slowly; this one computes in the gradients'
own type, matrices of one shape together. Knows nothing of models.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; decoupled weight decay. Raises ValueError for what is no matrix."""

    def __init__(
        self,
        matrices: Iterable[torch.nn.Parameter],
        lr: float = 0.02,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        if any(matrix.ndim != 2 for group in self.param_groups for matrix in group["params"]):
            raise ValueError("Muon is for matrices")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step by the gradients that are there."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[tuple[torch.nn.Parameter, torch.Tensor]]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[tuple(matrix.shape)].append((matrix, self._moved(matrix, matrix.grad, group["momentum"])))
            for (rows, columns), pairs in by_shape.items():
                updates = orthogonal(torch.stack([moved for _, moved in pairs]))
                for (matrix, _), update in zip(pairs, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))

    def _moved(self, matrix: torch.nn.Parameter, gradient: torch.Tensor, momentum: float) -> torch.Tensor:
        kept: torch.Tensor = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
        kept.lerp_(gradient, 1 - momentum)
        return gradient.lerp(kept, momentum)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """matrices [n, rows, columns], each with singular values near one (0.7 to 1.2) and the same singular vectors."""
    a, b, c = COEFFICIENTS
    turned = matrices.size(-2) > matrices.size(-1)
    wide = matrices.mT if turned else matrices
    result: torch.Tensor = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = result @ result.mT
        result = a * result + (b * square + c * square @ square) @ result
    return result.mT if turned else result
