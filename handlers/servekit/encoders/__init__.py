"""Text encoders: token ids in, one vector a text out, in three modes behind one interface.

module.py is the model; eager.py, jit.py and aot.py each run it in one way. Knows nothing of text, requests or batches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor

from servekit.encoders.module import EncoderSpec
from servekit.log import log
from servekit.settings import CompileSettings


class Encoder(Protocol):
    """One way to run the model."""

    mode: str

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask: [B, L] int64, right-padded, in a shape that padded_shape gave. Returns [B, D]."""
        ...

    def padded_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """The shape that a batch of rows texts, the longest of columns tokens, has to be padded to."""
        ...

    def warmup_shapes(self, wanted: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The shapes to run before the first request, given those that the YAML names."""
        ...


def load_encoder(spec: EncoderSpec, compile_settings: CompileSettings, artefact: Path) -> Encoder:
    """The encoder in the mode asked for, or in the next one that this machine can do; each step down is logged.

    aot needs an artefact whose fingerprint matches, jit a C++ compiler, eager nothing.
    """
    # Imported here, since a mode that is not used need not be importable (eager: no Inductor).
    mode = compile_settings.mode
    if mode == "aot":
        from servekit.encoders import aot

        reason = aot.mismatch(spec, artefact)
        if not reason:
            return aot.AotEncoder(artefact)
        log.info("%s: ahead-of-time artefact not used (%s); compiling in the worker instead", spec.name, reason)
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
