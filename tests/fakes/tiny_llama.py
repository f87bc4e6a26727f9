"""A random Llama small enough to test with, and a byte-level tokenizer for it."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def make_config(**changes: object) -> LlamaConfig:
    """vocab: the 256 bytes and <s>, </s>."""
    values: dict[str, object] = {
        "vocab_size": 258, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 128, "bos_token_id": 256,
        "eos_token_id": 257, "pad_token_id": 257, "tie_word_embeddings": True, "initializer_range": 0.4,
    }  # fmt: skip
    return LlamaConfig(**{**values, **changes})


def make_tiny_llama(folder: Path, **changes: object) -> Path:
    """Write config, weights and tokenizer into folder. Random weights, large enough that no two logits tie."""
    torch.manual_seed(0)
    LlamaForCausalLM(make_config(**changes)).eval().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: number for number, symbol in enumerate(alphabet)} | {"<s>": 256, "</s>": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    made.chat_template = CHAT_TEMPLATE
    return made
