"""Classifiers with random weights, small enough to compile in seconds, in transformers' folders."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import BertConfig, BertForSequenceClassification, ResNetConfig, ResNetForImageClassification

from tests.fakes.tiny_model import VOCABULARY, tiny_tokenizer

LABELS = ["cat", "dog", "cow"]
SIDE = 32


def make_image_classifier(folder: Path, *, fixed_size: bool = True) -> Path:
    """A ResNet of two stages with a processor that makes SIDE × SIDE pixels of any image."""
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=dict(enumerate(LABELS))
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    write_processor(folder, fixed_size=fixed_size)
    return folder


def write_processor(folder: Path, *, fixed_size: bool = True) -> None:
    """preprocessor_config.json; without fixed_size images keep their aspect ratio."""
    processor = {
        "image_processor_type": "ViTImageProcessor" if fixed_size else "CLIPImageProcessor",
        "size": {"height": SIDE, "width": SIDE} if fixed_size else {"shortest_edge": SIDE},
        "do_center_crop": False,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def make_text_classifier(
    folder: Path, *, problem_type: str | None = None, labels: Sequence[str] = tuple(LABELS)
) -> Path:
    """A BERT of two layers with the tokenizer of the tiny encoder."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
        id2label=dict(enumerate(labels)),
        problem_type=problem_type,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def image_file(seed: int = 0, size: tuple[int, int] = (48, 40), file_format: str = "PNG") -> bytes:
    """An image of noise as a file's bytes."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), file_format)
    return buffer.getvalue()
