"""Classifiers: images or token ids in, logits out, on the rungs of a ladder of optimisations behind one interface.

module.py is the model. eager, channels_last, ipex, compiled, bf16 and int8 each run it in one way; auto.py measures
which is fastest here. Knows nothing of requests or batches.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Protocol

from torch import Tensor

from servekit.classifiers import auto, bf16, channels_last, compiled, eager, int8, ipex
from servekit.classifiers.module import ClassifierSpec, Inputs
from servekit.log import log
from servekit.settings import ClassifierSettings


class Runner(Protocol):
    """One way to run a classifier."""

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """The batch sizes it takes, ascending from 1; None when it takes any."""
        ...

    def __call__(self, inputs: Inputs) -> Tensor:
        """Logits [B, C] float32."""
        ...


class RunnerClass(Protocol):
    """How a step is loaded. artefacts: the archive's folder of what was made when it was built."""

    def __call__(self, spec: ClassifierSpec, artefacts: Path) -> Runner: ...


class Step(Protocol):
    """A module of this package: one rung."""

    @property
    def Runner(self) -> RunnerClass: ...

    def impossible(self, spec: ClassifierSpec, artefacts: Path) -> str:
        """Why this step cannot run here, or the empty string when it can."""
        ...


LADDER: dict[str, Step] = {
    "eager": eager, "channels_last": channels_last, "ipex": ipex, "compile": compiled, "bf16": bf16, "int8": int8,
}  # fmt: skip
EXACT = ("compile", "ipex", "channels_last", "eager")
"""Steps that leave the scores as they are, in the order in which one stands in for a step that is not possible."""


def load_classifier(spec: ClassifierSpec, settings: ClassifierSettings, artefacts: Path) -> tuple[str, Runner]:
    """The step that the settings ask for, or the next one that is possible here, with its name; each no is logged."""
    wanted = settings.candidates if settings.step == "auto" else (settings.step, *EXACT)
    possible: list[str] = []
    for step in dict.fromkeys(wanted):
        reason = LADDER[step].impossible(spec, artefacts)
        if reason:
            log.info("%s: step %s is not possible: %s", spec.name, step, reason)
        else:
            possible.append(step)
            if settings.step != "auto":
                break
    loaders = {step: partial(LADDER[step].Runner, spec, artefacts) for step in possible}
    chosen = possible[0]
    if settings.step == "auto":
        table = auto.measured(spec, loaders)
        chosen = auto.best_step(table)
        log.info("%s: auto takes %s: %s", spec.name, chosen, auto.in_words(table))
    return chosen, LADDER[chosen].Runner(spec, artefacts)
