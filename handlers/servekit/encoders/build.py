"""Run by `kit.py archive` in a process of its own: writes an encoder's golden answer and compiled artefact.

    python -m servekit.encoders.build MODEL_DIR OUT_DIR NAME SETTINGS_JSON

Writes OUT_DIR/golden.json, and with compile.mode aot a folder OUT_DIR/<kind of CPU> with its artefact for each kind
of compile.machines; a fifth argument names the one that it is to write alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

from servekit import fingerprint
from servekit.aot import build_environment
from servekit.encoders import artefacts
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
TOLERANCES = {"fp32": 0.0001, "bf16": 0.005, "int8": 0.02}
"""Of a cosine to the eager float32 model's vector, by precision."""


def make_golden(spec: EncoderSpec) -> Golden:
    """The eager model's answer, by transformers' own tokenizer call rather than the handler's."""
    tokenizer = AutoTokenizer.from_pretrained(spec.model_dir, trust_remote_code=spec.trust_remote_code)
    files = read_sentence_files(spec.model_dir)
    texts = [files.prompt + (text.strip().lower() if files.lower_case else text.strip()) for text in GOLDEN_TEXTS]
    rows = tokenizer(texts, truncation=True, max_length=spec.max_length)["input_ids"]
    vectors = EagerEncoder(spec)(rows)
    rounded = [[round(value, 6) for value in row] for row in vectors.tolist()]
    return Golden({"inputs": list(GOLDEN_TEXTS)}, "vectors", rounded, TOLERANCES[spec.precision])


def main(model_dir: str, out_dir: str, name: str, settings_json: str, level: str = "") -> None:
    """See the module's docstring."""
    torch.manual_seed(0)
    settings = EmbeddingSettings.model_validate_json(settings_json)
    spec, out = encoder_spec(name, Path(model_dir), settings), Path(out_dir)
    if level:
        (out / level).mkdir()
        artefacts.build(spec, out / level, level)
        return
    make_golden(spec).save(out)
    if settings.compile.mode == "aot":
        for each in settings.compile.machines or fingerprint.levels()[:1]:
            # A process each: oneDNN and Inductor look at the CPU once.
            command = [sys.executable, "-m", "servekit.encoders.build", model_dir, out_dir, name, settings_json, each]
            subprocess.run(command, check=True, env={**os.environ, **build_environment(each)})


if __name__ == "__main__":
    main(*sys.argv[1:])
