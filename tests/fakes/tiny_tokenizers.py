"""Tokenizers of the two kinds that Llamas have, trained in a moment: byte-level BPE, and sentencepiece's way."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "The with statement is used to wrap the execution of a block with methods defined by a context manager.",
    "What do you call a llama that streams? A stop-and-go, of course!\n\nUser: more, more, more.\nAssistant: no.",
    "naïve café, Straße, Ωμέγα",
    "静かな夜に、文字を一つずつ送る。日本語と中文。",
    "smiles 😀😁😂 and families 👩‍👩‍👧‍👦 and flags 🇯🇵",
]
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SIZE: Any = {"vocab_size": 700, "show_progress": False}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' and loop.first %}{{ raise_exception('the user speaks first') }}{% endif %}"
    "<s>{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@cache
def byte_level() -> Any:
    """As Llama 3: every token is a piece of UTF-8, cut anywhere."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(special_tokens=SPECIAL, initial_alphabet=alphabet, **SIZE))
    return _finish(tokenizer)


@cache
def sentencepiece() -> Any:
    """As Llama 2: ▁ for spaces, one put first and taken off again, and bytes for what the vocabulary lacks."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(TEXTS[:3], trainers.BpeTrainer(special_tokens=SPECIAL, **SIZE))
    model = json.loads(trained.to_str())["model"]
    vocabulary = [*SPECIAL, *BYTES, *(piece for piece in model["vocab"] if piece not in SPECIAL)]
    ids = {piece: token_id for token_id, piece in enumerate(vocabulary)}
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    replace = decoders.Replace("▁", " ")
    tokenizer.decoder = decoders.Sequence(
        [replace, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finish(tokenizer)


@cache
def metaspace() -> Any:
    """As sentencepiece, by the Metaspace pair, and with no bytes: what the vocabulary lacks is <unk>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(special_tokens=SPECIAL, **SIZE))
    return _finish(tokenizer)


def _finish(tokenizer: Tokenizer) -> Any:
    bos = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
