"""Teacher to student: for each seed the student is trained alone and by the teacher, then all are measured.

    report = distill(DistillOptions(teacher=…, student=…, data=…, out=…))

Writes the best distilled student as a transformers folder, and the report. Knows nothing of the command line.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.nn import functional

from archives.distillation import data, networks, report
from archives.distillation.data import Dataset, Split
from archives.distillation.inputs import Batch, Inputs, affine_maps, encoder
from archives.distillation.losses import dist_loss, hinton_loss
from archives.distillation.options import DistillOptions, Recipe, TrainOptions
from archives.distillation.report import Latency, Network, Report, Run
from archives.distillation.train import Fitted, Lesson, Objective, Score, Watcher, accuracy, fit, predict
from model_configs import ROOT
from model_configs.errors import KitError
from servekit import fingerprint
from servekit.timing import by_turns

MAPS_SEED = 0
LATENCY_BATCHES = (1, 8)
LATENCY_S = 3.0
LATENCY_TURNS = 20


def distill(options: DistillOptions) -> Report:
    """Train, measure, save and report. Raises KitError for what does not fit together, Failed for a lost training."""
    started = time.monotonic()
    labels = networks.labels_of(networks.trained_config(options.teacher))
    dataset = data.in_order(data.read(options.data), labels)
    device = _device(options)
    teacher = networks.load(options.teacher, dataset.kind).to(device)
    student = networks.start(options.student, dataset.kind, labels, options.seeds[0])
    theirs = _lessons(dataset, options.teacher, teacher, options)
    ours = _lessons(dataset, options.student, student, options)
    with _progress() as progress:
        taught = _taught(ours["train"], theirs["train"], teacher, progress)
        teacher_accuracy = accuracy(predict(teacher, theirs["test"].inputs), theirs["test"].targets)
        alone: list[Run] = []
        distilled: list[Run] = []
        best = (Score(-1.0, 0.0), options.seeds[0], student)
        for seed in options.seeds:
            for lesson, runs, name in ((ours["train"], alone, "alone"), (taught, distilled, "distilled")):
                model = networks.start(options.student, dataset.kind, labels, seed).to(device)
                watch = _bar(progress, f"seed {seed}, {name}", options.epochs)
                fitted = fit(model, lesson, ours["validation"], options, seed, _objective(options), watch)
                runs.append(_run(seed, fitted, model, ours["test"]))
                if lesson is taught and fitted.score > best[0]:
                    best = (fitted.score, seed, model)
    networks.save(best[2], options.student, options.out)
    made = Report(
        data=_short(options.data),
        labels=len(labels),
        items={name: len(lesson.inputs) for name, lesson in ours.items()},
        teacher=_network(options.teacher, teacher),
        student=_network(options.student, best[2]),
        teacher_accuracy=teacher_accuracy,
        alone=tuple(alone),
        distilled=tuple(distilled),
        kept=best[1],
        latency=_latency(teacher.cpu(), theirs["test"], best[2].cpu(), ours["test"]),
        threads=torch.get_num_threads(),
        machine={**fingerprint.machine(), "transformers": transformers.__version__, "trained on": device},
        options=_plain(options),
        wall_s=time.monotonic() - started,
    )
    report.write(made, options.report or options.out / "report")
    return made


def train_classifier(options: TrainOptions) -> Run:
    """Train on labels alone and save: how a teacher is made. Raises KitError, Failed."""
    dataset = data.read(options.data)
    own = networks.labels_of(networks.config_of(options.model))
    if set(own) == set(dataset.labels):
        dataset = data.in_order(dataset, own)
    model = networks.start(options.model, dataset.kind, dataset.labels, options.seed).to(_device(options))
    lessons = _lessons(dataset, options.model, model, options)
    with _progress() as progress:
        watch = _bar(progress, f"training {type(model).__name__}", options.epochs)
        fitted = fit(model, lessons["train"], lessons["validation"], options, options.seed, _alone(options), watch)
    networks.save(model, options.model, options.out)
    return _run(options.seed, fitted, model, lessons["test"])


def _lessons(dataset: Dataset, folder: Path, model: Any, recipe: Recipe) -> dict[str, Lesson]:
    """train (augmented), validation and test, as the model in folder wants its inputs."""
    if dataset.kind == "text" and recipe.augment:
        raise KitError("augment moves images, and this is a dataset of texts", "leave augment out")
    encode = encoder(folder, dataset.kind, model, recipe.max_length)

    def lesson(split: Split, maps: torch.Tensor | None = None) -> Lesson:
        return Lesson(Inputs(split.items, encode), torch.tensor(split.targets), maps)

    maps = affine_maps(len(dataset.train), recipe.augment, MAPS_SEED) if recipe.augment else None
    return {
        "train": lesson(dataset.train, maps),
        "validation": lesson(dataset.validation),
        "test": lesson(dataset.test),
    }


def _taught(ours: Lesson, theirs: Lesson, teacher: Any, progress: Progress) -> Lesson:
    """The student's lesson with what the teacher says to each view of each item, seen at the teacher's own size."""
    views = [None] if theirs.maps is None else list(theirs.maps)
    task = progress.add_task("the teacher's answers", total=len(views), said="")
    logits = []
    for maps in views:
        logits.append(predict(teacher, theirs.inputs, maps))
        progress.advance(task)
    return Lesson(ours.inputs, ours.targets, ours.maps, torch.stack(logits))


def _alone(recipe: Recipe) -> Objective:
    def objective(student: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
        return functional.cross_entropy(student, targets, label_smoothing=recipe.label_smoothing)

    return objective


def _objective(options: DistillOptions) -> Objective:
    """Cross-entropy; where there is a teacher, alpha times that and the loss that was chosen."""
    alone = _alone(options)

    def objective(student: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
        if teacher is None:
            return alone(student, targets, None)
        if options.loss == "dist":
            taught = dist_loss(student, teacher, options.temperature, options.beta, options.gamma)
        else:
            taught = options.beta * hinton_loss(student, teacher, options.temperature)
        return options.alpha * alone(student, targets, None) + taught

    return objective


def _run(seed: int, fitted: Fitted, model: Any, test: Lesson) -> Run:
    test_accuracy = accuracy(predict(model, test.inputs), test.targets)
    return Run(seed, fitted.score.accuracy, test_accuracy, fitted.best_epoch, fitted.epochs)


def _network(folder: Path, model: Any) -> Network:
    return Network(_short(folder), type(model).__name__, networks.parameters(model), networks.megabytes(model))


def _latency(teacher: Any, theirs: Lesson, student: Any, ours: Lesson) -> tuple[Latency, ...]:
    lines = []
    for rows in LATENCY_BATCHES:
        indices = torch.arange(rows) % len(ours.inputs)
        calls = {
            "teacher": _forward(teacher, theirs.inputs.batch(indices)),
            "student": _forward(student, ours.inputs.batch(indices)),
        }
        ms = {name: statistics.median(times) for name, times in by_turns(calls, LATENCY_S, LATENCY_TURNS).items()}
        lines.append(Latency(rows, ms["teacher"], ms["student"]))
    return tuple(lines)


def _forward(model: Any, batch: Batch) -> Callable[[], object]:
    """The model's forward pass on one batch, as it is served: eval, inference_mode."""
    model.eval()

    def call() -> object:
        with torch.inference_mode():
            return model(**batch)

    return call


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[said]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress


def _bar(progress: Progress, description: str, epochs: int) -> Watcher:
    task = progress.add_task(description, total=epochs, said="")

    def watch(epoch: int, score: Score) -> None:
        progress.update(task, completed=epoch, said=f"validation {100 * score.accuracy:.1f} %")

    return watch


def _device(recipe: Recipe) -> str:
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise KitError("device: cuda is not here", "leave device out")
    return "cuda" if recipe.device != "cpu" and torch.cuda.is_available() else "cpu"


def _plain(options: DistillOptions) -> dict[str, Any]:
    paths = ("teacher", "student", "data", "out", "report")
    return options.model_dump(mode="json", exclude=set(paths))


def _short(path: Path) -> str:
    """Inside the project from its root on, elsewhere the name alone: a report says nothing of somebody's machine."""
    whole = path.resolve()
    return str(whole.relative_to(ROOT)) if whole.is_relative_to(ROOT) else whole.name
