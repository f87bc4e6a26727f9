"""The CPU's decode step, kernels.cpp: built with the archive for this kind of CPU, called through ctypes.

torch's own products of a few rows reach the memory's speed for one row only: eight rows take 2.5 times as long, and
8-bit weights twice as long as float32's (docs/decisions/0011). Knows nothing of when a step is due.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from servekit import fingerprint
from servekit.engines.llama import Linear, Llama
from servekit.native import build_library

SOURCE = Path(__file__).with_name("kernels.cpp")
LIBRARY = "kernels.so"
LANES = 16
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
MOST_ROWS = 64
FLAGS = ("-O3", "-fopenmp", "-shared", "-fPIC", "-std=c++17", "-Wno-psabi")


class _Weight(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("scale", ctypes.c_void_p), ("bias", ctypes.c_void_p))


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("attention_norm", "mlp_norm")),
        *((name, _Weight) for name in ("qkv", "o", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in (
                *("kind", "layers", "hidden", "heads", "kv_heads", "head_dim"),
                *("ffn", "vocab", "positions", "threads"),
            )
        ),
        ("eps", ctypes.c_float),
        ("layer", ctypes.POINTER(_Layer)),
        *((name, _Weight) for name in ("embedding", "head")),
        *((name, ctypes.c_void_p) for name in ("norm", "cos", "sin")),
    )


def fingerprint_here() -> dict[str, str]:
    """What a built library has to match: source, compiler flags and the CPU's features."""
    return {
        "source_sha256": fingerprint.file_sha256(SOURCE),
        "flags": " ".join(FLAGS),
        "cpu": hashlib.sha256(" ".join(sorted(fingerprint.cpuinfo("flags", "Features").split())).encode()).hexdigest(),
    }


def mismatch(folder: Path) -> str:
    """Why the library in folder must not be loaded, or the empty string when it may."""
    described = folder / "kernels.json"
    if not (folder / LIBRARY).exists() or not described.exists():
        return f"there is no {LIBRARY} in the archive"
    return fingerprint.difference(fingerprint_here(), json.loads(described.read_text()))


def build(folder: Path, march: str = "native") -> None:
    """Compile into folder, with a fingerprint. Takes 7 s. Raises RuntimeError with the compiler's words."""
    build_library(SOURCE, folder / LIBRARY, (f"-march={march}", *FLAGS))
    (folder / "kernels.json").write_text(json.dumps(fingerprint_here(), indent=2) + "\n")


def unfit(model: Llama) -> str:
    """Why the kernels cannot run this model, or the empty string."""
    s = model.shape
    odd = [n for n in (s.hidden, s.ffn, s.head_dim) if n % LANES]
    if odd:
        return f"a size of {odd[0]} is no multiple of {LANES}"
    if s.head_dim > 512:
        return f"head_dim {s.head_dim} is more than 512"
    if model.cos.dtype != torch.float32 or model.cos.device.type != "cpu":
        return "they compute in float32 on a CPU"
    if model.head.weight.dtype not in KINDS:
        return f"weights of {model.head.weight.dtype}"
    return ""


class Step:
    """A model's decode step. Keeps the model: the library works on its memory."""

    def __init__(self, model: Llama, folder: Path, threads: int, rows: int) -> None:
        """rows: most in one call."""
        self._model, self._rows = model, min(rows, MOST_ROWS)
        library = ctypes.CDLL(str(folder / LIBRARY))
        self._step = library.servekit_step
        self._step.restype = None
        pointer = ctypes.c_void_p
        self._step.argtypes = (ctypes.POINTER(_Model), ctypes.c_int, *(pointer,) * 5)
        self._layers = (_Layer * model.shape.layers)(
            *(
                _Layer(
                    _address(layer.attention_norm),
                    _address(layer.mlp_norm),
                    *map(_weight, (layer.qkv, layer.o, layer.gate_up, layer.down)),
                    _address(model.keys[number]),
                    _address(model.values[number]),
                )
                for number, layer in enumerate(model.layers)
            )
        )
        s = model.shape
        self._struct = _Model(
            *(KINDS[model.head.weight.dtype], s.layers, s.hidden, s.heads, s.kv_heads, s.head_dim, s.ffn, s.vocab),
            *(model.keys.shape[3], threads, s.eps, self._layers, _weight(model.embedding), _weight(model.head)),
            *(_address(model.norm), _address(model.cos), _address(model.sin)),
        )
        library.servekit_scratch_floats.restype = ctypes.c_int64
        self._scratch = torch.empty(library.servekit_scratch_floats(ctypes.byref(self._struct), self._rows))
        self._logits = torch.empty(self._rows, s.vocab)

    def __call__(self, ids: list[int], slots: list[int], positions: list[int]) -> Tensor:
        """Logits [rows, vocab] of one more token for each row; valid until the next call."""
        done = []
        for start in range(0, len(ids), self._rows):
            part = slice(start, start + self._rows)
            rows = len(ids[part])
            own_ids = torch.tensor(ids[part], dtype=torch.int64)
            own_slots = torch.tensor(slots[part], dtype=torch.int32)
            own_positions = torch.tensor(positions[part], dtype=torch.int32)
            arguments = map(_address, (own_ids, own_slots, own_positions, self._logits, self._scratch))
            self._step(ctypes.byref(self._struct), rows, *arguments)
            done.append(self._logits[:rows] if len(ids) <= self._rows else self._logits[:rows].clone())
        return done[0] if len(done) == 1 else torch.cat(done)


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr()


def _weight(linear: Linear) -> _Weight:
    own = (linear.weight, linear.scale, linear.bias)
    return _Weight(*(None if tensor is None else tensor.data_ptr() for tensor in own))
