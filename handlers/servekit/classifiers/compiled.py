"""torch.compile's code, with weights frozen and packed, compiled ahead of time: the fastest exact step on most CPUs."""

from __future__ import annotations

from pathlib import Path

from servekit.classifiers import packages
from servekit.classifiers.module import ClassifierSpec

NAME = "compile"


def impossible(spec: ClassifierSpec, artefacts: Path) -> str:
    """Packages that fit, or a compiler to make them."""
    return packages.impossible(NAME, spec, artefacts)


class Runner(packages.Runner):
    """The packages of the archive, or of this machine's cache."""

    def __init__(self, spec: ClassifierSpec, artefacts: Path) -> None:
        super().__init__(NAME, spec, packages.find_or_build(NAME, spec, artefacts))
