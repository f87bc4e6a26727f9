"""The model that every mode runs: a transformers encoder, pooling and normalisation in one module."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from servekit.sentence_files import read_sentence_files
from servekit.settings import EmbeddingSettings


@dataclass(frozen=True)
class EncoderSpec:
    """What to compute: everything the vectors depend on, and the largest shape."""

    name: str
    model_dir: Path
    pooling: str
    normalize: bool
    max_length: int
    max_batch: int
    trust_remote_code: bool
    precision: str = "fp32"
    backend: str = "auto"
    pad_id: int = 0

    @property
    def settings_key(self) -> str:
        """The settings that a compiled artefact has built in, as a string."""
        return json.dumps([self.pooling, self.normalize, self.max_length, self.max_batch, self.precision, self.backend])


def encoder_spec(name: str, model_dir: Path, settings: EmbeddingSettings) -> EncoderSpec:
    """Settings over the model's own files. Raises UnsupportedModel, or OSError when the folder has no config.json."""
    files = read_sentence_files(model_dir)
    config = json.loads((model_dir / "config.json").read_text())
    position_limit = config.get("max_position_embeddings", 512)
    max_length = files.max_length or position_limit if settings.max_length == "auto" else settings.max_length
    return EncoderSpec(
        name=name,
        model_dir=model_dir,
        pooling=files.pooling if settings.pooling == "auto" else settings.pooling,
        normalize=files.normalize if settings.normalize == "auto" else settings.normalize,
        max_length=max_length,
        max_batch=settings.max_batch_texts,
        trust_remote_code=settings.trust_remote_code,
        precision=settings.compile.precision,
        backend=settings.compile.backend,
        pad_id=config.get("pad_token_id") or 0,
    )


def pool_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of the token vectors that are not padding."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # [B, L, 1]
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def pool_cls(hidden: Tensor, mask: Tensor) -> Tensor:
    """The first token's vector."""
    return hidden[:, 0]


def pool_max(hidden: Tensor, mask: Tensor) -> Tensor:
    """Largest value over the tokens that are not padding, for each dimension."""
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(1)


POOLINGS = {"mean": pool_mean, "cls": pool_cls, "max": pool_max}


class PooledEncoder(nn.Module):
    """input_ids, attention_mask [B, L] int64 → vectors [B, D] float32."""

    def __init__(self, encoder: nn.Module, pooling: str, normalize: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = POOLINGS[pooling]
        self.normalize = normalize

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # [B, L, D]
        vectors = self.pool(hidden, attention_mask)  # [B, D]
        return nn.functional.normalize(vectors, dim=1) if self.normalize else vectors


def load_module(spec: EncoderSpec) -> PooledEncoder:
    """The model in float32, from safetensors only: a pickle can run code when it is read."""
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    encoder: Any = AutoModel.from_pretrained(
        spec.model_dir,
        use_safetensors=True,
        trust_remote_code=spec.trust_remote_code,
        local_files_only=True,
    )
    # BERT's own pooler is not the one that is asked for, and bfloat16's passes stumble over a layer without a use.
    if type(encoder).__module__.startswith("transformers.") and hasattr(encoder, "pooler"):
        encoder.pooler = None
    # .float() rather than an argument: transformers 4 calls it torch_dtype, transformers 5 dtype.
    return PooledEncoder(encoder, spec.pooling, spec.normalize).float().eval()
