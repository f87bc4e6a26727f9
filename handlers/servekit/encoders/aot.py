"""The encoder as an AOTInductor package: compiled when the archive is built, loaded in a tenth of a second.

One package takes any batch and length up to the largest, so there are no buckets and nothing is ever compiled in
the worker. Where the model allows it, texts are packed and nothing is computed on padding (packed.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from servekit import aot
from servekit.batching import PassLimits, plan_groups
from servekit.encoders.module import EncoderSpec, load_module
from servekit.encoders.packed import PackedEncoder, first_position, packable
from servekit.encoders.rows import Ids, pack, pad
from servekit.fingerprint import FINGERPRINT_FILE, PACKAGE_FILE
from servekit.quantise import LINEARS

ATTENTION_PADDING = 0.5
"""Share of a packed pass's attention that may be padding: a tenth of the work at 256 tokens, less below."""
SAMPLE_LENGTHS = (9, 4, 7)


def build(spec: EncoderSpec, package: Path, level: str) -> dict[str, Any]:
    """Compile spec into the file package; returns how to call it. Needs a C++ compiler; takes about 25 s.

    level: of fingerprint.levels(). Anything but the first needs build_environment(level) from the process's start.
    """
    with torch.no_grad():
        module, layout = module_and_layout(spec)
    # Example sizes that are neither 0, 1 nor a bound: torch.export would take those for constants.
    texts = [[1] * min(length, spec.max_length) for length in SAMPLE_LENGTHS[: max(1, min(3, spec.max_batch))]]
    # A dimension of one value is no dimension for torch.export; the handler still splits at max_batch.
    batch = torch.export.Dim("batch", min=1, max=max(4, spec.max_batch))
    length = torch.export.Dim("length", min=2, max=spec.max_length)
    inputs: tuple[Tensor, ...]
    sizes: tuple[dict[int, Any], ...]
    if layout["packed"]:
        tokens = torch.export.Dim("tokens", min=2, max=max(4, spec.max_batch) * spec.max_length)
        inputs = pack(texts, layout["first_position"])
        sizes = ({0: tokens}, {0: tokens}, {0: batch, 1: length}, {0: tokens})
    else:
        inputs = pad(texts, spec.pad_id)
        sizes = ({0: batch, 1: length},) * 2
    with aot.compiling_for(level):
        aot.compile_package(module, inputs, package, sizes)
    return layout


def module_and_layout(spec: EncoderSpec) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The module to compile, packed if it then answers as the padded one does, and how to call it."""
    padded = load_module(spec)
    texts = [[1] * min(length, spec.max_length) for length in SAMPLE_LENGTHS]
    expected = padded(*pad(texts, spec.pad_id))
    layout: dict[str, Any] = {"packed": packable(padded.encoder), "first_position": 0, "pad_id": spec.pad_id}
    module: torch.nn.Module = padded
    if layout["packed"]:
        layout["first_position"] = first_position(padded.encoder)
        module = PackedEncoder(padded)
        found = module(*pack(texts, layout["first_position"]))
        if not torch.allclose(found, expected, atol=1e-4):
            module, layout["packed"] = load_module(spec), False
    if spec.precision != "fp32":
        LINEARS[spec.precision](module)
    return module, layout


class AotEncoder:
    """Any batch up to max_batch_texts, any length up to the model's."""

    mode = "aot"

    def __init__(self, artefact: Path) -> None:
        layout = json.loads((artefact / FINGERPRINT_FILE).read_text())
        self._packed = bool(layout["packed"])
        self._first_position, self._pad_id = int(layout["first_position"]), int(layout["pad_id"])
        self._package = aot.Package(artefact / PACKAGE_FILE)

    def __call__(self, texts: Ids) -> Tensor:
        if self._packed:
            return self._package(*pack(texts, self._first_position))
        return self._package(*pad(texts, self._pad_id, (len(texts), max(2, *map(len, texts)))))

    def plan(self, lengths: Sequence[int], limits: PassLimits) -> list[list[int]]:
        padding = max(limits.padding, ATTENTION_PADDING) if self._packed else limits.padding
        return plan_groups(lengths, limits.texts, padding, limits.tokens)

    def slots(self, lengths: Sequence[int]) -> int:
        return sum(lengths) if self._packed else len(lengths) * max(lengths)

    def warmup_shapes(self, wanted: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return wanted

    def compilations(self) -> int:
        return 0
