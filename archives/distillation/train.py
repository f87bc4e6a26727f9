"""One network, trained: AdamW, one cycle of the learning rate, early stopping, seeds.

Knows nothing of files; what the network learns, and from whom, is in its lesson and its objective.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from archives.distillation.inputs import Batch, Inputs, warp
from archives.distillation.options import Recipe
from model_configs.errors import Failed

RISING = 0.15
"""Share of the steps in which the learning rate rises."""
INFERENCE_ROWS = 64


@dataclass(frozen=True)
class Lesson:
    """inputs: of one split; targets: [items], numbers of labels.

    maps: [views, items, 2, 3] for inputs.warp, or None. teacher: its logits [views or 1, items, labels], or None.
    """

    inputs: Inputs
    targets: torch.Tensor
    maps: torch.Tensor | None = None
    teacher: torch.Tensor | None = None


@dataclass(frozen=True, order=True)
class Score:
    """How good weights are on the validation split: by accuracy, then by cross-entropy, of which less is better."""

    accuracy: float
    minus_loss: float


@dataclass(frozen=True)
class Fitted:
    """What a training came to. best_epoch: whose weights the network has now; epochs: how many were run."""

    score: Score
    best_epoch: int
    epochs: int


Objective = Callable[[torch.Tensor, torch.Tensor, "torch.Tensor | None"], torch.Tensor]
"""(the network's logits, targets, the teacher's logits) → what is made small."""
Watcher = Callable[[int, Score], None]
"""Called after each epoch with its number from 1 on and its score."""


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Inside, torch, numpy and random follow seed, and kernels are deterministic; all is put back afterwards.

    Where a GPU has no deterministic kernel torch warns.
    """
    before = (torch.get_rng_state(), np.random.get_state(), random.getstate())
    kernels = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not deterministic without it
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(kernels[0], warn_only=kernels[1])
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def one_cycle(done: float) -> float:
    """The learning rate, the highest being 1, when a share done of all steps is done: a line up, half a cosine down."""
    if done < RISING:
        return done / RISING
    return 0.5 * (1 + math.cos(math.pi * (done - RISING) / (1 - RISING)))


def fit(
    model: Any, lesson: Lesson, validation: Lesson, recipe: Recipe, seed: int, objective: Objective, watch: Watcher
) -> Fitted:
    """Train model in place; it ends with its best epoch's weights, in eval mode. Same seed, same weights.

    Raises Failed when the loss is no number any more.
    """
    with deterministic(seed):
        optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.learning_rate)
        rows = len(lesson.inputs)
        steps = recipe.epochs * math.ceil(rows / recipe.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle((step + 1) / (steps + 1)))
        best, best_epoch, weights = Score(-1.0, -math.inf), 0, _copied(model)
        for epoch in range(1, recipe.epochs + 1):
            model.train()
            losses = []
            for indices in torch.split(torch.randperm(rows), recipe.batch_size):
                if len(indices) > 1:  # BatchNorm has no variance of one row
                    losses.append(_step(model, optimizer, lesson, epoch - 1, indices, objective))
                schedule.step()
            if not all(map(math.isfinite, losses)):
                raise Failed(f"the loss is no number any more in epoch {epoch}: lower learning_rate")
            score = _score(predict(model, validation.inputs), validation.targets)
            watch(epoch, score)
            if score > best:
                best, best_epoch, weights = score, epoch, _copied(model)
            elif epoch - best_epoch >= recipe.patience:
                break
        model.load_state_dict(weights)
        model.eval()
        return Fitted(best, best_epoch, epoch)


def predict(model: Any, inputs: Inputs, maps: torch.Tensor | None = None) -> torch.Tensor:
    """Logits [items, labels] on the CPU, in eval mode. maps: [items, 2, 3], or None."""
    model.eval()
    with torch.inference_mode():
        chunks = []
        for indices in torch.split(torch.arange(len(inputs)), INFERENCE_ROWS):
            batch = warp(inputs.batch(indices), None if maps is None else maps[indices])
            chunks.append(model(**_on(model, batch)).logits.float().cpu())
        logits = torch.cat(chunks)
    return logits.clone()  # an inference tensor could not take part in a training


def accuracy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of rows whose largest logit is the target's."""
    return (logits.argmax(dim=1) == targets).double().mean().item()


def _step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    lesson: Lesson,
    epoch: int,
    indices: torch.Tensor,
    objective: Objective,
) -> float:
    maps = None if lesson.maps is None else lesson.maps[epoch % len(lesson.maps), indices]
    teacher = None if lesson.teacher is None else lesson.teacher[epoch % len(lesson.teacher), indices].to(model.device)
    batch = _on(model, warp(lesson.inputs.batch(indices), maps))
    loss = objective(model(**batch).logits, lesson.targets[indices].to(model.device), teacher)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def _score(logits: torch.Tensor, targets: torch.Tensor) -> Score:
    return Score(accuracy(logits, targets), -functional.cross_entropy(logits, targets).item())


def _groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels only: biases and the scales of norms are not to shrink."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _copied(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _on(model: Any, batch: Batch) -> Batch:
    return {name: tensor.to(model.device) for name, tensor in batch.items()}
