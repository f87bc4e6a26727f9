"""The `handler:` section of a model's YAML: one settings class for each handler. Pydantic only, no torch.

model_configs/schema.py checks the section with these classes before an archive is built, the handler reads it
with the same ones inside the worker.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from servekit.strict import Strict

PositiveInt = Annotated[int, Field(ge=1)]
Buckets = Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)]


class CompileSettings(Strict):
    """How the encoder is run.

    aot: an AOTInductor package built with the archive, any batch and length, nothing compiled in the worker.
    jit: torch.compile in the worker, one graph for each (batch, length) bucket, all compiled before the first request.
    eager: PyTorch as it is.
    """

    mode: Literal["aot", "jit", "eager"] = "aot"
    batch_buckets: Buckets = (1, 8)
    """jit only: texts in a forward pass; handler.max_batch_texts is always the last bucket."""
    length_buckets: Buckets = (16, 64)
    """jit only: tokens in a row; the model's maximum length is always the last bucket."""


class WarmupSettings(Strict):
    """Shapes that run once before the worker says it is ready (jit: every bucket runs, whatever stands here)."""

    batch_sizes: Buckets = (1, 32)
    lengths: Buckets = (16, 64, 256)


class EmbeddingSettings(Strict):
    """Settings of embedding_handler.py."""

    pooling: Literal["auto", "mean", "cls", "max"] = "auto"
    """auto reads the model's sentence-transformers files; mean when it has none."""
    normalize: Literal["auto"] | bool = "auto"
    """auto reads the model's sentence-transformers files; false when it has none."""
    max_length: Literal["auto"] | PositiveInt = "auto"
    """Longest row in tokens, special tokens included; auto reads the model's files."""
    trust_remote_code: bool = False
    """Run Python code that comes with the weights. Only for weights whose code you have read."""
    threads: Literal["auto"] | PositiveInt = "auto"
    """CPU threads of one worker; auto divides the CPUs this process may use by the number of workers."""
    max_batch_texts: PositiveInt = 32
    """Most texts in one forward pass; larger batches are split."""
    max_padding: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.12
    """Share of token slots in one forward pass that may be padding before the batch is split."""
    max_texts_per_request: PositiveInt = 256
    """A request with more texts is answered 413."""
    max_request_bytes: Annotated[int, Field(ge=1024)] = 512 * 1024
    """A larger body is answered 413."""
    compile: CompileSettings = CompileSettings()
    warmup: WarmupSettings = WarmupSettings()

    @model_validator(mode="after")
    def _buckets_fit(self) -> EmbeddingSettings:
        for section, key in (("compile", "batch_buckets"), ("warmup", "batch_sizes")):
            chosen: Strict = getattr(self, section)
            if key in chosen.model_fields_set:  # defaults are cut to fit where they are used
                largest = max(getattr(chosen, key))
                if largest > self.max_batch_texts:
                    raise ValueError(f"{section}.{key}: {largest} is more than max_batch_texts={self.max_batch_texts}")
        return self


HANDLER_SETTINGS: dict[str, type[Strict]] = {"embedding_handler.py": EmbeddingSettings}
