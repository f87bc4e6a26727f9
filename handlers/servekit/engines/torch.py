"""The torch engine: a Llama on CPU or CUDA whose rows join and leave between steps.

Every step is at most one chunk of one prompt, then one token for every row that has read its prompt. Chunks go round
the waiting prompts, so a flood of long ones delays a token by one chunk and a short prompt by one round. A prompt is
read alone and in the same chunks whatever else runs, so that its numbers are the same in any company.

mode kernels: prompts in PyTorch, steps by kernels.cpp. compile: both by torch.compile, for each size once, with CUDA
graphs on CUDA. eager: both in PyTorch. Under torchrun the model is split over the ranks: rank 0 streams, the others
follow.
Knows nothing of text, clients or time.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from servekit.engines import cuda_graphs, kernels, llama, tensor_parallel
from servekit.engines.base import Capabilities, Finish, Inbox, Prompt, Step, prompt_problem
from servekit.engines.sampling import Sampler, choose
from servekit.log import log
from servekit.machine_cache import cache_folder
from servekit.settings import LlamaSettings

MOST_POSITIONS = 2048
SMALLEST_WINDOW = 128
SMALLEST_CHUNK = 16

CHUNK, STEP = 1, 2
"""Orders to the other ranks: first position, slot, tokens; or ids, slots, positions."""

Decode = Callable[[list[int], list[int], list[int]], Tensor]
"""Token ids, slots and positions of the rows to their logits, [rows, vocab] float32."""


@dataclass
class Row:
    """A prompt in its slot. read: tokens of it that are in the cache; position: of the next token."""

    prompt: Prompt
    slot: int
    sampler: Sampler
    read: int = 0
    generated: int = 0
    last_token: int = -1
    done: bool = False

    @property
    def waits(self) -> bool:
        """Whether there is prompt left to read."""
        return self.read < len(self.prompt.token_ids)

    @property
    def position(self) -> int:
        return len(self.prompt.token_ids) + self.generated - 1


class TorchEngine:
    """servekit.engines.base.Engine over one llama.Llama."""

    def __init__(self, folder: Path, settings: LlamaSettings, *, slots: int, artefacts: Path, device: str) -> None:
        """folder: config.json, safetensors. slots: rows in flight. Raises llama.UnsupportedModel, and ValueError.

        device: cpu, cuda for the GPU that is current, or cuda:1. Under torchrun this waits for the other ranks.
        """
        from transformers import AutoConfig

        on_cpu = device == "cpu"
        # A thread that is started later has another current GPU.
        self.device = torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device(device)
        self.settings = settings
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        shape = llama.Shape.of(config)
        if settings.max_length != "auto" and settings.max_length > shape.positions:
            raise ValueError(f"max_length: {settings.max_length} is more than the model's {shape.positions} positions")
        wanted = MOST_POSITIONS if settings.max_length == "auto" else settings.max_length
        self.max_length = min(wanted, shape.positions)
        weights = llama.DTYPES[settings.amp if settings.amp != "auto" else "f32" if on_cpu else "bf16"]
        # A chunk is padded to its bucket, and idle slots take part in a step: both write behind max_length.
        self._positions = self.max_length + settings.prefill_chunk
        self._crew = tensor_parallel.join(self.device, 1 + max(2 + settings.prefill_chunk, 3 * slots))
        self.model = llama.load(
            folder,
            torch.float32 if on_cpu else weights,
            weights,
            int8=settings.quantize == "int8",
            positions=self._positions,
            device=self.device,
            split=self._crew.split if self._crew else None,
        )
        self.model.make_cache(slots, self._positions)
        self._slots = slots
        self.mode, self._decode = self._choose_mode(artefacts)
        self._prefill = self._compiled(self._one_slot) if self.mode == "compile" else self._one_slot
        self._warmed_graphs = 0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(self._slots, self.max_length, continuous=True, per_request_sampling=True, logprobs=True)

    def fingerprint(self) -> dict[str, str]:
        """What the numbers depend on."""
        return {"torch": torch.__version__, "mode": self.mode, "weights": str(self.model.head.weight.dtype)}

    @property
    def rank(self) -> int:
        """0 streams, the others follow."""
        return self._crew.rank if self._crew else 0

    @property
    def recompiles(self) -> int:
        """Graphs that this process has compiled since warmup: each is a size that warmup missed, and a pause."""
        return _graphs() - self._warmed_graphs if self.mode == "compile" else 0

    @torch.inference_mode()
    def warmup(self) -> list[tuple[str, float]]:
        """Every chunk and every window once; afterwards nothing compiles. All ranks have to call it."""
        timed = []

        def run(name: str, call: Callable[..., Tensor], *arguments: Any) -> None:
            started = time.perf_counter()
            call(*arguments)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            timed.append((name, time.perf_counter() - started))

        for size in self._chunk_buckets():
            run(f"chunk of {size}", self._read_chunk, [0] * size, 0, 0)
        for window in self._window_buckets():
            run(f"step in {window}", self._decode, [0], [0], [window - 1])
        self._warmed_graphs = _graphs() if self.mode == "compile" else 0
        return timed

    @torch.inference_mode()
    def stream(self, inbox: Inbox) -> Iterator[list[Step]]:
        """See base.Engine. An error ends every row that is in flight with it, and the stream."""
        rows: list[Row] = []
        try:
            while True:
                steps = []
                for row in [row for row in rows if inbox.cancelled(row.prompt.key)]:
                    rows.remove(row)
                    steps.append(Step(row.prompt.key, finish="cancelled"))
                for prompt in inbox.take(self._slots - len(rows)):
                    if problem := prompt_problem(prompt, self.max_length, self.model.shape.vocab):
                        steps.append(Step(prompt.key, finish="error", message=problem))
                        continue
                    free = next(slot for slot in range(self._slots) if all(row.slot != slot for row in rows))
                    rows.append(Row(prompt, free, Sampler(prompt.sampling, set(prompt.token_ids))))
                if not rows:
                    if steps:
                        yield steps
                    return
                steps += self._one_step(rows)
                rows = [row for row in rows if not row.done]
                yield steps
        except RuntimeError as error:  # torch's, out of memory among them: whoever waits has to hear of it
            log.error("the engine failed: %s", error)
            if self._crew:
                self._crew.leave()  # nobody knows in which sum the others wait
            yield [Step(row.prompt.key, finish="error", message=str(error)) for row in rows]

    @torch.inference_mode()
    def follow(self) -> None:
        """For ranks other than 0: take part in rank 0's steps until it closes. Raises RuntimeError when one is gone."""
        if not self._crew or self.rank == 0:
            raise RuntimeError("rank 0 has nobody to follow")
        while order := self._crew.next_order():
            what, *numbers = order
            if what == CHUNK:
                first, slot, *tokens = numbers
                self._read_chunk(tokens, first, slot)
            else:
                rows = len(numbers) // 3
                self._decode(numbers[:rows], numbers[rows : 2 * rows], numbers[2 * rows :])

    def close(self) -> None:
        """Let go of weights, cache and other ranks."""
        if self._crew:
            if self.rank == 0:
                with suppress(RuntimeError):  # they have gone before
                    self._crew.order()
            self._crew.leave()
        self._decode = _closed
        del self.model, self._prefill

    def _one_step(self, rows: list[Row]) -> list[Step]:
        """A chunk of the first prompt that waits, then a token for every row that does not."""
        steps: list[Step] = []
        ready = [row for row in rows if not row.waits]
        waiting = next((row for row in rows if row.waits), None)
        if waiting:
            hidden = self._read_prompt(waiting)
            rows.remove(waiting)
            rows.append(waiting)  # the next chunk is another's
            if not waiting.waits:
                steps += self._gain([waiting], self.model.logits(hidden)[None])
        if ready:
            ids, slots = [row.last_token for row in ready], [row.slot for row in ready]
            positions = [row.position for row in ready]
            if self._crew:
                self._crew.order(STEP, *ids, *slots, *positions)
            steps += self._gain(ready, self._decode(ids, slots, positions))
        return steps

    def _read_prompt(self, row: Row) -> Tensor:
        """The prompt's next chunk into the cache. Returns the hidden state of its last token, [hidden]."""
        tokens = row.prompt.token_ids[row.read : row.read + self.settings.prefill_chunk]
        if self._crew:
            self._crew.order(CHUNK, row.read, row.slot, *tokens)
        hidden = self._read_chunk(list(tokens), row.read, row.slot)
        row.read += len(tokens)
        return hidden[0, len(tokens) - 1].clone()

    def _read_chunk(self, tokens: list[int], first: int, slot: int) -> Tensor:
        """Hidden states [1, ≥ tokens, hidden] of a chunk at positions first and on."""
        size, window = len(tokens), first + len(tokens)
        if self.mode == "compile":
            size, window = _bucket(size, self._chunk_buckets()), self.max_length
        # What the padding writes is overwritten before anything looks there.
        ids = torch.tensor([tokens + [0] * (size - len(tokens))], device=self.device)
        positions = torch.arange(first, first + size, device=self.device)[None]
        return self._prefill(window, ids, positions, torch.tensor([slot], device=self.device))

    def _gain(self, rows: list[Row], logits: Tensor) -> list[Step]:
        steps = []
        for row, choice in zip(rows, choose(logits, [row.sampler for row in rows]), strict=True):
            finish: Finish | None = None
            row.generated += 1
            row.last_token = choice.token_id
            if choice.token_id in row.prompt.stop_ids:
                finish = "stop"
            elif row.generated == row.prompt.max_new_tokens or row.position + 1 >= self.max_length:
                finish = "length"
            token = None if finish == "stop" else choice.token_id
            steps.append(Step(row.prompt.key, token, None, choice.logprob, choice.top_logprobs, finish))
            row.done = finish is not None
        return steps

    def _choose_mode(self, artefacts: Path) -> tuple[str, Decode]:
        wanted, on_cpu = self.settings.mode, self.device.type == "cpu"
        if wanted == "compile" or (wanted == "auto" and not on_cpu):
            return "compile", self._batched(self._compiled(self._all_slots))
        if wanted in ("kernels", "auto"):
            reason = "tensor parallel" if self._crew else kernels.unfit(self.model)
            folder = artefacts
            if not reason and kernels.mismatch(artefacts):
                folder, reason = _built_here()
            if not reason:
                return "kernels", kernels.Step(self.model, folder, torch.get_num_threads(), self._slots)
            log.warning("no kernels (%s): eager", reason)
        return "eager", self._batched(self._all_slots)

    def _compiled(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        sizes = len(self._window_buckets()) + len(self._chunk_buckets())
        compiled: Callable[..., Tensor] = torch.compile(  # type: ignore[call-overload] # torch's lack the last two
            function, fullgraph=True, dynamic=False, recompile_limit=sizes, isolate_recompiles=True
        )
        return cuda_graphs.Recorded(compiled) if self.device.type == "cuda" else compiled

    def _one_slot(self, window: int, ids: Tensor, positions: Tensor, slot: Tensor) -> Tensor:
        """Hidden states [1, S, hidden] of a chunk; ids, positions [1, S], slot [1]."""
        hidden: Tensor = self.model(ids, positions, slot, window)
        return hidden

    def _all_slots(self, window: int, ids: Tensor, positions: Tensor) -> Tensor:
        """Logits [slots, vocab] of one token for every slot; ids, positions [slots, 1]."""
        return self.model.logits(self.model(ids, positions, None, window)[:, 0])

    def _batched(self, step: Callable[..., Tensor]) -> Decode:
        """All slots take part in every step, so that one size serves and no row's numbers depend on the others."""

        def decode(ids: list[int], slots: list[int], positions: list[int]) -> Tensor:
            own_ids, own_positions = [0] * self._slots, [self._positions - 1] * self._slots
            for place, slot in enumerate(slots):
                own_ids[slot], own_positions[slot] = ids[place], positions[place]
            window = _bucket(max(positions) + 1, self._window_buckets())
            pair = (own_ids, own_positions)
            made_ids, made_positions = (torch.tensor(each, device=self.device)[:, None] for each in pair)
            return step(window, made_ids, made_positions)[slots]

        return decode

    def _window_buckets(self) -> list[int]:
        """How much of the cache a step looks at."""
        return _powers(min(SMALLEST_WINDOW, self.max_length), self.max_length, 2)

    def _chunk_buckets(self) -> list[int]:
        return _powers(SMALLEST_CHUNK, min(self.settings.prefill_chunk, self.max_length), 4)


def _powers(first: int, last: int, factor: int) -> list[int]:
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(min(factor * sizes[-1], last))
    return sizes


def _bucket(size: int, buckets: list[int]) -> int:
    return next(bucket for bucket in buckets if bucket >= size)


def _graphs() -> int:
    """How many torch.compile has made in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _built_here() -> tuple[Path, str]:
    """The kernels in this machine's cache, built now if need be, and why there are none."""
    folder = cache_folder("kernels")
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several workers one builds, and none loads a half
        if kernels.mismatch(folder):
            try:
                kernels.build(folder)
            except (RuntimeError, FileNotFoundError) as error:
                return folder, f"they cannot be built: {error}"
    return folder, ""


def _closed(ids: list[int], slots: list[int], positions: list[int]) -> Tensor:
    raise RuntimeError("the engine is closed")
