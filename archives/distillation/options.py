"""What a training is told: checked before anything is read or trained. Knows nothing of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from model_configs.errors import KitError
from servekit.strict import Strict, problems

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Options = TypeVar("Options", bound=Strict)


class Augment(Strict):
    """Small random shifts, rotations and zooms of images, drawn once: epoch e trains on view e modulo views.

    With views drawn beforehand the teacher sees each of them once, however many epochs and seeds follow.
    """

    views: Count = 8
    shift: Share = 0.08
    """Largest shift to each side, as a share of width and height."""
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 8.0
    zoom: Share = 0.08
    """Largest change of size."""


class Recipe(Strict):
    """How one network is trained: AdamW, one cycle of the learning rate, early stopping."""

    epochs: Count = 30
    batch_size: Annotated[int, Field(ge=2)] = 32
    learning_rate: Positive = 1e-3
    """The highest of the cycle."""
    weight_decay: Weight = 0.01
    patience: Count = 10
    """Epochs without a better validation accuracy (at equal accuracy: a lower loss) after which training ends."""
    label_smoothing: Share = 0.0
    augment: Augment | None = None
    """Images only."""
    max_length: Count = 128
    """Text only: longest row in tokens."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks are trained; auto takes a GPU if there is one. Latency is always measured on the CPU."""


class TrainOptions(Recipe):
    """A classifier trained on labels alone: a teacher, when there is none yet."""

    model: Path
    """A transformers folder: config.json and the preprocessor's or tokenizer's files; weights if it has any."""
    data: Path
    out: Path
    seed: Seed = 0


class DistillOptions(Recipe):
    """A student trained by a teacher, against the same student trained alone, for each seed."""

    teacher: Path
    """A transformers folder with weights."""
    student: Path
    """A transformers folder; without weights it starts from random ones, from others for each seed."""
    data: Path
    out: Path
    """Where the best distilled student goes."""
    report: Path | None = None
    """Where the report goes, without its suffix; .json and .md are added. None: report in out."""
    loss: Literal["dist", "hinton"] = "dist"
    temperature: Positive = 1.0
    alpha: Weight = 1.0
    """Weight of the cross-entropy with the labels."""
    beta: Weight = 1.0
    """Weight of DIST's inter-class relation, or of Hinton's loss."""
    gamma: Weight = 1.0
    """Weight of DIST's intra-class relation."""
    seeds: Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)] = (0, 1, 2, 3, 4)

    @model_validator(mode="after")
    def _go_together(self) -> DistillOptions:
        if self.loss == "hinton" and "gamma" in self.model_fields_set:
            raise ValueError("gamma is DIST's; loss=hinton has temperature, alpha and beta")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each may stand once")
        if self.out.resolve() in (self.teacher.resolve(), self.student.resolve()):
            raise ValueError("out: would overwrite the teacher or the student that it starts from")
        return self


def checked(schema: type[Options], values: dict[str, Any]) -> Options:
    """values as schema. Raises KitError with a line for each that is wrong."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        lines = "\n       ".join(problems(error, schema))
        raise KitError(lines, f"there are: {', '.join(schema.model_fields)}") from None
