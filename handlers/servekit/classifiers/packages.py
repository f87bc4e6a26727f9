"""What the compiled steps share: one AOTInductor package for each batch size of images, one for all sizes of texts.

A static size is what convolutions are fastest with: ResNet-50 at batch 1 took 44 ms, 55 ms in a package for any size,
and int8 11 ms against 99. Texts vary in length as well, and lose nothing by one package for any size.
Packages come with the archive. Where those do not fit the machine, they are compiled here, once, into this machine's
cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from servekit import aot, fingerprint
from servekit.classifiers.module import ClassifierSpec, Inputs, images_to_nhwc, load_module, module_to_nhwc
from servekit.log import log
from servekit.machine_cache import cache_folder

Transform = Callable[[nn.Module, ClassifierSpec, Inputs], nn.Module]
"""From the float32 module, for example inputs, to the module that is compiled."""


def as_is(module: nn.Module, spec: ClassifierSpec, example: Inputs) -> nn.Module:
    """In its own float32, images channels last."""
    return module if spec.is_text else module_to_nhwc(module)


def wanted_fingerprint(spec: ClassifierSpec) -> dict[str, str]:
    """What a package has to be made from and for to be right for spec in this process."""
    return {
        **fingerprint.machine(),
        "model_sha256": spec.sha256,
        "settings": spec.settings_key,
    }


def mismatch(step: str, spec: ClassifierSpec, folder: Path) -> str:
    """Why the packages in folder must not be loaded, or the empty string when they may."""
    return aot.mismatch(folder / f"{step}.json", wanted_fingerprint(spec))


def cached(step: str, spec: ClassifierSpec) -> Path:
    """The folder in this machine's cache for packages of just this fingerprint."""
    key = json.dumps([step, wanted_fingerprint(spec)], sort_keys=True)
    return cache_folder("packages") / hashlib.sha256(key.encode()).hexdigest()[:16]


def impossible(step: str, spec: ClassifierSpec, artefacts: Path) -> str:
    """Why a step that needs packages cannot run: none fits, in the archive or in the cache, and none can be made."""
    if spec.source == "torchscript":
        return "torch.export takes no TorchScript model"
    reason = mismatch(step, spec, artefacts)
    if not reason or not mismatch(step, spec, cached(step, spec)):
        return ""
    compiler = aot.missing_compiler()
    return f"{reason}; {compiler}" if compiler else ""


def build(step: str, spec: ClassifierSpec, folder: Path, transform: Transform = as_is) -> None:
    """Compile spec's packages into folder and write their fingerprint. Takes 8 to 40 s for each."""
    for size in _sizes(spec):
        example = spec.example(size or 3)
        module = transform(load_module(spec), spec, example)
        if not spec.is_text:
            example = images_to_nhwc(example)
        aot.compile_package(module, example, _package(folder, step, size), _dynamic(spec))
    aot.write_fingerprint(folder / f"{step}.json", wanted_fingerprint(spec))


def find_or_build(step: str, spec: ClassifierSpec, artefacts: Path, transform: Transform = as_is) -> Path:
    """The folder with packages that fit: the archive's, else this machine's cache, filled now if it is not yet."""
    reason = mismatch(step, spec, artefacts)
    if not reason:
        return artefacts
    folder = cached(step, spec)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several workers one compiles
        if mismatch(step, spec, folder):
            log.info("%s: compiling for this machine (%s)", spec.name, reason)
            started = time.perf_counter()
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            build(step, spec, folder, transform)
            log.info("%s: compiled in %.0f s, kept for the next start", spec.name, time.perf_counter() - started)
    return folder


class Runner:
    """sizes: the batch sizes there are packages for; None when one takes any."""

    def __init__(self, step: str, spec: ClassifierSpec, folder: Path) -> None:
        self.sizes = None if spec.is_text else spec.batch_sizes
        self._packages = {size: aot.Package(_package(folder, step, size)) for size in _sizes(spec)}

    def __call__(self, inputs: Inputs) -> Tensor:
        if self.sizes is None:
            return self._packages[0](*inputs)
        return self._packages[len(inputs[0])](*images_to_nhwc(inputs))


def _sizes(spec: ClassifierSpec) -> tuple[int, ...]:
    """0 stands for a package that takes any size."""
    return (0,) if spec.is_text else spec.batch_sizes


def _package(folder: Path, step: str, size: int) -> Path:
    return folder / (f"{step}.{size}.pt2" if size else f"{step}.pt2")


def _dynamic(spec: ClassifierSpec) -> object:
    if not spec.is_text:
        return None
    # A dimension of one value is no dimension for torch.export; the handler still splits at max_batch.
    batch = torch.export.Dim("batch", min=1, max=max(4, spec.max_batch))
    length = torch.export.Dim("length", min=2, max=spec.max_length)
    return (tuple({0: batch, 1: length} for _ in spec.input_names),)
