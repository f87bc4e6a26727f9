"""The configuration classes: keyword-only, and an unknown key of NeuronConfig is an AssertionError."""

from __future__ import annotations

import enum
from typing import Any

DEFAULTS: dict[str, Any] = {
    "sparse_attn": None,
    "quant": None,
    "kv_cache_quant": None,
    "continuous_batching": None,
    "attention_layout": "HSB",
    "collectives_layout": "HSB",
    "cache_layout": "SBH",
    "padding_side": "left",
    "group_query_attention": None,
    "sequence_parallel_norm": False,
    "sequence_parallel_norm_threshold": 2048,
    "bf16_rms_norm": False,
    "on_device_embedding": False,
    "on_device_generation": None,
    "all_reduce_dtype": None,
    "cast_logits_dtype": "float32",
    "fuse_qkv": False,
    "qkv_tiling": False,
    "weight_tiling": False,
    "log_softmax_scores": False,
    "shard_over_sequence": False,
    "output_all_logits": False,
    "attn_output_transposed": False,
    "fused_rmsnorm_qkv": False,
    "fused_rmsnorm_mlp": False,
    "mlp_out_weight_transpose": False,
    "fuse_mlp": False,
    "is_eagle_target": False,
    "is_eagle_draft": False,
    "has_pre_attention_norm": True,
    "compilation_worker_count": None,
    "duplicate_q_weight_sos": False,
}
LAYOUTS = ("HSB", "BSH", "SBH")
NO_COMPILATION = {"compilation_worker_count"}
"""Keys that change no program."""


class GQA(enum.Enum):
    """How the key and value heads are spread over the cores."""

    SHARD_OVER_HEADS = "shard-over-heads"
    SHARD_OVER_BATCH = "shard-over-batch"
    REPLICATED_HEADS = "replicated-heads"
    ALL_GATHER_HEADS = "all-gather-heads"


class NeuronConfig:
    """Everything that is not a keyword of the model's constructor."""

    def __init__(self, **options: Any) -> None:
        unknown = options.keys() - DEFAULTS.keys()
        assert not unknown, f"unexpected arguments: {sorted(unknown)}"
        self.options = {**DEFAULTS, **options}
        for key in ("attention_layout", "collectives_layout", "cache_layout"):
            if self.options[key] not in LAYOUTS:
                raise ValueError(f"{self.options[key]!r} is not a valid Layout")
        if self.options["group_query_attention"] is not None:
            self.options["group_query_attention"] = GQA(self.options["group_query_attention"])
        if self.options["continuous_batching"] or self.options["padding_side"] != "left":
            raise NotImplementedError("the stand-in pads on the left and batches statically")
        assert self.options["cache_layout"] != "BSH", "BSH cache layout needs continuous batching"

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["options"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self) -> str:
        return str({key: str(value) for key, value in sorted(self.options.items()) if key not in NO_COMPILATION})


class ContinuousBatchingConfig:
    """Accepted here, refused by NeuronConfig."""

    def __init__(self, max_num_seqs: int | None = None, *, batch_size_for_shared_caches: int | None = None) -> None:
        self.batch_size_for_shared_caches = batch_size_for_shared_caches or max_num_seqs


class GenerationConfig:
    """Sampling on the device; eos_token_id None means that EOS ends nothing."""

    def __init__(
        self,
        *,
        max_length: int | None = None,
        do_sample: bool = False,
        top_k: int = 50,
        top_p: float = 1.0,
        top_p_min_tokens: int = 1,
        global_top_k: int | None = None,
        eos_token_id: int | None = None,
        temperature: float = 1.0,
        dynamic: bool = False,
        deterministic: bool = False,
        per_batch_line: bool = False,
    ) -> None:
        self.do_sample, self.top_k, self.top_p = do_sample, top_k, top_p
        self.eos_token_id, self.temperature = eos_token_id, temperature


class QuantizationConfig:
    """8-bit weights. The stand-in computes with the weights as they are, and compiles another program."""

    def __init__(
        self,
        quant_dtype: str = "s8",
        dequant_dtype: str = "f16",
        quantize_method: str = "vector_dynamic",
        quantize_attn: bool = True,
        no_quantize_list: tuple[str, ...] = (),
    ) -> None:
        if quant_dtype not in ("s8", "f8e4m3fn"):
            raise NotImplementedError(f"{quant_dtype} is not implemented")
        self.quant_dtype, self.dequant_dtype = quant_dtype, dequant_dtype

    def __str__(self) -> str:
        return f"{self.quant_dtype} {self.dequant_dtype}"
