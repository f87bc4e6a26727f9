"""The encoder as an AOTInductor package: compiled when the archive is built, loaded in a tenth of a second.

One package takes any batch and length up to the largest, so there are no buckets and nothing is ever compiled in
the worker.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from servekit import fingerprint
from servekit.encoders.module import EncoderSpec, load_module

PACKAGE_FILE = "encoder.pt2"
FINGERPRINT_FILE = "encoder.json"

INDUCTOR_CONFIG = {
    "freezing": True,
    "cpp.weight_prepack": True,
    # Else the number of threads of the building machine is compiled in.
    "cpp.dynamic_threads": True,
    # Vector code for the ISA in the fingerprint, not for the building CPU's every feature (-march=native).
    "cpp.march": "",
    # These two would put memory addresses and build paths into the package, and no two builds would be equal.
    "size_asserts": False,
    "aot_inductor.enable_line_tables": False,
}


def wanted_fingerprint(spec: EncoderSpec) -> dict[str, str]:
    """What an artefact has to be made from and for to be right for spec in this process."""
    return {
        **fingerprint.machine(),
        "model_sha256": fingerprint.model_sha256(spec.model_dir),
        "settings": spec.settings_key,
    }


def mismatch(spec: EncoderSpec, artefact: Path) -> str:
    """Why the artefact in this folder must not be loaded, or the empty string when it may."""
    for name in (PACKAGE_FILE, FINGERPRINT_FILE):
        if not (artefact / name).exists():
            return f"there is no {name} in the archive"
    found = json.loads((artefact / FINGERPRINT_FILE).read_text())
    return fingerprint.difference(wanted_fingerprint(spec), found)


def build(spec: EncoderSpec, artefact: Path) -> None:
    """Compile spec into artefact/encoder.pt2 and write its fingerprint. Needs a C++ compiler; takes about 25 s."""
    module = load_module(spec)
    # Example sizes that are neither 0, 1 nor a bound: torch.export would take those for constants.
    input_ids = torch.ones((min(3, spec.max_batch), min(9, spec.max_length)), dtype=torch.int64)
    attention_mask = torch.ones_like(input_ids)
    # A dimension of one value is no dimension for torch.export; the handler still splits at max_batch.
    batch = torch.export.Dim("batch", min=1, max=max(4, spec.max_batch))
    length = torch.export.Dim("length", min=2, max=spec.max_length)
    dynamic = {0: batch, 1: length}
    with torch.no_grad():
        exported = torch.export.export(module, (input_ids, attention_mask), dynamic_shapes=(dynamic, dynamic))
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(artefact / PACKAGE_FILE), inductor_configs=INDUCTOR_CONFIG
        )
    _drop_sources(artefact / PACKAGE_FILE)
    (artefact / FINGERPRINT_FILE).write_text(json.dumps(wanted_fingerprint(spec), indent=2) + "\n")


def _drop_sources(package: Path) -> None:
    """Take the generated C++ out: it is not needed to load, and its comments hold this machine's include paths."""
    slim = package.with_suffix(".slim")
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(slim, "w") as target:
        for name in sorted(source.namelist()):
            if not name.endswith(".cpp"):
                target.writestr(zipfile.ZipInfo(name), source.read(name))
    slim.replace(package)


class AotEncoder:
    """Any batch up to max_batch_texts, any length up to the model's."""

    mode = "aot"

    def __init__(self, artefact: Path) -> None:
        # What torch._inductor.aoti_load_package wraps. The wrapper imports Dynamo and Inductor (3.1 s against 0.14 s)
        # and parses the call's tree specification at every call. The fingerprint has made sure of torch's version.
        loader = torch._C._aoti.AOTIModelPackageLoader  # path, model, single-threaded, runners, device
        self._runner = loader(str(artefact / PACKAGE_FILE), "model", False, 1, -1)

    @torch.inference_mode()
    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        vectors: Tensor = self._runner.run([input_ids, attention_mask])[0]
        return vectors

    def padded_shape(self, rows: int, columns: int) -> tuple[int, int]:
        return rows, max(2, columns)

    def warmup_shapes(self, wanted: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return wanted
