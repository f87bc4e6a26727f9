"""The road from teacher to report on networks that train in a second, and the student that is shipped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from archives.distillation import data, digits, networks
from archives.distillation.distill import distill, train_classifier
from archives.distillation.inputs import PIXELS, Inputs, encoder
from archives.distillation.options import Augment, DistillOptions, Recipe, TrainOptions, checked
from archives.distillation.report import report_rows
from archives.distillation.train import Lesson, Score, accuracy, deterministic, fit, one_cycle, predict
from model_configs.errors import Failed, KitError
from tests.fakes import tiny_distillation as tiny


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Light and dark images, a teacher that was trained on them, and a student's folder without weights."""
    folder = tmp_path_factory.mktemp("images")
    found = tiny.write_images(folder / "data", {"train": 48, "validation": 12, "test": 20})
    start = tiny.write_image_model(folder / "start", size=16, width=16)
    options = TrainOptions(model=start, data=found, out=folder / "teacher", epochs=6, augment=Augment(views=2))
    run = train_classifier(options)
    student = tiny.write_image_model(folder / "student", size=8, width=8)
    return SimpleNamespace(data=found, teacher=folder / "teacher", student=student, run=run)


def image_options(images: SimpleNamespace, out: Path, **changed: Any) -> DistillOptions:
    given: dict[str, Any] = {"epochs": 3, "seeds": (0, 1), "learning_rate": 5e-3, "augment": Augment(views=2)} | changed
    return DistillOptions(teacher=images.teacher, student=images.student, data=images.data, out=out, **given)


def test_images_from_a_teacher_trained_from_nothing(images: SimpleNamespace, tmp_path: Path) -> None:
    """Other input sizes, other widths, the same views: everything that a user gets is there and agrees."""
    report = distill(image_options(images, tmp_path / "out"))
    assert images.run.test_accuracy == report.teacher_accuracy > 0.9
    assert [run.seed for run in report.alone] == [run.seed for run in report.distilled] == [0, 1]
    best = max(report.distilled, key=lambda run: run.validation_accuracy)
    kept = next(run for run in report.distilled if run.seed == report.kept)
    assert kept.validation_accuracy == best.validation_accuracy
    assert report.items == {"train": 96, "validation": 24, "test": 40}
    assert report.teacher.parameters > 2 * report.student.parameters

    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found == json.loads(json.dumps(report.document()))
    assert found["gain"]["mean"] == pytest.approx(found["distilled"]["mean"] - found["alone"]["mean"], abs=1e-5)
    assert str(tmp_path) not in json.dumps(found)
    assert "| student distilled |" in (tmp_path / "out" / "report.md").read_text()
    assert [row["network"].strip() for row in report_rows(report)][:3] == ["teacher", "student alone", "student distilled"]  # fmt: skip

    dataset = data.read(images.data)
    model = networks.load(tmp_path / "out", "image")
    assert networks.labels_of(model.config) == dataset.labels
    test = Inputs(dataset.test.items, encoder(tmp_path / "out", "image", model, 0))
    assert accuracy(predict(model, test), torch.tensor(dataset.test.targets)) == report.kept_accuracy


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(images: SimpleNamespace, tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    for name in ("one", "two"):
        distill(image_options(images, tmp_path / name, epochs=2, seeds=(3,)))
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    assert torch.equal(before, torch.get_rng_state())
    distill(image_options(images, tmp_path / "three", epochs=2, seeds=(4,)))
    assert (tmp_path / "three" / "model.safetensors").read_bytes() != one


def test_a_student_that_has_weights_starts_from_them(images: SimpleNamespace) -> None:
    labels = data.read(images.data).labels
    again = networks.start(images.teacher, "image", labels, seed=0)
    assert torch.equal(again.classifier[1].weight, networks.load(images.teacher, "image").classifier[1].weight)
    wider = networks.start(images.teacher, "image", ["a", "b", "c"], seed=0)
    assert wider.classifier[1].weight.shape[0] == 3


def test_texts_with_other_architectures(tmp_path: Path) -> None:
    """BERT teaches DistilBERT, which takes no token types; by Hinton's loss."""
    found = tiny.write_texts(tmp_path / "data", 100)
    options = TrainOptions(
        model=tiny.write_bert(tmp_path / "start"), data=found, out=tmp_path / "teacher", epochs=10, learning_rate=2e-3
    )
    assert train_classifier(options).test_accuracy > 0.9
    report = distill(
        DistillOptions(
            teacher=tmp_path / "teacher", student=tiny.write_distilbert(tmp_path / "student"), data=found,
            out=tmp_path / "out", loss="hinton", temperature=2.0, epochs=12, seeds=(0,), learning_rate=5e-3,
        )
    )  # fmt: skip
    assert report.kept_accuracy > 0.8
    assert networks.labels_of(networks.config_of(tmp_path / "out")) == ("bad", "good")
    assert (tmp_path / "out" / "tokenizer.json").exists()
    with pytest.raises(KitError, match="augment moves images"):
        train_classifier(options.model_copy(update={"augment": Augment()}))


class Line(nn.Module):
    """A classifier of one number, in transformers' shape."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 2)

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.line(pixel_values))


def numbers(count: int) -> Lesson:
    """Whether a number is positive."""
    values = torch.linspace(-1, 1, count)[:, None]
    inputs = Inputs([str(n) for n in range(count)], lambda items: {PIXELS: values[: len(items)]})
    return Lesson(inputs, (values[:, 0] > 0).long())


def test_early_stopping_brings_the_best_weights_back() -> None:
    """An objective that turns against the targets after a while: training stops, and the best epoch's weights are kept."""
    model, lesson, seen, scores = Line(), numbers(40), [0], []
    steps_an_epoch = 40 // 8

    def objective(logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
        seen[0] += 1
        wanted = targets if seen[0] <= 6 * steps_an_epoch else 1 - targets
        return nn.functional.cross_entropy(logits, wanted)

    recipe = Recipe(epochs=50, batch_size=8, learning_rate=0.3, patience=4)
    fitted = fit(model, lesson, lesson, recipe, 0, objective, lambda epoch, score: scores.append(score))
    assert fitted.epochs == len(scores) == fitted.best_epoch + 4 < 50
    assert scores[-1] < fitted.score == max(scores)
    logits = predict(model, lesson.inputs)
    found = Score(accuracy(logits, lesson.targets), -nn.functional.cross_entropy(logits, lesson.targets).item())
    assert found == fitted.score
    assert not model.training


def test_a_training_that_is_lost_says_so() -> None:
    lesson = numbers(8)
    recipe = Recipe(epochs=2, batch_size=4)
    with pytest.raises(Failed, match="no number any more in epoch 1: lower learning_rate"):
        fit(
            Line(),
            lesson,
            lesson,
            recipe,
            0,
            lambda logits, targets, teacher: logits.sum() * math.nan,
            lambda e, s: None,
        )


def test_the_learning_rate_rises_in_a_line_and_falls_in_a_cosine() -> None:
    rates = [one_cycle(step / 100) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[15] == 1
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert rates[15:] == sorted(rates[15:], reverse=True)


def test_what_was_random_before_is_so_afterwards() -> None:
    with deterministic(0):
        first = torch.rand(3)
        assert torch.are_deterministic_algorithms_enabled()
    with deterministic(0):
        assert torch.equal(first, torch.rand(3))
    assert not torch.are_deterministic_algorithms_enabled()


FOLDERS = {name: Path(name) for name in ("teacher", "student", "data", "out")}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temprature": 2.0}, "temprature: unknown key; did you mean 'temperature'?"),
        ({"temperature": 0.0}, "temperature: Input should be greater than 0, got 0.0"),
        ({"loss": "kl"}, "loss: Input should be 'dist' or 'hinton', got 'kl'"),
        ({"loss": "hinton", "gamma": 2.0}, "gamma is DIST's"),
        ({"seeds": [1, 1]}, "each may stand once"),
        ({"seeds": []}, "seeds: Tuple should have at least 1 item"),
        ({"batch_size": 1}, "batch_size: Input should be greater than or equal to 2, got 1"),
        ({"out": Path("student")}, "would overwrite"),
    ],
)
def test_options_that_are_wrong(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(KitError) as caught:
        checked(DistillOptions, {**FOLDERS, **changed})
    assert message in str(caught.value)


def test_folders_that_are_wrong(images: SimpleNamespace, tmp_path: Path) -> None:
    options = image_options(images, tmp_path / "out")
    with pytest.raises(KitError, match=r"no config\.json: it is not a transformers model"):
        distill(options.model_copy(update={"teacher": tmp_path}))
    with pytest.raises(KitError, match=r"has no \*\.safetensors"):
        distill(options.model_copy(update={"teacher": tiny.write_image_model(tmp_path / "untrained", 8)}))
    texts = tiny.write_texts(tmp_path / "texts", 10)
    with pytest.raises(KitError, match="its labels are bad, good; the model's are dark, light"):
        distill(options.model_copy(update={"data": texts}))
    with pytest.raises(KitError, match="is no classifier of images"):
        distill(options.model_copy(update={"student": tiny.write_bert(tmp_path / "bert")}))


def test_the_digits_are_split_once_and_for_all(tmp_path: Path) -> None:
    digits.write_images(tmp_path / "digits")
    found = data.read(tmp_path / "digits")
    assert found.labels == tuple("0123456789")
    assert [len(split) for split in (found.train, found.validation, found.test)] == [898, 300, 599]
    names = [Path(item).name for split in (found.train, found.validation, found.test) for item in split.items]
    assert len(set(names)) == 1797


def test_the_shipped_student_is_as_good_as_its_report_says(tmp_path: Path) -> None:
    digits.write_images(tmp_path / "digits")
    dataset = data.read(tmp_path / "digits")
    model = networks.load(digits.SHIPPED, "image")
    assert networks.labels_of(model.config) == dataset.labels
    test = Inputs(dataset.test.items, encoder(digits.SHIPPED, "image", model, 0))
    report = json.loads(digits.REPORT.with_suffix(".json").read_text())
    # Another CPU's rounding may turn one image.
    found = accuracy(predict(model, test), torch.tensor(dataset.test.targets))
    assert found == pytest.approx(report["kept_accuracy"], abs=1.1 / len(dataset.test))
    assert found > report["teacher_accuracy"] - 0.01
    assert report["distilled"]["mean"] > report["alone"]["mean"]
    assert all(row["ratio"] > 5 for row in report["latency"])
    assert sum(path.stat().st_size for path in digits.SHIPPED.iterdir()) < 1_000_000
