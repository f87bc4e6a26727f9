"""The losses against brute force in numpy and scipy, and what must hold for any logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import special, stats
from torch.nn import functional

from archives.distillation.losses import dist_loss, hinton_loss, pearson_distance

SHAPES = [(2, 2), (5, 3), (7, 10), (64, 4)]
LOGITS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8),
    elements=st.floats(-30, 30, width=32),
)


def random_logits(shape: tuple[int, int], seed: int) -> torch.Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_dist_is_one_minus_scipys_correlation_of_rows_and_of_columns(
    shape: tuple[int, int], temperature: float
) -> None:
    ours, theirs = random_logits(shape, 0), random_logits(shape, 1)
    a = special.softmax(ours.numpy().astype(np.float64) / temperature, axis=1)
    b = special.softmax(theirs.numpy().astype(np.float64) / temperature, axis=1)
    inter = np.mean([1 - stats.pearsonr(x, y).statistic for x, y in zip(a, b, strict=True)])
    intra = np.mean([1 - stats.pearsonr(x, y).statistic for x, y in zip(a.T, b.T, strict=True)])
    found = dist_loss(ours, theirs, temperature, beta=2.0, gamma=0.5)
    assert found.item() == pytest.approx(temperature**2 * (2.0 * inter + 0.5 * intra), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_hinton_is_scipys_relative_entropy(shape: tuple[int, int], temperature: float) -> None:
    ours, theirs = random_logits(shape, 0), random_logits(shape, 1)
    a = special.softmax(ours.numpy().astype(np.float64) / temperature, axis=1)
    b = special.softmax(theirs.numpy().astype(np.float64) / temperature, axis=1)
    expected = temperature**2 * special.rel_entr(b, a).sum(axis=1).mean()
    assert hinton_loss(ours, theirs, temperature).item() == pytest.approx(expected, rel=1e-4)


@given(LOGITS, st.sampled_from([1.0, 4.0]))
def test_a_student_that_is_its_teacher_has_nothing_to_learn(logits: np.ndarray, temperature: float) -> None:
    same = torch.from_numpy(logits)
    assert dist_loss(same, same, temperature).item() == pytest.approx(0, abs=1e-4)
    assert hinton_loss(same, same, temperature).item() == pytest.approx(0, abs=1e-4)


@given(LOGITS, st.integers(0, 9))
def test_any_logits_give_finite_losses_and_gradients(logits: np.ndarray, seed: int) -> None:
    """One row, one class, equal values and certain teachers too."""
    student = torch.from_numpy(logits).requires_grad_()
    teacher = random_logits((logits.shape[0], logits.shape[1]), seed)
    for loss in (dist_loss(student, teacher), dist_loss(teacher, student), hinton_loss(student, teacher)):
        assert loss.isfinite()
        assert loss.item() >= -1e-4
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient.isfinite().all()


@given(
    arrays.arrays(np.float64, (4, 6), elements=st.floats(-1, 1), unique=True),
    st.floats(0.5, 10),
    st.floats(-10, 10),
)
def test_the_distance_does_not_see_scale_and_shift(values: np.ndarray, scale: float, shift: float) -> None:
    """Huang et al. 2022, eq. 5: d(m1·a + b1, m2·b + b2) = d(a, b)."""
    a = torch.from_numpy(values)
    a = a[a.std(dim=-1) > 1e-3]
    b = torch.randn(a.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(pearson_distance(scale * a + shift, b), pearson_distance(a, b), atol=1e-6, rtol=0)


def test_the_distance_lies_between_zero_and_two() -> None:
    row = torch.tensor([[1.0, 2.0, 4.0]])
    torch.testing.assert_close(pearson_distance(row, row), torch.tensor([0.0]))
    torch.testing.assert_close(pearson_distance(row, -row), torch.tensor([2.0]))


@pytest.mark.parametrize("rows", [1, 5])
def test_constant_probabilities_are_no_relation(rows: int) -> None:
    """A teacher that knows nothing teaches nothing: no loss and no gradient, not a nan."""
    student = random_logits((rows, 3), 0).requires_grad_()
    loss = dist_loss(student, torch.zeros(rows, 3))
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("loss", [dist_loss, hinton_loss])
def test_a_step_down_the_gradient_brings_the_student_nearer(loss: object) -> None:
    student, teacher = random_logits((16, 5), 0).requires_grad_(), random_logits((16, 5), 1)
    assert callable(loss)
    before = loss(student, teacher)
    (gradient,) = torch.autograd.grad(before, student)
    assert loss(student - 0.1 * gradient, teacher) < before


def test_hinton_gradients_keep_their_size_when_the_temperature_rises() -> None:
    """Section 2.1: with the factor T² they tend to those of matching logits, (z − v) / classes."""
    student, teacher = random_logits((8, 4), 0), random_logits((8, 4), 1)
    student, teacher = student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(hinton_loss(student, teacher, 500.0), student)
    torch.testing.assert_close(gradient, (student - teacher).detach() / 4 / 8, atol=1e-3, rtol=0)


def test_gradients_are_those_of_finite_differences() -> None:
    student, teacher = random_logits((4, 3), 0).double().requires_grad_(), random_logits((4, 3), 1).double()
    a, b = functional.softmax(student, dim=1), functional.softmax(teacher, dim=1)
    assert torch.autograd.gradcheck(pearson_distance, (a.detach().requires_grad_(), b))
