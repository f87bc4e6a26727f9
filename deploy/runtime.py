"""What workers' libraries are told by environment variables, by the kind of CPU, and which allocator they get.

What is set already stays as it is. Knows nothing of models.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

from servekit.fingerprint import cpuinfo

GRAVITON = {
    "THP_MEM_ALLOC_ENABLE": "1",  # huge pages for tensors
    "LRU_CACHE_CAPACITY": "1024",  # oneDNN keeps its primitives for as many shapes
    "TORCH_MKLDNN_MATMUL_MIN_DIM": "64",  # smaller products go to OpenBLAS
}
"""AWS's settings for Graviton (pytorch.org: Inference tuning on AWS Graviton; Optimized RAG on Graviton)."""
FAST_MATH = {"DNNL_DEFAULT_FPMATH_MODE": "BF16"}
"""Of the same sources: float32 products in bfloat16, where the CPU has it, from Graviton3 on."""
GLIBC = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}
"""glibc's malloc keeps what lies between two layers instead of giving it back and faulting it in again: 39 page faults
a pass of 32 × 65 tokens in place of 5709 (docs/decisions/0020)."""
ALLOCATORS = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4", "libjemalloc.so.2")
LIBRARY_FOLDERS = tuple(
    Path(folder)
    for folder in (
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/lib",
    )
)


def variables(
    environ: Mapping[str, str],
    architecture: str = platform.machine(),
    features: Iterable[str] | None = None,
    folders: Iterable[Path] = LIBRARY_FOLDERS,
) -> dict[str, str]:
    """What to add to environ. features: the kernel's names for what the CPU can do; this machine's if None."""
    wanted: dict[str, str] = {}
    if architecture == "aarch64":
        wanted |= GRAVITON
        if "bf16" in (cpuinfo("Features").split() if features is None else features):
            wanted |= FAST_MATH
    if allocator := find_allocator(folders):
        wanted["LD_PRELOAD"] = str(allocator)
    else:
        wanted |= GLIBC
    return {key: value for key, value in wanted.items() if key not in environ}


def find_allocator(folders: Iterable[Path] = LIBRARY_FOLDERS) -> Path | None:
    """tcmalloc or jemalloc, if the machine has one."""
    found = (folder / name for name in ALLOCATORS for folder in folders)
    return next((path for path in found if path.is_file()), None)
