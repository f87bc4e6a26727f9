"""What a sentence-transformers model folder says about turning token vectors into one text vector.

Reads modules.json and the small JSON files beside it. Knows nothing of torch or tokenizers. A folder without
modules.json is a plain transformers model: mean pooling, no normalisation, as sentence-transformers itself assumes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POOLING_KEYS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
MODULES = ("Transformer", "Pooling", "Normalize")


class UnsupportedModel(ValueError):
    """The folder asks for something that this encoder does not do; the message names file and key."""


@dataclass(frozen=True)
class SentenceFiles:
    """pooling: mean, cls or max; max_length: tokens, None when the files do not say; prompt: put before every text."""

    pooling: str = "mean"
    normalize: bool = False
    max_length: int | None = None
    lower_case: bool = False
    prompt: str = ""


def read_sentence_files(folder: Path) -> SentenceFiles:
    """Read folder's sentence-transformers files. Raises UnsupportedModel for modules or poolings we do not have."""
    modules = _read_json(folder / "modules.json", default=[])
    if not modules:
        return SentenceFiles()
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    unknown = [kind for kind in kinds if kind not in MODULES]
    if unknown:
        raise UnsupportedModel(f"{folder / 'modules.json'}: module {unknown[0]} is not supported, only {MODULES}")
    limits = _read_json(folder / "sentence_bert_config.json", default={})
    prompts = _read_json(folder / "config_sentence_transformers.json", default={})
    default_prompt = prompts.get("default_prompt_name")
    return SentenceFiles(
        pooling=next(
            (
                _pooling(folder / module["path"] / "config.json")
                for module, kind in zip(modules, kinds, strict=True)
                if kind == "Pooling"
            ),
            "mean",
        ),
        normalize="Normalize" in kinds,
        max_length=limits.get("max_seq_length"),
        lower_case=bool(limits.get("do_lower_case", False)),
        prompt=prompts["prompts"][default_prompt] if default_prompt else "",
    )


def _pooling(config_file: Path) -> str:
    config = _read_json(config_file, default={})
    if "pooling_mode" in config:  # sentence-transformers 6 writes the name itself
        modes = [config["pooling_mode"]]
    else:
        modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        modes = [POOLING_KEYS.get(mode, mode) for mode in modes]
    if len(modes) != 1 or modes[0] not in POOLING_KEYS.values():
        raise UnsupportedModel(f"{config_file}: pooling {modes} is not supported, only one of mean, cls, max")
    return str(modes[0])


def _read_json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default
