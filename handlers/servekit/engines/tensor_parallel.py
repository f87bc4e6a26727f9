"""One model over several processes: every rank holds a share of each layer, and all of them run the same steps.

Rank 0 has the clients. It tells the others before each step what to run, in one message of whole numbers; so they need
no prompts, choose no token, and cannot come to another one. The shares follow transformers' own plan for the model.
The ranks are torchrun's, under TorchServe with `parallelType: tp`. Knows nothing of what an order means.
"""

from __future__ import annotations

import os
from datetime import timedelta
from fnmatch import fnmatch
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from servekit.engines.llama import Shape, UnsupportedModel

STEP_TIMEOUT = timedelta(minutes=5)
"""For one sum over the ranks. One rank may compile for long while another waits, and a dead one is noticed sooner:
its connections close."""
IDLE_TIMEOUT = timedelta(days=365)
"""For the next order: there is none while no client asks."""


class Crew:
    """This process among the ranks. order() is rank 0's, next_order() the others'; both raise RuntimeError when a rank
    is gone."""

    def __init__(self, device: torch.device, longest_order: int) -> None:
        """Joins the ranks that torchrun's variables name, and waits for them. Raises RuntimeError."""
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=STEP_TIMEOUT)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._orders = dist.new_group(timeout=IDLE_TIMEOUT, backend="gloo")
        self._longest = longest_order
        self._left = False

    def order(self, *numbers: int) -> None:
        """Tell the others; nothing at all is the end."""
        if self._left:
            raise RuntimeError("the ranks have parted")
        padding = [0] * (self._longest - len(numbers))
        dist.broadcast(torch.tensor([len(numbers), *numbers, *padding]), src=0, group=self._orders)

    def next_order(self) -> list[int]:
        """Wait for what rank 0 says."""
        message = torch.empty(self._longest + 1, dtype=torch.int64)
        dist.broadcast(message, src=0, group=self._orders)
        length, *numbers = message.tolist()
        return numbers[:length]

    def leave(self) -> None:
        """Close the connections; whoever waits for this rank hears of it. May be called again."""
        if not self._left:
            self._left = True
            dist.destroy_process_group()

    def split(self, model: Any) -> None:
        """Cut a transformers model down to this rank's share."""
        split(model, self.rank, self.world)


def join(device: torch.device, longest_order: int) -> Crew | None:
    """The crew that torchrun started this process into; None when it works alone. Raises RuntimeError."""
    return Crew(device, longest_order) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None


@torch.no_grad()
def split(model: Any, rank: int, world: int) -> None:
    """Cut a transformers model and its config down to one rank's share of heads and ffn.

    Embedding, norms and head stay whole. Key and value heads are shared by ranks when there are fewer of them.
    Raises UnsupportedModel.
    """
    whole = Shape.of(model.config)
    for what, size in (("attention heads", whole.heads), ("ffn columns", whole.ffn)):
        if size % world:
            raise UnsupportedModel(f"{size} {what} cannot be split over {world} processes")
    if whole.kv_heads % world and world % whole.kv_heads:
        raise UnsupportedModel(f"{whole.kv_heads} key and value heads cannot be split over {world} processes")
    plan = model.config.base_model_tp_plan
    if not plan:
        raise UnsupportedModel(f"transformers has no base_model_tp_plan for model_type {model.config.model_type!r}")
    for name, module in model.model.named_modules():
        for pattern in plan:
            if fnmatch(name, pattern):
                _keep_share(name, module, plan[pattern], rank, world, whole.head_dim)
    model.config.head_dim = whole.head_dim
    model.config.num_attention_heads = whole.heads // world
    model.config.num_key_value_heads = max(1, whole.kv_heads // world)
    model.config.intermediate_size = whole.ffn // world


def _keep_share(name: str, module: Any, style: str, rank: int, world: int, head_dim: int) -> None:
    unit = head_dim if "attn" in name else 1
    bias = module.bias
    if style == "colwise":
        weight = _share(module.weight, 0, rank, world, unit)
        bias = None if bias is None else _share(bias, 0, rank, world, unit)
    elif style == "rowwise":
        weight = _share(module.weight, 1, rank, world, unit)
        bias = bias if rank == 0 else None  # the ranks' parts are summed
    else:
        raise UnsupportedModel(f"{name} is split {style!r}; this engine splits colwise and rowwise")
    module.weight = nn.Parameter(weight, requires_grad=False)
    module.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)


def _share(whole: Tensor, dim: int, rank: int, world: int, unit: int) -> Tensor:
    """A rank's part of a dimension, in whole units; one that other ranks have too when there are fewer than ranks."""
    units = whole.shape[dim] // unit
    first, count = rank * units // world, max(1, units // world)
    return whole.narrow(dim, first * unit, count * unit).clone()
