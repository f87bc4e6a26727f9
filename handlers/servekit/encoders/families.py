"""Which models kernels.cpp knows, and what their files call its parts. Knows nothing of tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servekit.encoders.module import EncoderSpec

MULTIPLE = 32
"""Of hidden and inner sizes and a head's: the widest panel."""
ACTIVATIONS = {"gelu": 0, "relu": 1}
LEVEL_FLAGS = {
    "amx": ("-mavx512f", "-mavx512vnni", "-mfma"),
    "avx512_vnni": ("-mavx512f", "-mavx512vnni", "-mfma"),
    "avx512": ("-mavx512f", "-mfma"),
    "avx2": ("-mavx2", "-mfma"),
}
"""Which of fingerprint.LEVELS they are made for, and the compiler's words for it."""
INT8_LEVELS = ("amx", "avx512_vnni")


@dataclass(frozen=True)
class Names:
    """What a family calls its weights. Of a layer's: behind `layer` and its number."""

    layer: str
    query: str
    key: str
    value: str
    out: str
    attention_norm: str
    up: str
    down: str
    ffn_norm: str
    sizes: Mapping[str, str]
    """What its config.json calls layers, hidden, heads, ffn, activation."""


BERT_SIZES = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "activation": "hidden_act",
}
BERT = Names(
    layer="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    ffn_norm="output.LayerNorm",
    sizes=BERT_SIZES,
)
MPNET = Names(
    layer="encoder.layer",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    out="attention.attn.o",
    attention_norm="attention.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    ffn_norm="output.LayerNorm",
    sizes=BERT_SIZES,
)
DISTILBERT = Names(
    layer="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    out="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    ffn_norm="output_layer_norm",
    sizes={"layers": "n_layers", "hidden": "dim", "heads": "n_heads", "ffn": "hidden_dim", "activation": "activation"},
)
FAMILIES = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "camembert": BERT,
    "mpnet": MPNET,
    "distilbert": DISTILBERT,
}
"""By model_type."""
ROBERTAS = ("roberta", "xlm-roberta", "camembert")


@dataclass(frozen=True)
class Shape:
    """A model's sizes, by kernels.cpp's names. first_position: what its embeddings call a text's first token."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    activation: str
    first_position: int
    positions: int
    eps: float
    names: Names


def read_shape(model_dir: Path) -> Shape | str:
    """What config.json says, or why the kernels do not know such a model."""
    config = json.loads((model_dir / "config.json").read_text())
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        return f"they do not know model_type {family!r}"
    names = FAMILIES[family]
    missing = [key for key in (*names.sizes.values(), "max_position_embeddings") if key not in config]
    if missing:
        return f"config.json has no {missing[0]}"
    if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
        return "it is no plain encoder with absolute positions"
    sizes = {size: config[key] for size, key in names.sizes.items()}
    if sizes["activation"] not in ACTIVATIONS:
        return f"they have no activation {sizes['activation']!r}"
    widths = {"hidden size": sizes["hidden"], "inner size": sizes["ffn"], "head": sizes["hidden"] / sizes["heads"]}
    for what, width in widths.items():
        if width % MULTIPLE:
            return f"its {what} of {width:g} is no multiple of {MULTIPLE}"
    return Shape(
        **sizes,
        first_position=_first_position(config),
        positions=int(config["max_position_embeddings"]),
        eps=float(config.get("layer_norm_eps", 1e-12)),
        names=names,
    )


def unfit(spec: EncoderSpec, level: str) -> str:
    """Why the kernels cannot compute spec on this kind of CPU, or the empty string."""
    if level not in LEVEL_FLAGS:
        return f"they are not made for {level}"
    if spec.precision == "bf16" or (spec.precision == "int8" and level not in INT8_LEVELS):
        return f"they have no {spec.precision} for {level}"
    if spec.trust_remote_code:
        return "the model brings code of its own"
    shape = read_shape(spec.model_dir)
    if isinstance(shape, str):
        return shape
    if spec.max_length + shape.first_position > shape.positions:
        return f"it has {shape.positions} positions, too few for {spec.max_length} tokens"
    return ""


def _first_position(config: Mapping[str, Any]) -> int:
    """Behind the padding's id, which MPNet takes to be 1 whatever config.json says."""
    if config["model_type"] == "mpnet":
        return 2
    return int(config.get("pad_token_id", 1)) + 1 if config["model_type"] in ROBERTAS else 0
