"""Text encoders: token ids in, one vector a text out, in several modes behind one interface.

module.py is the model; eager.py, jit.py, aot.py and kernels.py each run it in one way; artefacts.py is what the last
two leave in an archive. Knows nothing of text, requests or batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from servekit.batching import PassLimits
from servekit.encoders.module import EncoderSpec
from servekit.encoders.rows import Ids
from servekit.errors import UnusableArtefact
from servekit.log import log
from servekit.settings import CompileSettings


class Encoder(Protocol):
    """One way to run the model."""

    mode: str

    def __call__(self, texts: Ids) -> Tensor:
        """One forward pass: token ids of each text, of a group that plan gave. Returns [B, D] float32."""
        ...

    def plan(self, lengths: Sequence[int], limits: PassLimits) -> list[list[int]]:
        """Texts of so many tokens as forward passes: groups of indices into lengths, the longest texts first."""
        ...

    def slots(self, lengths: Sequence[int]) -> int:
        """Token slots that one pass over texts of these lengths computes, padding included."""
        ...

    def warmup_shapes(self, wanted: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The shapes (texts, tokens of each) to run before the first request, given those that the YAML names."""
        ...

    def compilations(self) -> int:
        """Graphs that this process has compiled for the encoder so far."""
        ...


def load_encoder(spec: EncoderSpec, compile_settings: CompileSettings, artefacts: Path) -> Encoder:
    """The encoder in the mode asked for, or in the next one that this machine can do; each step down is logged.

    aot needs an artefact that fits this machine, jit a C++ compiler, eager nothing. Raises UnusableArtefact instead of
    stepping down from aot where the settings require artefacts.
    """
    # Imported here, since a mode that is not used need not be importable (eager: no Inductor).
    mode = compile_settings.mode
    if mode == "aot":
        from servekit.encoders import artefacts as compiled

        found = compiled.find(spec, artefacts)
        if isinstance(found, Path):
            return compiled.load(spec, found)
        if compile_settings.require_artifacts:
            raise UnusableArtefact(f"{spec.name}: handler.compile.require_artifacts: {found}")
        log.info("%s: ahead-of-time artefact not used (%s); compiling in the worker instead", spec.name, found)
        mode = "jit"
    if mode == "jit":
        from servekit.aot import missing_compiler
        from servekit.encoders import jit

        reason = missing_compiler()
        if not reason:
            return jit.JitEncoder(spec, compile_settings)
        log.info("%s: torch.compile not used (%s); running eager, slower", spec.name, reason)
    from servekit.encoders import eager

    return eager.EagerEncoder(spec)
