"""A stand-in for AWS's transformers-neuronx 0.13, which runs only where Neuron devices are. Computes with transformers.

Written from the library's documented behaviour; tests/unit/test_fake_neuronx.py holds it to every row of it. Where the
real library lets a mistake pass in silence, this one raises, so that the kit's code has to be right:

- a keyword that the real signature has not (the real one swallows it), to the constructor and to sample()
- a second sample() while one runs (one KV cache: the real one mixes them up)
- load() after to_neuron() (the real one ignores it)

Not simulated, and refused: continuous batching, right padding, prefixes, sharded weights, speculation. What was done
is left to see in `model.forwards` (kind and bucket of every run), `model.compiled` (programs compiled, not found) and
`model.environment` (NEURON_* as to_neuron() saw it).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base import ModelForSampling
from .config import GQA, ContinuousBatchingConfig, GenerationConfig, NeuronConfig, QuantizationConfig
from .llama.model import LlamaForSampling
from .mistral.model import MistralForSampling
from .module import model_type

__all__ = [
    "GQA",
    "ContinuousBatchingConfig",
    "GenerationConfig",
    "NeuronAutoModelForCausalLM",
    "NeuronConfig",
    "QuantizationConfig",
]


class NeuronAutoModelForCausalLM:
    """The class for config.json's model_type; of the eight that the real one knows, the two that the kit serves."""

    @classmethod
    def from_pretrained(cls, path: str | Path, *args: Any, **kwargs: Any) -> ModelForSampling:
        classes: dict[str, type[ModelForSampling]] = {"llama": LlamaForSampling, "mistral": MistralForSampling}
        return classes[model_type(Path(path))].from_pretrained(path, *args, **kwargs)
