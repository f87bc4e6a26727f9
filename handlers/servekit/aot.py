"""A module as an AOTInductor package: compiled once, loaded in a tenth of a second, never recompiled.

Knows nothing of which model it is or where packages are kept.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from servekit import fingerprint

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
ONEDNN_LEVELS = {"amx": "AVX512_CORE_AMX", "avx512_vnni": "AVX512_CORE_BF16", "avx512": "AVX512_CORE", "avx2": "AVX2"}
"""oneDNN's names for fingerprint.LEVELS: weights are packed for the CPU that it thinks it runs on."""
DESCRIPTOR_BYTES = 772
"""Of one oneDNN memory descriptor in a package, as torch 2.13 writes it."""
DESCRIPTOR_GAPS = (slice(108, 112), slice(316, 320))
"""The alignment behind its data type and its format kind: never read, and written with what the stack held."""


def missing_compiler() -> str:
    """Why Inductor cannot compile here, or the empty string when it can."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "no C++ compiler: set CXX or install g++"
    return ""


def build_environment(level: str) -> dict[str, str]:
    """Variables that a process which compiles for this level of fingerprint.LEVELS has to be started with."""
    return {"ONEDNN_MAX_CPU_ISA": ONEDNN_LEVELS[level]} if level in ONEDNN_LEVELS else {}


@contextmanager
def compiling_for(level: str) -> Iterator[None]:
    """Inductor writes vector code for this level of fingerprint.LEVELS, which this CPU must have."""
    from torch._inductor import cpu_vec_isa

    levels = list(fingerprint.LEVELS)
    # Inductor takes the first of this list that the CPU has.
    names = {"VecAMX": "amx", "VecAVX512VNNI": "avx512_vnni", "VecAVX512": "avx512", "VecAVX2": "avx2"}
    allowed = [
        isa
        for isa in cpu_vec_isa.supported_vec_isa_list
        if levels.index(names.get(type(isa).__name__, level)) >= levels.index(level)
    ]
    cached = cpu_vec_isa.valid_vec_isa_list
    with mock.patch.object(cpu_vec_isa, "supported_vec_isa_list", allowed):
        cached.cache_clear()
        try:
            yield
        finally:
            cached.cache_clear()


def compile_package(module: nn.Module, inputs: tuple[Tensor, ...], package: Path, dynamic: Any = None) -> None:
    """Compile module into the file package. Needs a C++ compiler; takes 8 to 40 s.

    inputs: example tensors; dynamic: torch.export's dynamic_shapes, None when every size is as in the example.
    """
    operator = torch.ops.mkldnn._get_mkldnn_serialized_md
    serialize = operator._op
    with torch.no_grad(), mock.patch.object(operator, "_op", lambda *packed: clear_gaps(serialize(*packed))):
        exported = torch.export.export(module, inputs, dynamic_shapes=dynamic)
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(package), inductor_configs=dict(INDUCTOR_CONFIG)
        )
    _drop_sources(package)


def clear_gaps(descriptor: Tensor) -> Tensor:
    """A serialised oneDNN memory descriptor, bytes, with zeros between its fields: equal models, equal packages."""
    if len(descriptor) != DESCRIPTOR_BYTES:
        return descriptor
    cleared = descriptor.clone()
    for gap in DESCRIPTOR_GAPS:
        cleared[gap] = 0
    return cleared


def write_fingerprint(path: Path, wanted: dict[str, str]) -> None:
    """Say beside a package what it was made from and for."""
    path.write_text(json.dumps(wanted, indent=2) + "\n")


def mismatch(path: Path, wanted: dict[str, str]) -> str:
    """Why what this fingerprint file describes must not be loaded here, or the empty string when it may."""
    if not path.exists():
        return f"there is no {path.name} in the archive"
    return fingerprint.difference(wanted, json.loads(path.read_text()))


class Package:
    """A loaded package. Only load what a fingerprint has been compared for: it is native code."""

    def __init__(self, package: Path) -> None:
        # What torch._inductor.aoti_load_package wraps. The wrapper imports Dynamo and Inductor (3.1 s against 0.14 s)
        # and parses the call's tree specification at every call. The fingerprint has made sure of torch's version.
        loader = torch._C._aoti.AOTIModelPackageLoader  # path, model, single-threaded, runners, device
        self._runner = loader(str(package), "model", False, 1, -1)

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> Tensor:
        """The module's one output."""
        result: Sequence[Tensor] = self._runner.run(list(inputs))
        return result[0]


def _drop_sources(package: Path) -> None:
    """Take the generated C++ out: it is not needed to load, and its comments hold this machine's include paths."""
    slim = package.with_suffix(".slim")
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(slim, "w") as target:
        for name in sorted(source.namelist()):
            if not name.endswith(".cpp"):
                target.writestr(zipfile.ZipInfo(name), source.read(name))
    slim.replace(package)
