"""A Llama with random weights and a tokenizer for it, in a transformers folder: speed does not depend on what is said.

Every token has a text of its own, so that a server has something to stream for each. Knows nothing of measuring.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

BYTES = 256
BEGIN, END = BYTES, BYTES + 1
SPECIAL = ("<s>", "</s>")
SMOLLM_135M = {
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
TINY = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 512, "max_position_embeddings": 512, "tie_word_embeddings": True,
    "initializer_range": 0.4,  # in so small a network, with less the best logits nearly tie
}  # fmt: skip


def write_model(folder: Path, shape: Mapping[str, object]) -> Path:
    """Write weights (float32, from seed 0), configuration and tokenizer, unless folder holds this very shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    done = folder / "shape.json"
    if done.exists() and json.loads(done.read_text()) == dict(shape):
        return folder
    config = LlamaConfig(**shape, bos_token_id=BEGIN, eos_token_id=END, pad_token_id=END)
    torch.manual_seed(0)
    LlamaForCausalLM(config).eval().save_pretrained(folder)
    write_tokenizer(folder, config.vocab_size)
    done.write_text(json.dumps(dict(shape)) + "\n")
    return folder


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """The 256 bytes, <s>, </s>, and words that no text is read into but that tokens are written as."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"Ġ{word(number)}" for number in range(vocabulary - len(alphabet) - len(SPECIAL))]
    vocab = {symbol: number for number, symbol in enumerate([*alphabet, *SPECIAL, *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    begin, end = SPECIAL
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end, pad_token=end)
    made.save_pretrained(folder)


def word(number: int) -> str:
    """A word of three letters or more, another for each number."""
    letters = ""
    while number or len(letters) < 3:
        number, place = divmod(number, 26)
        letters = chr(ord("a") + place) + letters
    return letters


def prompt_ids(length: int, seed: int, vocabulary: int) -> list[int]:
    """Random tokens, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(END + 1, vocabulary, (length,), generator=generator).tolist()
    return ids
