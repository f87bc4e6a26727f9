"""A sentence-transformers folder with random weights: small enough to compile in seconds."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["the", "fox", "dog", "jumps", "over", "lazy", "server", "model", "text", "vector"]
VOCABULARY = [*SPECIAL, *WORDS, *string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase), *string.digits]
MAX_LENGTH = 32
FAMILIES: dict[str, tuple[Any, Any]] = {
    "bert": (BertConfig, BertModel),
    "distilbert": (DistilBertConfig, DistilBertModel),
    "mpnet": (MPNetConfig, MPNetModel),
    "roberta": (XLMRobertaConfig, XLMRobertaModel),
}


def make_tiny_model(
    folder: Path, *, family: str = "bert", pooling: str = "mean", normalize: bool = True, hidden: int = 32
) -> Path:
    """Write the folder: weights, tokenizer, and the files that name pooling, normalisation and length.

    hidden: size; the kernels know multiples of 64.
    """
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    configuration, model = FAMILIES[family]
    model(configuration(**sizes)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    modules = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    _write(
        folder / "modules.json",
        [
            {
                "idx": i,
                "name": str(i),
                "path": "" if i == 0 else f"{i}_{m}",
                "type": f"sentence_transformers.models.{m}",
            }
            for i, m in enumerate(modules)
        ],
    )
    flag = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}[pooling]
    _write(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": hidden}
        | {f"pooling_mode_{name}": name == flag for name in ("mean_tokens", "cls_token", "max_tokens")},
    )
    _write(folder / "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH, "do_lower_case": False})
    return folder


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
