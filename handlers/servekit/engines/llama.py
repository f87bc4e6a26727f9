"""A Llama in PyTorch, read from top to bottom: its shape, its weights, the forward pass over a cache of its own.

Weights come through transformers, fused so that a layer is four matrix products. The cache belongs to the module and
has a place for every row in flight; forward writes there and reads from there, so that one graph serves every step.
Knows nothing of prompts, sampling or scheduling, and of no device but the one it is put on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
FAMILIES = ("llama", "mistral")


class UnsupportedModel(ValueError):
    """config.json asks for what this module does not compute."""


@dataclass(frozen=True)
class Shape:
    """The numbers of config.json that the computation needs. positions: what the model was made for."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    positions: int
    eps: float

    @classmethod
    def of(cls, config: Any) -> Shape:
        """From a transformers config. Raises UnsupportedModel."""
        if config.model_type not in FAMILIES:
            raise UnsupportedModel(f"model_type {config.model_type!r}: the torch engine runs {', '.join(FAMILIES)}")
        if config.hidden_act != "silu":
            raise UnsupportedModel(f"hidden_act {config.hidden_act!r}: the torch engine computes silu")
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            ffn=config.intermediate_size,
            vocab=config.vocab_size,
            positions=min(config.max_position_embeddings, getattr(config, "sliding_window", None) or 1 << 30),
            eps=config.rms_norm_eps,
        )

    def cache_bytes(self, slots: int, positions: int, itemsize: int) -> int:
        """Of keys and values."""
        return 2 * self.layers * slots * self.kv_heads * positions * self.head_dim * itemsize


class Linear(nn.Module):
    """x @ weight.T · scale + bias. weight [outputs, inputs] may be narrower than x: it is widened as it is used."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", bias)
        self.register_buffer("scale", scale)

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            return F.linear(x, self.weight.to(x.dtype), self.bias)
        y = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias

    def quantized(self) -> Linear:
        """Weights in 8 bits, symmetric, one float32 scale for each output."""
        weight = self.weight.float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        return Linear((weight / scale[:, None]).round().to(torch.int8), self.bias, scale)


class Layer(nn.Module):
    """Attention and MLP, each with its norm. qkv: query, key and value heads one after another; gate_up: row by row."""

    attention_norm: Tensor
    mlp_norm: Tensor

    def __init__(
        self, shape: Shape, norms: tuple[Tensor, Tensor], qkv: Linear, o: Linear, gate_up: Linear, down: Linear
    ) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("attention_norm", norms[0])
        self.register_buffer("mlp_norm", norms[1])
        self.qkv, self.o, self.gate_up, self.down = qkv, o, gate_up, down

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        keys: Tensor,
        values: Tensor,
        new: tuple[Tensor, ...],
        seen: tuple[int | slice | Tensor, ...],
        mask: Tensor,
    ) -> Tensor:
        """x [B, S, hidden]; keys, values: the whole cache. new: indices of what x adds to it, [B, S, kv_heads].

        seen: indices of what x looks at, [B, kv_heads, window, head_dim]; mask [B, 1, S, window]: who of x sees what.
        """
        s = self.shape
        normed = F.rms_norm(x, (s.hidden,), self.attention_norm, s.eps)
        q, k, v = self.qkv(normed).unflatten(-1, (-1, s.head_dim)).split((s.heads, s.kv_heads, s.kv_heads), dim=2)
        # Not through a view: compiled, that would copy the cache at every step.
        keys.index_put_(new, rotate(k, cos, sin).to(keys.dtype))
        values.index_put_(new, v.to(values.dtype))
        q = rotate(q, cos, sin).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, keys[seen], values[seen], attn_mask=mask, enable_gqa=True)
        x = x + self._sum(self.o(mixed.transpose(1, 2).flatten(2)))
        normed = F.rms_norm(x, (s.hidden,), self.mlp_norm, s.eps)
        gate, up = self.gate_up(normed).unflatten(-1, (-1, 2)).unbind(-1)
        return x + self._sum(self.down(F.silu(gate) * up))

    def _sum(self, part: Tensor) -> Tensor:
        """Where the weights are split over several processes, each has a summand."""
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(part)
        return part


class Llama(nn.Module):
    """keys, values: [layers, slots, kv_heads, positions, head_dim]."""

    keys: Tensor
    values: Tensor
    norm: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        shape: Shape,
        embedding: Linear,
        layers: list[Layer],
        norm: Tensor,
        head: Linear,
        rope: tuple[Tensor, Tensor],
    ) -> None:
        super().__init__()
        self.shape, self.embedding, self.head = shape, embedding, head
        self.layers = layers
        self.register_module("decoder", nn.ModuleList(layers))
        self.register_buffer("norm", norm)
        self.register_buffer("cos", rope[0])
        self.register_buffer("sin", rope[1])

    def make_cache(self, slots: int, positions: int) -> None:
        """Allocate the cache, empty."""
        s = self.shape
        dims = (s.layers, slots, s.kv_heads, positions, s.head_dim)
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(dims, dtype=self.cos.dtype, device=self.cos.device))

    def forward(self, ids: Tensor, positions: Tensor, slot: Tensor | None, window: int) -> Tensor:
        """Hidden states [B, S, hidden] of ids at positions, both [B, S].

        slot [B]: the one that each row belongs to, a tensor so that one graph serves any; None: all slots, in order.
        window: how many of the first cached positions are looked at, and none behind a token's own.
        """
        x = F.embedding(ids, self.embedding.weight).to(self.cos.dtype)
        if self.embedding.scale is not None:
            x = x * self.embedding.scale[ids][..., None]
        cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]
        mask = (torch.arange(window, device=ids.device) <= positions[..., None])[:, None]
        heads = torch.arange(self.shape.kv_heads, device=ids.device)
        rows = torch.arange(len(ids), device=ids.device) if slot is None else slot
        new = (rows[:, None, None], heads, positions[..., None])
        seen = (slice(None) if slot is None else slot, slice(None), slice(window))
        for number, layer in enumerate(self.layers):
            here = torch.full((), number, device=ids.device)
            x = layer(x, cos, sin, self.keys, self.values, (here, *new), (number, *seen), mask)
        return F.rms_norm(x, (self.shape.hidden,), self.norm, self.shape.eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """[…, vocab] float32."""
        result: Tensor = self.head(hidden).float()
        return result

    @property
    def weight_bytes(self) -> int:
        """What one step reads."""
        parts = [
            self.head,
            *(part for layer in self.layers for part in (layer.qkv, layer.o, layer.gate_up, layer.down)),
        ]
        return sum(part.weight.nbytes for part in parts)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [B, S, heads, head_dim] by cos, sin [B, S, 1, head_dim / 2] (arXiv 2104.09864)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def load(
    folder: Path,
    dtype: torch.dtype,
    weight_dtype: torch.dtype,
    *,
    int8: bool,
    positions: int,
    device: torch.device,
    split: Callable[[Any], None] | None = None,
) -> Llama:
    """The model in a transformers folder. dtype: of computation; weight_dtype: of weights where int8 is not asked for.

    positions: how many the rotary tables have. split: cuts the transformers model down to one process's share.
    Raises UnsupportedModel, and what transformers raises.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=weight_dtype, local_files_only=True, trust_remote_code=False
    )
    if split:
        split(model)
    return from_transformers(model, dtype, int8=int8, positions=positions, device=device)


@torch.no_grad()
def from_transformers(model: Any, dtype: torch.dtype, *, int8: bool, positions: int, device: torch.device) -> Llama:
    """The same model as ours. Takes its parameters over; the transformers model is not usable afterwards."""
    shape = Shape.of(model.config)

    def linear(*parts: Any, interleaved: bool = False) -> Linear:
        weight, bias = _joined([p.weight for p in parts], interleaved), None
        if parts[0].bias is not None:
            bias = _joined([p.bias for p in parts], interleaved).to(dtype)
        made = Linear(weight, bias)
        return (made.quantized() if int8 else made).to(device)

    decoder = model.model
    layers = []
    for layer in decoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        norms = (
            layer.input_layernorm.weight.detach().to(dtype),
            layer.post_attention_layernorm.weight.detach().to(dtype),
        )
        layers.append(
            Layer(
                shape,
                norms,
                linear(attention.q_proj, attention.k_proj, attention.v_proj),
                linear(attention.o_proj),
                linear(mlp.gate_proj, mlp.up_proj, interleaved=True),
                linear(mlp.down_proj),
            )
        )
        layer.self_attn = layer.mlp = None
    head = Linear(model.lm_head.weight.detach())
    tied = model.lm_head.weight is decoder.embed_tokens.weight
    head = (head.quantized() if int8 else head).to(device)
    embedding = head if tied else Linear(decoder.embed_tokens.weight.detach()).to(device)
    if int8 and not tied:
        embedding = embedding.quantized()
    return Llama(
        shape, embedding, layers, decoder.norm.weight.detach().to(dtype), head, rope(model, positions, dtype)
    ).to(device)


def rope(model: Any, positions: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin, [positions, head_dim / 2], by the model's own rule of scaling."""
    cos, sin = model.model.rotary_emb(torch.zeros(1, dtype=torch.float32), torch.arange(positions)[None])
    half = cos.shape[-1] // 2
    return cos[0, :, :half].to(dtype).contiguous(), sin[0, :, :half].to(dtype).contiguous()


def _joined(parts: list[Tensor], interleaved: bool) -> Tensor:
    whole = torch.stack(parts, dim=1).flatten(0, 1) if interleaved else torch.cat(parts)
    return whole.detach()
