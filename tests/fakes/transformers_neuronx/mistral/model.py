"""MistralForSampling."""

from __future__ import annotations

from transformers import MistralForCausalLM

from ..base import ModelForSampling


class MistralForSampling(ModelForSampling):
    """Computes with MistralForCausalLM."""

    computes_with = MistralForCausalLM
