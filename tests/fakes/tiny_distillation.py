"""Classifiers that train in a second, and dataset folders that they can learn: light and dark images, texts by words."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import BertConfig, DistilBertConfig, ResNetConfig

from tests.fakes.tiny_model import VOCABULARY, tiny_tokenizer

SIZE = 8
GOOD, BAD, NEUTRAL = ["fox", "dog", "jumps"], ["lazy", "server", "model"], ["the", "over", "text", "vector"]


def write_images(folder: Path, counts: Mapping[str, int]) -> Path:
    """folder/<split>/{dark,light}/<n>.png, counts of each by split ("." for no split): dark above or light above."""
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        for label in ("dark", "light"):
            own = folder / split / label
            own.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 160, (SIZE, SIZE))
                pixels[: SIZE // 2] += 80 if label == "light" else 0
                Image.fromarray(pixels.astype(np.uint8)).save(own / f"{number}.png")
    return folder


def write_image_model(folder: Path, size: int, width: int = 8) -> Path:
    """A ResNet's folder without weights. size: of its square input in pixels; width: its channels."""
    folder.mkdir(parents=True, exist_ok=True)
    config = ResNetConfig(
        embedding_size=width, hidden_sizes=[width, 2 * width], depths=[1, 1], layer_type="basic",
        architectures=["ResNetForImageClassification"],
    )  # fmt: skip
    config.save_pretrained(folder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": size, "width": size},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def write_texts(folder: Path, count: int) -> Path:
    """folder/train.jsonl: count texts of each of two labels, which one word in them tells."""
    generator = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for label, words in (("good", GOOD), ("bad", BAD)):
        for _ in range(count):
            text = [*generator.choices(NEUTRAL, k=generator.randint(2, 8)), generator.choice(words)]
            generator.shuffle(text)
            rows.append({"text": " ".join(text), "label": label})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_bert(folder: Path) -> Path:
    """A BERT's folder without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=64, pad_token_id=0,
    ).save_pretrained(folder)  # fmt: skip
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_distilbert(folder: Path) -> Path:
    """A DistilBERT's folder without weights, narrower and with one layer."""
    folder.mkdir(parents=True, exist_ok=True)
    DistilBertConfig(
        vocab_size=len(VOCABULARY), dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=32,
        pad_token_id=0,
    ).save_pretrained(folder)  # fmt: skip
    tiny_tokenizer().save_pretrained(folder)
    return folder
