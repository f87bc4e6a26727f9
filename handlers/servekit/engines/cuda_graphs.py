"""CUDA graphs of a function of few sizes: each size is recorded at its first call and replayed from then on.

torch.compile has graphs of its own, mode="reduce-overhead", but a set for each thread: what initialize warms up in one
thread, the engine's thread would record again while it serves (torch/_inductor/cudagraph_trees.py, get_obj).
Knows nothing of models. The tensors that the function closes over must stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Recorded:
    """function(window, *inputs), by CUDA graphs. One thread at a time; a result is valid until the next call."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._recordings: dict[tuple[int, torch.Size], tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}

    def __call__(self, window: int, *inputs: Tensor) -> Tensor:
        """inputs: on the GPU; a window and the first one's shape are a size."""
        size = (window, inputs[0].shape)
        if size not in self._recordings:
            self._recordings[size] = self._record(window, inputs)
        graph, own_inputs, result = self._recordings[size]
        for own, given in zip(own_inputs, inputs, strict=True):
            own.copy_(given)
        graph.replay()
        return result

    def _record(self, window: int, inputs: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        own_inputs = [given.clone() for given in inputs]
        # Compiling, and the libraries' choices and workspaces, cannot be part of a recording.
        side = torch.cuda.Stream(inputs[0].device)
        side.wait_stream(torch.cuda.current_stream(inputs[0].device))
        with torch.cuda.stream(side):
            self._function(window, *own_inputs)
        torch.cuda.synchronize(inputs[0].device)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile: NCCL's watchdog looks at its events.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            result = self._function(window, *own_inputs)
        return graph, own_inputs, result
