"""Run by `kit.py archive` in a process of its own: writes an encoder's golden answer and compiled artefact.

    python -m servekit.encoders.build MODEL_DIR OUT_DIR NAME SETTINGS_JSON

Writes OUT_DIR/golden.json, and with compile.mode aot OUT_DIR/encoder.pt2 and encoder.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

from servekit.encoders import aot
from servekit.encoders.eager import EagerEncoder
from servekit.encoders.module import EncoderSpec, encoder_spec
from servekit.golden import Golden
from servekit.sentence_files import read_sentence_files
from servekit.settings import EmbeddingSettings

GOLDEN_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Ein Satz über Zürich, 東京 und naïve Akzente.",
    "TorchServe says a model is healthy while it is still loading. " * 4,
)
TOLERANCES = {"fp32": 0.0001, "int8": 0.02}
"""Of a cosine to the eager float32 model's vector, by precision."""


def make_golden(spec: EncoderSpec) -> Golden:
    """The eager model's answer, by transformers' own tokenizer call rather than the handler's."""
    tokenizer = AutoTokenizer.from_pretrained(spec.model_dir, trust_remote_code=spec.trust_remote_code)
    files = read_sentence_files(spec.model_dir)
    texts = [files.prompt + (text.strip().lower() if files.lower_case else text.strip()) for text in GOLDEN_TEXTS]
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=spec.max_length, return_tensors="pt")
    vectors = EagerEncoder(spec)(tokens["input_ids"], tokens["attention_mask"])
    rounded = [[round(value, 6) for value in row] for row in vectors.tolist()]
    return Golden({"inputs": list(GOLDEN_TEXTS)}, "vectors", rounded, TOLERANCES[spec.precision])


def main(model_dir: str, out_dir: str, name: str, settings_json: str) -> None:
    """See the module's docstring."""
    torch.manual_seed(0)
    settings = EmbeddingSettings.model_validate_json(settings_json)
    spec = encoder_spec(name, Path(model_dir), settings)
    make_golden(spec).save(Path(out_dir))
    if settings.compile.mode == "aot":
        aot.build(spec, Path(out_dir))


if __name__ == "__main__":
    main(*sys.argv[1:])
