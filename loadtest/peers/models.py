"""minilm in the forms that are compared. Knows nothing of how they are run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from archives import assets
from model_configs import ROOT
from model_configs.schema import AnyModelConfig, load_model
from servekit.fingerprint import cpu_features

MODEL = "minilm"
WORK = ROOT / ".run" / "bench-peers"
STORE = WORK / "store"
"""Archives of what is compared, and what is compiled for them: none of it among the kit's own."""
PRECISIONS = ("fp32", "int8", "bf16")
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""What CPUs call it that have it."""
Mode = Literal["aot", "jit", "eager"]


def variant(precision: str = "fp32", mode: Mode = "aot") -> AnyModelConfig:
    """The model by another precision or mode, with a name of its own unless it is as its YAML says."""
    config = load_model(MODEL)
    if (precision, mode) == ("fp32", "aot"):
        return config
    compiling = config.handler.compile.model_copy(update={"mode": mode, "precision": precision})
    name = f"{MODEL}-{precision if mode == 'aot' else mode}"
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"name": name}),
            "handler": config.handler.model_copy(update={"compile": compiling}),
        }
    )


def possible_here() -> tuple[str, ...]:
    """The precisions that this CPU has."""
    return PRECISIONS if BFLOAT16 & cpu_features()[1] else PRECISIONS[:2]


def weights() -> Path:
    """The model's folder. Raises KitError when it is not there."""
    return assets.find_weights(load_model(MODEL))
