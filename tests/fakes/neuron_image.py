"""A Neuron image without a Neuron device: the stand-in of transformers-neuronx under its own name, a tiny Llama."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

PACKAGE = "transformers_neuronx"
VOCABULARY = 101
EOS = 2


def enter(monkeypatch: pytest.MonkeyPatch, library: Path = Path(__file__).parent) -> None:
    """Until the end of the test: `import transformers_neuronx` finds the stand-in, and no NEURON* variable is set."""
    leave = [name for name in sys.modules if name.partition(".")[0] == PACKAGE]
    for name in leave:
        monkeypatch.delitem(sys.modules, name)
    # Behind everything else: other files of this folder have names that TorchServe's modules have.
    monkeypatch.setattr(sys, "path", [*sys.path, str(library)])
    for name in [name for name in os.environ if name.startswith("NEURON")]:
        monkeypatch.delenv(name)
    for name in ("NEURON_RT_VISIBLE_CORES", "NEURON_CC_FLAGS", "NEURON_COMPILE_CACHE_URL", "NEURONX_DUMP_TO"):
        monkeypatch.setenv(name, "")  # so that what an engine sets is taken back
        monkeypatch.delenv(name)


def tiny_model(family: str = "llama", seed: int = 0) -> Any:
    """A transformers model with random weights, in float32."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,  # wide enough that greedy answers differ from row to row
        "bos_token_id": 1,
        "eos_token_id": EOS,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    if family == "mistral":
        return MistralForCausalLM(MistralConfig(**sizes)).eval()
    return LlamaForCausalLM(LlamaConfig(**sizes)).eval()


def greedy(model: Any, prompt: tuple[int, ...], new_tokens: int) -> list[int]:
    """What transformers.generate answers to one prompt, alone, without regard to EOS."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return list(output[0, len(prompt) :].tolist())
