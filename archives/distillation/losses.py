"""What a student is taught by: pure functions of logits, each [samples, classes], giving a scalar.

Knows nothing of models, data or labels.
"""

from __future__ import annotations

import torch
from torch.nn import functional

SMALLEST_NORM = 1e-7
"""A centred row of probabilities shorter than this is constant as far as float32 can tell."""


def pearson_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """1 − Pearson's correlation of a and b along the last dimension: [rows, values] twice → [rows], between 0 and 2.

    Huang et al. 2022, eq. 6. Where a row of either is constant there is no correlation: the distance is then 0 with
    no gradient. (The authors' code adds 1e-8 to the denominator, which makes it the constant 1 there, and half of the
    true correlation where both rows vary by 1e-4.)
    """
    a = a - a.mean(-1, keepdim=True)
    b = b - b.mean(-1, keepdim=True)
    squares_a, squares_b = a.square().sum(-1), b.square().sum(-1)
    varies = (squares_a > SMALLEST_NORM**2) & (squares_b > SMALLEST_NORM**2)
    # The square root of 0 has an infinite gradient, which a mask put on afterwards turns into nan.
    norms = torch.where(varies, squares_a, 1.0).sqrt() * torch.where(varies, squares_b, 1.0).sqrt()
    return torch.where(varies, 1.0 - (a * b).sum(-1) / norms, 0.0)


def dist_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0, beta: float = 1.0, gamma: float = 1.0
) -> torch.Tensor:
    """DIST: beta · inter-class + gamma · intra-class relation, each times temperature².

    Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, eqs. 8 to 10 without the
    classification term. Inter-class: how a sample's probabilities relate to each other (rows of the softmax);
    intra-class: how the samples of a batch relate for one class (its columns). Only these relations have to agree
    with the teacher's, not the probabilities themselves. The factor temperature² is the authors' code's.
    """
    ours = functional.softmax(student.float() / temperature, dim=1)
    theirs = functional.softmax(teacher.float() / temperature, dim=1)
    inter = pearson_distance(ours, theirs).mean()
    intra = pearson_distance(ours.T, theirs.T).mean()
    return temperature**2 * (beta * inter + gamma * intra)


def hinton_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 4.0) -> torch.Tensor:
    """KL(teacher ‖ student) of the softened probabilities, mean over the samples, times temperature².

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, section 2; the factor keeps the size of
    the gradients when the temperature changes (section 2.1).
    """
    ours = functional.log_softmax(student.float() / temperature, dim=1)
    theirs = functional.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
