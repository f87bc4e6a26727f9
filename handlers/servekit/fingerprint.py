"""What a compiled artefact was made from and for, so that it is never loaded where it would be wrong.

Knows nothing of how artefacts are made or loaded.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The features that choose Inductor's vector code or oneDNN's packed weight layout (oneDNN: dispatch by ISA).
ISA_FEATURES = (
    "avx2", "fma3", "avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_int8",
    "amx_bf16", "neon", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip
LEVELS = {
    "amx": {"avx512_f", "avx512_vnni", "amx_tile", "amx_int8", "amx_bf16"},
    "avx512_vnni": {"avx512_f", "avx512_vnni"},
    "avx512": {"avx512_f"},
    "avx2": {"avx2", "fma3"},
    "sve": {"sve", "bf16"},
    "neon": {"neon"},
}
"""Kinds of CPU that an encoder is compiled for, the best first, and what each has: those that Inductor tells apart
(cpu_vec_isa.py)."""
PACKAGE_FILE, LIBRARY_FILE, FINGERPRINT_FILE = "encoder.pt2", "encoder.so", "encoder.json"
"""An encoder's artefact, in the folder of its level: Inductor's package or the kernels, and what it fits."""
# The kernel's names for some of those; torch before 2.10 has no list of its own.
FLAG_NAMES = {"avx512f": "avx512_f", "fma": "fma3", "asimd": "neon"}
CHUNK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def model_sha256(model_dir: Path, code: Sequence[str] = ()) -> str:
    """Hex sha256 over what a model computes with: config.json, the weights, and the code files named."""
    files = [model_dir / "config.json", *sorted(model_dir.glob("*.safetensors")), *(model_dir / name for name in code)]
    digest = hashlib.sha256()
    for path in filter(Path.exists, files):
        digest.update(f"{path.name}:{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def torch_version() -> str:
    """The release of torch, without the build: "2.13.0"."""
    import torch

    return torch.__version__.split("+")[0]


def machine() -> dict[str, str]:
    """The torch build and the instruction set of this process: {"torch": "2.13.0", "isa": "x86_64 avx2 …"}."""
    architecture, features = cpu_features()
    names = [name for name in ISA_FEATURES if name in features]
    return {"torch": torch_version(), "isa": " ".join([architecture, *names])}


def cpu_features() -> tuple[str, set[str]]:
    """This CPU's architecture and what it can do, in torch's names."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        found: Mapping[str, Any] = torch.cpu.get_capabilities()
        return str(found["architecture"]), {name for name, there in found.items() if there}
    return platform.machine(), {FLAG_NAMES.get(flag, flag) for flag in cpuinfo("flags", "Features").split()}


def levels() -> list[str]:
    """Which of LEVELS this CPU is, the best first."""
    _, features = cpu_features()
    return [level for level, needed in LEVELS.items() if needed <= features]


def cpu_model() -> str:
    """The CPU's name as /proc/cpuinfo has it; the architecture where it has none."""
    return cpuinfo("model name") or platform.machine()


def cpuinfo(*keys: str) -> str:
    """The first CPU's value of one of these keys of /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() in keys), "")


def difference(wanted: dict[str, str], found: dict[str, str]) -> str:
    """Where two fingerprints differ, for a log line: `isa: built for …, here …`; empty when they agree."""
    return "; ".join(
        f"{key}: built for {found.get(key, 'nothing')}, here {wanted[key]}"
        for key in wanted
        if wanted[key] != found.get(key)
    )
