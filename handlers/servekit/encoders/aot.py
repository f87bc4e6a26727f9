"""The encoder as an AOTInductor package: compiled when the archive is built, loaded in a tenth of a second.

One package takes any batch and length up to the largest, so there are no buckets and nothing is ever compiled in
the worker.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from servekit import aot, fingerprint
from servekit.encoders.module import EncoderSpec, load_module
from servekit.quantise import int8_linears

PACKAGE_FILE = "encoder.pt2"
FINGERPRINT_FILE = "encoder.json"


def wanted_fingerprint(spec: EncoderSpec) -> dict[str, str]:
    """What an artefact has to be made from and for to be right for spec in this process."""
    return {
        **fingerprint.machine(),
        "model_sha256": fingerprint.model_sha256(spec.model_dir),
        "settings": spec.settings_key,
    }


def mismatch(spec: EncoderSpec, artefact: Path) -> str:
    """Why the artefact in this folder must not be loaded, or the empty string when it may."""
    if not (artefact / PACKAGE_FILE).exists():
        return f"there is no {PACKAGE_FILE} in the archive"
    return aot.mismatch(artefact / FINGERPRINT_FILE, wanted_fingerprint(spec))


def build(spec: EncoderSpec, artefact: Path) -> None:
    """Compile spec into artefact/encoder.pt2 and write its fingerprint. Needs a C++ compiler; takes about 25 s."""
    # Example sizes that are neither 0, 1 nor a bound: torch.export would take those for constants.
    input_ids = torch.ones((min(3, spec.max_batch), min(9, spec.max_length)), dtype=torch.int64)
    # A dimension of one value is no dimension for torch.export; the handler still splits at max_batch.
    batch = torch.export.Dim("batch", min=1, max=max(4, spec.max_batch))
    length = torch.export.Dim("length", min=2, max=spec.max_length)
    sizes = {0: batch, 1: length}
    inputs = (input_ids, torch.ones_like(input_ids))
    module = load_module(spec)
    if spec.precision == "int8":
        int8_linears(module.encoder)
    aot.compile_package(module, inputs, artefact / PACKAGE_FILE, (sizes, sizes))
    aot.write_fingerprint(artefact / FINGERPRINT_FILE, wanted_fingerprint(spec))


class AotEncoder:
    """Any batch up to max_batch_texts, any length up to the model's."""

    mode = "aot"

    def __init__(self, artefact: Path) -> None:
        self._package = aot.Package(artefact / PACKAGE_FILE)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self._package(input_ids, attention_mask)

    def padded_shape(self, rows: int, columns: int) -> tuple[int, int]:
        return rows, max(2, columns)

    def warmup_shapes(self, wanted: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return wanted
