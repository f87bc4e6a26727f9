"""Decoding on a CUDA device at batch 1: transformers, eager, and the kit's engine on the same random weights.

Runs where nothing but torch, transformers and pydantic is installed. Knows nothing of tables and files of results.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from loadtest import llama_steps
from loadtest.llama_model import TINY, prompt_ids

LLAMA_2_7B = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 4096,
}  # fmt: skip


def device_name() -> str:
    """Empty when torch finds no CUDA device."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""


def random_model(shape: dict[str, Any], device: str) -> Any:
    """transformers' Llama in bfloat16, its weights drawn on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**shape)).eval()
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None
    return model


def measure(
    *, prompt: int, tokens: int, turns: int, read_bytes: int, tiny: bool = False, device: str = "cuda"
) -> dict[str, Any]:
    """Milliseconds of each step by name, the engine's weights in bytes and mode, and how many greedy tokens agree.

    prompt, tokens: read and decoded in each turn. tiny: a small model, to try this function out.
    """
    shape: dict[str, Any] = dict(TINY) if tiny else LLAMA_2_7B
    ids = [prompt_ids(prompt, seed=0, vocabulary=shape["vocab_size"])]
    with tempfile.TemporaryDirectory(prefix="bench-llama-") as name:
        model = random_model(shape, device)
        model.save_pretrained(name)
        # The last window is as long as prompt and answer: one graph serves every step.
        engine = llama_steps.make_engine(
            Path(name), Path(name), 1, device, max_length=prompt + tokens, amp="bf16", mode="compile"
        )
    calls = {
        "transformers": lambda: llama_steps.transformers_steps(model, ids, tokens),
        "engine": lambda: llama_steps.engine_steps(engine, ids, tokens),
        **llama_steps.readers(read_bytes, device),
    }
    calls["engine"]()  # compiles and, the next time, records its CUDA graphs
    same = llama_steps.engine_tokens(engine, ids, [tokens])[0]
    theirs = llama_steps.generate(model, ids, tokens)[0]
    agree = next((n for n, (a, b) in enumerate(zip(same, theirs, strict=True)) if a != b), tokens)
    return {
        "steps_ms": llama_steps.in_turns(calls, turns),
        "weight_bytes": engine.model.weight_bytes,
        "same_tokens": agree,
        **engine.fingerprint(),
    }
