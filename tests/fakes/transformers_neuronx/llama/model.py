"""LlamaForSampling."""

from __future__ import annotations

from transformers import LlamaForCausalLM

from ..base import ModelForSampling


class LlamaForSampling(ModelForSampling):
    """Computes with LlamaForCausalLM."""

    computes_with = LlamaForCausalLM
