"""What an encoder's archive holds for each kind of CPU: the kernels where they know the model, else Inductor's package.

Each lies in a folder named after its kind of CPU (fingerprint.LEVELS) with a fingerprint of what it is for.
"""

from __future__ import annotations

from pathlib import Path

import torch

from servekit import aot as packages
from servekit import fingerprint
from servekit.encoders import aot, families, kernels
from servekit.encoders.eager import EagerEncoder
from servekit.encoders.module import EncoderSpec
from servekit.fingerprint import FINGERPRINT_FILE, LIBRARY_FILE, PACKAGE_FILE
from servekit.log import log

SAMPLE_LENGTHS = (9, 1, 40)
LEAST_COSINES = {"fp32": 0.99999, "int8": 0.9}
"""Of the kernels' vectors to the eager float32 model's. Random weights lose more to 8 bits than trained ones."""


def wanted_fingerprint(spec: EncoderSpec, level: str) -> dict[str, str]:
    """What an artefact has to be made from and for to be right for spec on this kind of CPU, with this torch."""
    return {
        "torch": fingerprint.torch_version(),
        "cpu": level,
        "model_sha256": fingerprint.model_sha256(spec.model_dir),
        "settings": spec.settings_key,
        # A library is called by structures that both sides have to know alike.
        "kernels": fingerprint.file_sha256(kernels.SOURCE),
    }


def find(spec: EncoderSpec, artefacts: Path) -> Path | str:
    """The folder of the best artefact that may be loaded here, or why there is none."""
    levels = fingerprint.levels()
    there = [file.parent.name for file in sorted(artefacts.glob(f"*/{FINGERPRINT_FILE}"))]
    fitting = [level for level in levels if level in there]
    if not fitting:
        built = f"built for {', '.join(there)}" if there else "none in the archive"
        return f"cpu: {built}, here {levels[0] if levels else 'none that is known'}"
    chosen = artefacts / fitting[0]
    if fitting[0] != levels[0]:
        log.info("%s: the artefact is for %s, this CPU is %s: slower than need be", spec.name, fitting[0], levels[0])
    return packages.mismatch(chosen / FINGERPRINT_FILE, wanted_fingerprint(spec, fitting[0])) or chosen


def load(spec: EncoderSpec, artefact: Path) -> kernels.KernelsEncoder | aot.AotEncoder:
    """What find has found."""
    library = artefact / LIBRARY_FILE
    return kernels.KernelsEncoder(spec, library) if library.exists() else aot.AotEncoder(artefact)


def build(spec: EncoderSpec, artefact: Path, level: str) -> None:
    """Fill the folder artefact. Needs a C++ compiler; takes 5 s, with Inductor 25.

    level: the kernels are built for any, Inductor's package for one of fingerprint.levels().
    """
    library = artefact / LIBRARY_FILE
    if reason := unfit(spec, level):
        log.info("%s: compiled by Inductor: for the kernels, %s", spec.name, reason)
    else:
        kernels.build(library, level)
        if level in fingerprint.levels() and (reason := _wrong(spec, library)):
            log.warning("%s: compiled by Inductor: the kernels %s", spec.name, reason)
            library.unlink()
    described = aot.build(spec, artefact / PACKAGE_FILE, level) if reason else {}
    packages.write_fingerprint(artefact / FINGERPRINT_FILE, {**wanted_fingerprint(spec, level), **described})


def unfit(spec: EncoderSpec, level: str) -> str:
    """Why an artefact for this kind of CPU is Inductor's, or the empty string."""
    return "the YAML asks for Inductor's" if spec.backend == "inductor" else families.unfit(spec, level)


def _wrong(spec: EncoderSpec, library: Path) -> str:
    """How far the kernels' answer is from the model's, or the empty string where it is right."""
    texts = [list(range(1, 1 + min(length, spec.max_length))) for length in SAMPLE_LENGTHS]
    found, expected = kernels.KernelsEncoder(spec, library)(texts), EagerEncoder(spec)(texts)
    cosine = float(torch.nn.functional.cosine_similarity(found, expected).min())
    return "" if cosine >= LEAST_COSINES[spec.precision] else f"answer otherwise than the model, cosine {cosine:.4f}"
