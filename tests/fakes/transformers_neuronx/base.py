"""A model from from_pretrained() to sample(), in the order in which that happens."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, DynamicCache
from typing_extensions import Self

from . import bucket
from .config import GenerationConfig, NeuronConfig
from .module import find_weights, read_weights

SDK = "2.25.0"
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
HASH_LENGTH = 20

Kind = Literal["context", "token"]


class ModelForSampling:
    """What LlamaForSampling and MistralForSampling share."""

    computes_with: ClassVar[Any]

    def __init__(
        self,
        config: Any,
        *,
        n_positions: int | list[int] = 2048,
        batch_size: int | list[int] = 1,
        amp: str = "f32",
        tp_degree: int = 2,
        context_length_estimate: int | list[int] | None = None,
        context_unroll: int | None = None,
        unroll: int | None = None,
        neuron_config: NeuronConfig | None = None,
        prefixed_length: int = 0,
    ) -> None:
        if not isinstance(batch_size, (int, list)):
            raise TypeError("batch_size must be list of ints or int type")
        if prefixed_length:
            raise NotImplementedError("the stand-in has no prefixes")
        self.config, self.amp, self.tp_degree = config, amp, tp_degree
        self.dtype = DTYPES[amp]
        self.neuron_config = neuron_config or NeuronConfig()
        self.batch_sizes = [batch_size] if isinstance(batch_size, int) else sorted(batch_size)
        self.token_buckets = bucket.token_sizes(n_positions)
        self.context_buckets = bucket.context_sizes(context_length_estimate, self.token_buckets)
        assert max(self.token_buckets) >= max(self.context_buckets, default=0), "prompts longer than n_positions"

        self.forwards: list[tuple[Kind, int]] = []
        self.compiled: list[str] = []
        self.environment: dict[str, str] = {}
        self._checkpoint: Path | None = None
        self._artifacts: Path | None = None
        self._neffs: dict[str, bytes] = {}
        self._model: Any = None
        self._cache: Any = None
        self._sampling = threading.Lock()

    @classmethod
    def from_pretrained(cls, path: str | Path, *args: Any, **kwargs: Any) -> Self:
        """Looks the weights up, reads none of them yet. Raises FileNotFoundError."""
        checkpoint = find_weights(Path(path))
        model = cls(AutoConfig.from_pretrained(path), *args, **kwargs)
        model._checkpoint = checkpoint
        return model

    def load(self, directory: str | Path) -> None:
        """Remember where the NEFF files are; to_neuron() reads them."""
        if self._model is not None:
            raise RuntimeError("load() belongs between from_pretrained() and to_neuron()")
        self._artifacts = Path(directory)

    def to_neuron(self) -> None:
        """Weights to the cores; programs from the folder of load(), else compiled."""
        self.environment = {key: value for key, value in os.environ.items() if key.startswith("NEURON")}
        cores = _cores(self.environment)
        if cores is not None and self.tp_degree > cores:
            raise RuntimeError(f"tp_degree {self.tp_degree} needs more than the {cores} visible NeuronCores")
        if self._artifacts:
            self._neffs = self._read_neffs(self._artifacts)
        else:
            self.cpu_compile()
        self.config._attn_implementation = "eager"  # finite where a row of the mask is empty
        model = self.computes_with(self.config)
        assert self._checkpoint is not None, "only from_pretrained() knows where weights are"
        model.load_state_dict(read_weights(self._checkpoint), strict=False)
        model.tie_weights()
        self._model = model.to(self.dtype).eval()

    def cpu_compile(self) -> None:
        """Compile every program that neither the persistent cache nor NEURONX_DUMP_TO's folder holds."""
        dump = os.environ.get("NEURONX_DUMP_TO")
        if dump:
            Path(dump).mkdir(parents=True, exist_ok=True)
            (Path(dump) / "neuron_model_config.json").write_text(json.dumps({"tp_degree": self.tp_degree}))
        cache = os.environ.get("NEURON_COMPILE_CACHE_URL")
        self._neffs = {name: self._compile(name, [Path(f) for f in (dump, cache) if f]) for name in self._programs()}

    def save(self, directory: str | Path, sharded_weights: bool = False) -> None:
        """One file a program, named by the hash of what it was compiled from."""
        if sharded_weights:
            assert self.neuron_config.on_device_embedding, "sharded weights need on_device_embedding"
            raise NotImplementedError("the stand-in saves no weights")
        assert self._neffs, "nothing was compiled"
        Path(directory).mkdir(parents=True, exist_ok=True)
        for name, neff in self._neffs.items():
            (Path(directory) / f"{name}.neff").write_bytes(neff)

    def reset(self) -> None:
        """Forget keys and values."""
        self._cache = None

    def forward(self, input_ids: Tensor, cache_ids: Tensor | None = None, start_ids: Tensor | None = None) -> Tensor:
        """Logits of the last position, [B, vocabulary] float32. input_ids: [B, L] for a prompt, [B, 1] after it."""
        if start_ids is None:
            start_ids = torch.zeros(len(input_ids), dtype=torch.int32)
        if cache_ids is not None:
            return self._token(input_ids, int(cache_ids.max()), start_ids)
        self._cache = DynamicCache()
        length = input_ids.shape[1]
        size = bucket.find(self.context_buckets, length)
        parallel = min(size, length) if size and length > 1 else 0
        if parallel and size:
            self.forwards.append(("context", size))
            logits = self._run(input_ids[:, :parallel], 0, start_ids)
        for position in range(parallel, length):  # what no bucket holds is read token by token
            logits = self._token(input_ids[:, position : position + 1], position, start_ids)
        return logits

    __call__ = forward

    def sample(
        self,
        input_ids: Tensor,
        sequence_length: int,
        cache_ids: Tensor | None = None,
        start_ids: Tensor | None = None,
        top_k: int | None = 50,
        top_p: float | None = 1.0,
        eos_token_override: int | None = None,
        temperature: float = 1.0,
        streamer: Any = None,
        stopping_criteria_list: Callable[[Tensor, Tensor], bool] | None = None,
        no_repeat_ngram_size: int | None = None,
    ) -> Tensor:
        """Prompts and what follows them, [B, at most sequence_length]. A row that has ended goes on with EOS."""
        if len(input_ids) not in self.batch_sizes:
            raise ValueError(f"Model not compiled for batch_size : {len(input_ids)}, but for {self.batch_sizes}")
        if cache_ids is not None or no_repeat_ngram_size:
            raise NotImplementedError("the stand-in starts every prompt anew and knows no n-grams")
        if not self._sampling.acquire(blocking=False):
            raise RuntimeError("sample() is not re-entrant: the model has one KV cache")
        try:
            return self._sample(
                input_ids, sequence_length, start_ids, top_k, top_p, temperature,
                _eos_ids(self.config.eos_token_id if eos_token_override is None else eos_token_override),
                streamer, stopping_criteria_list or (lambda prompt, scores: False),
            )  # fmt: skip
        finally:
            self._sampling.release()

    @torch.no_grad()
    def _sample(
        self,
        input_ids: Tensor,
        sequence_length: int,
        start_ids: Tensor | None,
        top_k: int | None,
        top_p: float | None,
        temperature: float,
        eos_ids: list[int],
        streamer: Any,
        stop: Callable[[Tensor, Tensor], bool],
    ) -> Tensor:
        on_device: GenerationConfig | None = self.neuron_config.on_device_generation
        if on_device:
            top_k = on_device.top_k if on_device.do_sample else 1
            top_p, temperature = on_device.top_p, on_device.temperature
        _validate(top_k, top_p, temperature)
        scores = self.forward(input_ids, None, start_ids)
        done = torch.zeros((len(input_ids), 1), dtype=torch.bool)
        tokens = [input_ids]
        for position in range(input_ids.shape[1], sequence_length):
            chosen, probabilities = _choose(scores / temperature, top_k, top_p)
            done |= torch.isin(chosen, torch.tensor(eos_ids))
            token = torch.where(done, eos_ids[0], chosen)
            tokens.append(token)
            if streamer is not None:
                whole = getattr(streamer, "response_with_prefix", False)
                streamer.put(torch.cat(tokens, dim=1) if whole else token)
            if done.all() or stop(input_ids, probabilities):
                break
            # Also after the last token, whose successor nobody wants.
            scores = self.forward(chosen, torch.tensor([position], dtype=torch.int32), start_ids)
        if streamer is not None:
            streamer.end()
        return torch.cat(tokens, dim=1)

    def _token(self, input_ids: Tensor, position: int, start_ids: Tensor) -> Tensor:
        # StopIteration past the last bucket, as the real one.
        self.forwards.append(("token", next(size for size in self.token_buckets if size > position)))
        return self._run(input_ids, position, start_ids)

    def _run(self, input_ids: Tensor, position: int, start_ids: Tensor) -> Tensor:
        if self._model is None:
            raise RuntimeError("to_neuron() was not called")
        places = torch.arange(position + input_ids.shape[1])
        starts = start_ids[:, None]
        output = self._model(
            input_ids=input_ids,
            attention_mask=(places >= starts).long(),
            position_ids=(places[position:] - starts).clamp(min=0).long(),
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = output.logits[:, -1]
        return logits.float()

    def _programs(self) -> list[str]:
        """The hash of every program: one for each bucket and batch size."""
        config = {k: v for k, v in self.config.to_dict().items() if isinstance(v, (int, float)) and "token" not in k}
        common = [SDK, sorted(config.items()), self.amp, self.tp_degree, str(self.neuron_config)]
        shapes = [("context", size, batch) for size in self.context_buckets for batch in self.batch_sizes]
        shapes += [("token", size, batch) for size in self.token_buckets for batch in self.batch_sizes]
        return [hashlib.sha256(json.dumps([*common, shape]).encode()).hexdigest()[:HASH_LENGTH] for shape in shapes]

    def _compile(self, name: str, caches: list[Path]) -> bytes:
        for folder in caches:
            if (folder / f"{name}.neff").exists():
                return (folder / f"{name}.neff").read_bytes()
        self.compiled.append(name)
        neff = f"NEFF {name}".encode()
        for folder in caches:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.neff").write_bytes(neff)
        return neff

    def _read_neffs(self, folder: Path) -> dict[str, bytes]:
        if not folder.is_dir():
            raise FileNotFoundError(f"Did not find directory: {folder}.")
        for name in self._programs():
            if not (folder / f"{name}.neff").exists():
                raise FileNotFoundError(f"Could not find a matching NEFF for HLO {name} in {folder}")
        return {name: (folder / f"{name}.neff").read_bytes() for name in self._programs()}


def _cores(environment: dict[str, str]) -> int | None:
    """How many NeuronCores the process may see; None for all."""
    visible = environment.get("NEURON_RT_VISIBLE_CORES")
    if visible:
        ranges = [part.partition("-") for part in visible.split(",")]
        return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)
    return int(environment.get("NEURON_RT_NUM_CORES", "0")) or None


def _eos_ids(eos: int | list[int] | None) -> list[int]:
    return eos if isinstance(eos, list) else [-1 if eos is None else eos]


def _validate(top_k: Any, top_p: Any, temperature: Any) -> None:
    if top_k is not None and (not isinstance(top_k, int) or top_k <= 0):
        raise ValueError(f"top_k={top_k!r}: an int above 0, or None")
    if top_p is not None and (not isinstance(top_p, float) or not 0.0 < top_p <= 1.0):
        raise ValueError(f"top_p={top_p!r}: a float above 0, up to 1.0")
    if not isinstance(temperature, float) or temperature <= 0:
        raise ValueError(f"temperature={temperature!r}: a float above 0")


def _choose(scores: Tensor, top_k: int | None, top_p: float | None) -> tuple[Tensor, Tensor]:
    """A token for each row, [B, 1], by the global random state, and the probabilities of the candidates."""
    values, places = torch.sort(scores, descending=True, stable=True)
    values, places = values[:, : top_k or values.shape[1]], places[:, : top_k or places.shape[1]]
    if top_p is not None:
        before = values.softmax(dim=-1).cumsum(dim=-1) - values.softmax(dim=-1)
        values = values.masked_fill(before >= top_p, float("-inf"))
    probabilities = values.softmax(dim=-1)
    return places.gather(1, torch.multinomial(probabilities, 1)), probabilities
