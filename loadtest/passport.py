"""Which machine and which software a figure was measured on. Knows nothing of what is measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shutil
import subprocess
from typing import Any

import psutil

from model_configs import ROOT
from servekit.cpus import usable_cpus
from servekit.fingerprint import cpu_model, cpuinfo

PACKAGES = ("torch", "torchserve", "transformers", "tokenizers", "numpy")


def passport() -> dict[str, Any]:
    """Date (UTC), CPU, usable CPUs, memory, kernel, Python, packages, commit."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "cpu": _cpu_name(),
        "usable_cpus": usable_cpus(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "commit": _commit(),
    }


def in_words(card: dict[str, Any]) -> str:
    """One line for the foot of a table."""
    versions = ", ".join(f"{name} {version}" for name, version in card["packages"].items())
    return f"{card['date']}, {card['cpu']}, {card['usable_cpus']} CPUs, {card['memory_gib']} GiB; {versions}"


def _cpu_name() -> str:
    """The model's name, with what the CPU can do, since a virtual machine's name often says nothing."""
    flags = cpuinfo("flags", "Features").split()
    features = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if flag in flags]
    return f"{cpu_model()} ({' '.join(features)})"


def _version(package: str) -> str | None:
    """None on a machine that only makes load."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    if shutil.which("git") is None:
        return "unknown"
    result = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown"
