"""What a distillation came to: figures, a table, Markdown. Knows nothing of networks."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """One training. Accuracies are shares; best_epoch: whose weights were kept; epochs: how many were run."""

    seed: int
    validation_accuracy: float
    test_accuracy: float
    best_epoch: int
    epochs: int


@dataclass(frozen=True)
class Network:
    """architecture: transformers' class. mb: of its weights, in 10^6 bytes."""

    folder: str
    architecture: str
    parameters: int
    mb: float


@dataclass(frozen=True)
class Latency:
    """Medians of one forward pass of preprocessed items, eager float32."""

    batch: int
    teacher_ms: float
    student_ms: float

    @property
    def ratio(self) -> float:
        """How many times faster the student is."""
        return self.teacher_ms / self.student_ms


@dataclass(frozen=True)
class Report:
    """alone and distilled: a run for each seed, in the same order. kept: the seed whose student was saved."""

    data: str
    labels: int
    items: dict[str, int]
    teacher: Network
    student: Network
    teacher_accuracy: float
    alone: tuple[Run, ...]
    distilled: tuple[Run, ...]
    kept: int
    latency: tuple[Latency, ...]
    threads: int
    machine: dict[str, str]
    options: dict[str, Any]
    wall_s: float

    @property
    def kept_accuracy(self) -> float:
        """Of the saved student, on the test split."""
        return next(run.test_accuracy for run in self.distilled if run.seed == self.kept)

    @property
    def gains(self) -> tuple[float, ...]:
        """Distilled minus alone on the test split, for each seed."""
        pairs = zip(self.distilled, self.alone, strict=True)
        return tuple(distilled.test_accuracy - alone.test_accuracy for distilled, alone in pairs)

    def document(self) -> dict[str, Any]:
        """Everything, for JSON. Accuracies are shares of the test split, unless they say validation."""
        plain: dict[str, Any] = dataclasses.asdict(self)
        for name, row in zip(("alone", "distilled"), (self.alone, self.distilled), strict=True):
            plain[name] = {**_summary([run.test_accuracy for run in row]), "runs": plain[name]}
        for row, latency in zip(plain["latency"], self.latency, strict=True):
            row["ratio"] = latency.ratio
        plain["gain"] = {**_summary(self.gains), "standard_error": _standard_error(self.gains)}
        plain["kept_accuracy"] = self.kept_accuracy
        return {key: rounded(value) for key, value in plain.items()}


def report_rows(report: Report) -> list[dict[str, Any]]:
    """A row for the teacher, the student alone and the student distilled."""

    def row(name: str, values: Sequence[float], network: Network, which: str) -> dict[str, Any]:
        summary = _summary(values)
        times = {f"ms at {line.batch}": f"{getattr(line, which):.2f}" for line in report.latency}
        return {
            "network": name,
            "test accuracy %": f"{100 * summary['mean']:.2f}",
            "± over seeds": f"{100 * summary['sd']:.2f}" if len(values) > 1 else "–",
            "parameters": f"{network.parameters:,}",
            "MB": f"{network.mb:.2f}",
            **times,
        }

    return [
        row("teacher", [report.teacher_accuracy], report.teacher, "teacher_ms"),
        row("student alone", [run.test_accuracy for run in report.alone], report.student, "student_ms"),
        row("student distilled", [run.test_accuracy for run in report.distilled], report.student, "student_ms"),
        row(f"  saved: seed {report.kept}", [report.kept_accuracy], report.student, "student_ms"),
    ]


def write(report: Report, stem: Path) -> None:
    """stem.json and stem.md."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(f"{stem.name}.json").write_text(json.dumps(report.document(), indent=2) + "\n")
    stem.with_name(f"{stem.name}.md").write_text(markdown(report))


def markdown(report: Report) -> str:
    """The same for people."""
    rows = report_rows(report)
    table = [_line(rows[0]), _line(["---"] * len(rows[0])), *(_line(row.values()) for row in rows)]
    seeds = [
        _line([alone.seed, *(f"{100 * share:.2f}" for share in (alone.test_accuracy, distilled.test_accuracy, gain))])
        for alone, distilled, gain in zip(report.alone, report.distilled, report.gains, strict=True)
    ]
    gain = _summary(report.gains)["mean"]
    items = ", ".join(f"{count} {name}" for name, count in report.items.items())
    faster = ", ".join(f"{line.ratio:.1f} times as fast at batch {line.batch}" for line in report.latency)
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    networks = [f"{network.architecture} ({network.folder})" for network in (report.teacher, report.student)]
    return f"""# Distillation: {report.data}

{" teaches ".join(networks)}.
{report.labels} labels; items: {items}.

{chr(10).join(table)}

One forward pass of the student is {faster}: medians in eager float32 on preprocessed items,
{report.threads} threads, teacher and student by turns.

Test accuracy in per cent for each seed; both columns start from the same weights and see the same items in the same
order:

| seed | alone | distilled | gain |
|---|---|---|---|
{chr(10).join(seeds)}

Mean gain {100 * gain:+.2f} points, standard error {100 * _standard_error(report.gains):.2f}; one item of the test split
is {100 / report.items["test"]:.2f} points. The saved student is the best distilled one on the validation split.

Trained in {report.wall_s:.0f} s with {_words(report.options)}.
{machine}.
"""


def rounded(value: Any, digits: int = 5) -> Any:
    """value with its floats rounded, however deep they lie."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {key: rounded(inner, digits) for key, inner in value.items()}
    return [rounded(inner, digits) for inner in value] if isinstance(value, (list, tuple)) else value


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}


def _standard_error(values: Sequence[float]) -> float:
    return _summary(values)["sd"] / math.sqrt(len(values))


def _line(cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _words(options: dict[str, Any]) -> str:
    pairs = ((name, f"({_words(value)})" if isinstance(value, dict) else value) for name, value in options.items())
    return ", ".join(f"{name} {value}" for name, value in pairs)
