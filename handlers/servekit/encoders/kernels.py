"""The encoder in C++, kernels.cpp: built with the archive in five seconds, fed with the model's own safetensors.

For the family of BERT (BERT, RoBERTa, XLM-RoBERTa, DistilBERT, MPNet), float32 and int8. Nothing is padded, and a
text's vector has the same bits in any batch. Knows nothing of text or requests.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from servekit.batching import PassLimits, plan_groups
from servekit.encoders.families import ACTIVATIONS, LEVEL_FLAGS, read_shape
from servekit.encoders.module import EncoderSpec
from servekit.encoders.rows import Ids
from servekit.errors import UnusableArtefact
from servekit.native import build_library

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-O3", "-shared", "-fPIC", "-pthread", "-std=c++17", "-Wno-psabi", "-mprefer-vector-width=512")
HUGE_PAGE = 2 << 20
POOLINGS = {"mean": 0, "cls": 1, "max": 2}
WORDS = "embeddings.word_embeddings.weight"


class _Linear(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("weight", "scale", "bias", "sum"))


class _Norm(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("weight", "bias"))


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Linear) for name in ("qkv", "out", "up", "down")),
        *((name, _Norm) for name in ("attention", "ffn")),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in (
                *("layers", "hidden", "heads", "ffn", "int8"),
                *("activation", "pooling", "normalize", "reach"),
            )
        ),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("words", "positions", "type", "distance")),
        ("embedded", _Norm),
        ("layer", ctypes.POINTER(_Layer)),
    )


def build(library: Path, level: str) -> None:
    """Compile for a kind of CPU, which need not be this one. Raises RuntimeError with the compiler's words."""
    build_library(SOURCE, library, (*LEVEL_FLAGS[level], *FLAGS))


class KernelsEncoder:
    """Any batch, any length up to the model's, on as many threads as torch has at the time."""

    mode = "kernels"

    def __init__(self, spec: EncoderSpec, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        self._encode = loaded.servekit_encode
        pointer, number = ctypes.c_void_p, ctypes.c_int
        self._encode.restype = None
        self._encode.argtypes = (ctypes.POINTER(_Model), pointer, pointer, number, number, number, pointer)
        self._weights = Weights(spec, loaded.servekit_panel())

    def __call__(self, texts: Ids) -> Tensor:
        weights = self._weights
        lengths = [len(text) for text in texts]
        starts = np.zeros(len(texts) + 1, dtype=np.int32)
        np.cumsum(lengths, out=starts[1:])
        ids = np.fromiter((token for text in texts for token in text), dtype=np.int64, count=int(starts[-1]))
        # The library reads where it is told to: what is out of range would be another's memory.
        if ids.min() < 0 or ids.max() >= weights.vocabulary or max(lengths) > weights.max_length:
            raise IndexError(
                f"token ids from {ids.min()} to {ids.max()}, texts of up to {max(lengths)} tokens: "
                f"the model has {weights.vocabulary} and {weights.max_length}"
            )
        vectors = torch.empty(len(texts), weights.model.hidden)
        self._encode(
            weights.model, ids.ctypes.data, starts.ctypes.data, len(texts), weights.first_position,
            torch.get_num_threads(), vectors.data_ptr(),
        )  # fmt: skip
        return vectors

    def plan(self, lengths: Sequence[int], limits: PassLimits) -> list[list[int]]:
        # By number alone: the library makes blocks of its own, of more evenly if there are more texts.
        return plan_groups(lengths, limits.texts, 1.0)

    def slots(self, lengths: Sequence[int]) -> int:
        return sum(lengths)

    def warmup_shapes(self, wanted: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return wanted

    def compilations(self) -> int:
        return 0


class Weights:
    """A model folder's tensors as kernels.cpp wants them. model points into what this holds.

    Float32 tensors that need no other order stay in the file's pages, which all workers of a machine share.
    """

    def __init__(self, spec: EncoderSpec, panel: int) -> None:
        """panel: the library's. Raises UnusableArtefact for a model that the kernels do not know."""
        shape = read_shape(spec.model_dir)
        if isinstance(shape, str):
            raise UnusableArtefact(f"{spec.name}: {shape}")
        self._panel, self._int8, self._kept = panel, spec.precision == "int8", list[Tensor]()
        numbers = shape.layers * 2 * shape.hidden * (2 * shape.hidden + shape.ffn)
        self._large = Arena(numbers * (1 if self._int8 else 4))
        self.first_position, self.max_length = shape.first_position, shape.positions - shape.first_position
        tensors = _Tensors(spec.model_dir)
        names = shape.names

        def norm(name: str) -> _Norm:
            return _Norm(self._keep(tensors[f"{name}.weight"]), self._keep(tensors[f"{name}.bias"]))

        def linear(*layers: str) -> _Linear:
            weight = torch.cat([tensors[f"{name}.weight"] for name in layers])
            return self._linear(weight, torch.cat([tensors[f"{name}.bias"] for name in layers]))

        def layer(number: int) -> _Layer:
            own = f"{names.layer}.{number}."
            return _Layer(
                linear(own + names.query, own + names.key, own + names.value),
                *(linear(own + name) for name in (names.out, names.up, names.down)),
                norm(own + names.attention_norm),
                norm(own + names.ffn_norm),
            )

        words, types = tensors[WORDS], "embeddings.token_type_embeddings.weight"
        distance = "encoder.relative_attention_bias.weight"
        reach = self.max_length if distance in tensors else 0
        self.vocabulary = len(words)
        self._layers = (_Layer * shape.layers)(*map(layer, range(shape.layers)))
        self.model = _Model(
            *(shape.layers, shape.hidden, shape.heads, shape.ffn, self._int8),
            *(ACTIVATIONS[shape.activation], POOLINGS[spec.pooling], spec.normalize, reach),
            shape.eps,
            self._keep(words),
            self._keep(tensors["embeddings.position_embeddings.weight"]),
            self._keep(tensors[types][0]) if types in tensors else None,
            self._keep(distances(tensors[distance], reach)) if reach else None,
            norm("embeddings.LayerNorm"),
            self._layers,
        )

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(tensor.contiguous())
        return self._kept[-1].data_ptr()

    def _linear(self, weight: Tensor, bias: Tensor) -> _Linear:
        """weight: [outputs, inputs]."""
        outputs, inputs = weight.shape
        if not self._int8:
            panels = weight.view(outputs // self._panel, self._panel, inputs).transpose(1, 2)
            return _Linear(self._large.copy(panels), None, self._keep(bias), None)
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        whole = (weight / scale[:, None]).round().to(torch.int8)
        panels = whole.view(outputs // self._panel, self._panel, inputs // 4, 4).transpose(1, 2)
        small = map(self._keep, (scale, bias, whole.sum(1, dtype=torch.int32)))
        return _Linear(self._large.copy(panels), *small)


class Arena:
    """Memory for what every pass reads from end to end, in huge pages where there are any: it is read faster."""

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size + HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without them
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(self._memory, dtype=np.uint8)
        self._used = -self._bytes.ctypes.data % HUGE_PAGE

    def copy(self, tensor: Tensor) -> int:
        """Take tensor's numbers in; returns where they lie. Raises ValueError when they do not fit."""
        size, start = tensor.numel() * tensor.element_size(), self._used
        self._bytes[start : start + size] = tensor.contiguous().view(-1).numpy().view(np.uint8)
        self._used += size
        return int(self._bytes.ctypes.data) + start


class _Tensors:
    """A folder's safetensors as float32 by name, without what some models put before every name."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        opened = [safe_open(file, "pt") for file in sorted(folder.glob("*.safetensors"))]
        self._files = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
        self._prefix = next(name for name in self._files if name.endswith(WORDS)).removesuffix(WORDS)

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._files

    def __getitem__(self, name: str) -> Tensor:
        found: Tensor = self._files[self._prefix + name].get_tensor(self._prefix + name)
        return found.float()


def distances(bias: Tensor, reach: int) -> Tensor:
    """MPNet's bias by bucket [buckets, heads] as one by distance [heads, 2 * reach + 1], key - query from -reach on."""
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    bucket = MPNetEncoder.relative_position_bucket(torch.arange(-reach, reach + 1), num_buckets=len(bias))
    return bias[bucket].T
