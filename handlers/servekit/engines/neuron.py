"""Llama and Mistral on Inferentia2 by AWS's transformers-neuronx: static batches, left-padded, one sample() for each.

The library is imported here and nowhere else, and only when a model is loaded. What its versions, cores and memory
allow is in neuron_support.py. Knows no tokenizer, client or server.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch
from torch import Tensor

from servekit.engines.base import Capabilities, Finish, Inbox, OneProcess, Prompt, Sampling, Step, prompt_problem
from servekit.fingerprint import difference, file_sha256
from servekit.log import log
from servekit.machine_cache import cache_folder
from servekit.neuron_support import (
    MODEL_TYPES,
    buckets,
    environment_notes,
    max_length_of,
    memory,
    neuron_dtype,
    visible_cores,
    which_image,
)
from servekit.settings import LlamaSettings

VISIBLE_CORES = "NEURON_RT_VISIBLE_CORES"
COMPILER_FLAGS = "NEURON_CC_FLAGS"
COMPILE_CACHE = "NEURON_COMPILE_CACHE_URL"
DUMP_TO = "NEURONX_DUMP_TO"
SHIPPED_CACHE = "neuron_cache"
"""Folder of an archive with a compile cache, where somebody packed one."""
FINGERPRINT_FILE = "fingerprint.json"
PACKAGES = ("transformers-neuronx", "neuronx-cc", "torch-neuronx")
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
SPLIT = "pytorch_model.bin"
"""What save_pretrained_split writes: a directory of this name, a file for each tensor."""
NO_EOS = -1
"""No token has this id. With the model's own EOS, sample() would overwrite the rest of a row that goes on after one."""
PADDING_ID = 0


class NeuronEngine(OneProcess):
    """A model on this worker's NeuronCores."""

    def __init__(
        self,
        name: str,
        model_dir: Path,
        settings: LlamaSettings,
        micro_batch_size: int,
        worker_place: int,
        workers: int,
    ) -> None:
        """Load, and compile what no saved artefact holds, which takes minutes.

        model_dir: the archive's root. micro_batch_size: rows of the one batch that is compiled. worker_place: this
        worker's number among `workers`, from 0; it decides on the cores. Raises ImportError outside a Neuron image,
        FileNotFoundError and ValueError for a model that is not there or cannot be served.
        """
        set_environment(model_dir, settings, worker_place)
        self._plan = plan_model(name, model_dir, settings, micro_batch_size)
        log.info("%s: worker %d of %d on cores %s", name, worker_place + 1, workers, os.environ[VISIBLE_CORES])
        self._model = self._plan.make()
        artifacts = self._plan.fitting_artifacts(model_dir, settings)
        if artifacts:
            self._model.load(str(artifacts))  # has its place between from_pretrained() and to_neuron()
        try:
            self._model.to_neuron()
        except FileNotFoundError as error:
            if not artifacts:
                raise
            raise FileNotFoundError(
                f"{name}: {artifacts} holds no program for this model: it was compiled by another Neuron SDK, or for "
                f"another config.json, batch size or tp_degree, and its {FINGERPRINT_FILE} does not say so; build it "
                f"again or remove it ({error})"
            ) from None
        self.capabilities = Capabilities(
            max_batch=micro_batch_size,
            max_length=self._plan.max_length,
            continuous=False,
            per_request_sampling=False,
            logprobs=False,
        )

    def warmup(self) -> list[tuple[str, float]]:
        """Run the program of every bucket once: a prompt one short of it, and the step that fills it."""
        rows, timings = self._plan.keywords["batch_size"], []
        sizes = {*self._plan.keywords["context_length_estimate"], *self._plan.keywords["n_positions"]}
        for size in sorted(size for size in sizes if 1 < size <= self._plan.keywords["n_positions"][-1]):
            started = time.perf_counter()
            prompt = torch.full((rows, size - 1), PADDING_ID, dtype=torch.int64)
            start_ids = torch.zeros(rows, dtype=torch.int32)
            # Nothing stops it, so that it runs the step after the token too.
            self._model.sample(prompt, size, start_ids=start_ids, top_k=1, eos_token_override=NO_EOS)
            timings.append((f"{rows} × {size}", time.perf_counter() - started))
        return timings

    def fingerprint(self) -> dict[str, str]:
        """Versions and settings that decide whether compiled artefacts fit."""
        return self._plan.fingerprint()

    def save_artifacts(self, folder: Path) -> None:
        """Write the compiled programs and what they fit to: what handler.neuron.artifacts names in an archive."""
        self._plan.save_artifacts(self._model, folder)

    def stream(self, inbox: Inbox) -> Iterator[list[Step]]:
        """One batch: up to max_batch prompts, taken now. Rows that cannot share a sample() run one after another."""
        rows = [_Row(prompt, self._plan.max_length) for prompt in inbox.take(self.capabilities.max_batch)]
        refused = [row.end("error", reason) for row in rows if (reason := self._problem(row.prompt))]
        if refused:
            yield refused
        for group in _groups([row for row in rows if not row.finished], self._plan.max_length):
            yield from self._run(group, rows, inbox)

    def close(self) -> None:
        """Let go of the model; the cores are free when the process ends."""
        self._model = None

    def _problem(self, prompt: Prompt) -> str:
        """Why this prompt cannot be run, before it costs its neighbours theirs; empty when it can."""
        if problem := prompt_problem(prompt, self._plan.max_length, self._plan.vocabulary):
            return problem
        return "transformers-neuronx has no repetition_penalty" if prompt.sampling.repetition_penalty != 1.0 else ""

    def _run(self, group: list[_Row], everyone: list[_Row], inbox: Inbox) -> Iterator[list[Step]]:
        """One sample() over the rows of group. Never raises: what sample() raises ends its rows."""
        if cancelled := _end_cancelled(everyone, inbox):
            yield cancelled
        group = [row for row in group if not row.finished]
        if not group:
            return
        input_ids, start_ids = _pad_left([row.prompt.token_ids for row in group], self._plan.keywords["batch_size"])
        call = _SampleCall(
            self._model, input_ids, start_ids, input_ids.shape[1] + max(row.room for row in group), group[0].arguments
        )
        try:
            for tokens in call:  # rows after the group's are there only to fill the compiled batch
                yield [row.gain(token) for row, token in zip(group, tokens, strict=False) if not row.finished]
                if cancelled := _end_cancelled(everyone, inbox):
                    yield cancelled
                if all(row.finished for row in group):
                    break
        finally:
            call.stop()
        if failed := [row.end("error", call.why_it_ended) for row in group if not row.finished]:
            yield failed


def compile_artifacts(name: str, model_dir: Path, settings: LlamaSettings, micro_batch_size: int, folder: Path) -> None:
    """Compile and save with no device: the build machine needs the Neuron image, not an instance with NeuronCores."""
    plan = plan_model(name, model_dir, settings, micro_batch_size)
    model = plan.make()
    model.cpu_compile()
    plan.save_artifacts(model, folder)


def set_environment(model_dir: Path, settings: LlamaSettings, worker_place: int) -> None:
    """What the Neuron runtime and compiler read from the environment; they do so once, before the library is imported.

    Cores that the environment names already are the server's, and the first worker's come first. Raises ValueError.
    """
    for note in environment_notes(os.environ):
        log.warning("%s", note)
    os.environ.pop(DUMP_TO, None)
    first = settings.neuron.visible_cores or os.environ.get(VISIBLE_CORES)
    os.environ[VISIBLE_CORES] = visible_cores(worker_place, settings.tp_degree or 1, first)
    if settings.neuron.compiler_flags is not None:
        os.environ[COMPILER_FLAGS] = settings.neuron.compiler_flags
    shipped = model_dir / SHIPPED_CACHE
    if shipped.is_dir() and COMPILE_CACHE not in os.environ:
        os.environ[COMPILE_CACHE] = str(writable_copy(shipped))


def writable_copy(shipped: Path) -> Path:
    """A copy of an archive's compile cache, made once on this machine.

    The compiler writes into its cache; a model's folder is read-only on SageMaker, and sealed by checksums everywhere.
    """
    content = sorted(f"{path.relative_to(shipped)}:{path.stat().st_size}" for path in shipped.rglob("*.*"))
    key = hashlib.sha256(f"{shipped}\n{content}".encode()).hexdigest()[:16]
    copies = cache_folder("neuron")
    copy = copies / key
    if not copy.exists():
        with tempfile.TemporaryDirectory(dir=copies) as draft:
            shutil.copytree(shipped, Path(draft) / key, copy_function=shutil.copyfile)
            with suppress(OSError):  # another worker was faster
                (Path(draft) / key).rename(copy)
    return copy


@dataclass(frozen=True)
class ModelPlan:
    """How a model is made. keywords: of the constructor; options: of NeuronConfig."""

    name: str
    folder: Path
    model_type: str
    max_length: int
    vocabulary: int
    keywords: Mapping[str, Any]
    options: Mapping[str, Any]

    def make(self) -> Any:
        """The model, not on a device yet. Raises ImportError outside a Neuron image."""
        try:
            models = import_module(f"transformers_neuronx.{self.model_type}.model")
            config = import_module("transformers_neuronx.config")
        except ImportError as error:  # PyPI has a package of this name that raises it, too
            raise ImportError(f"{self.name}: no transformers-neuronx here ({error}); {which_image()}") from None
        options = dict(self.options)
        if "quant" in options:
            options["quant"] = config.QuantizationConfig(
                quant_dtype=options["quant"], dequant_dtype=self.keywords["amp"]
            )
        model_class = getattr(models, MODEL_TYPES[self.model_type])
        return model_class.from_pretrained(
            str(self.folder), neuron_config=config.NeuronConfig(**options), **self.keywords
        )

    def fingerprint(self) -> dict[str, str]:
        """What programs depend on: versions, shapes and config.json, and not the weights, which are their input."""
        return {
            **{package: _version(package) for package in PACKAGES},
            "config.json": file_sha256(self.folder / "config.json"),
            **{key: str(value) for key, value in self.keywords.items()},
            "neuron_config": str(dict(self.options)),
            "compiler_flags": os.environ.get(COMPILER_FLAGS, ""),
        }

    def save_artifacts(self, model: Any, folder: Path) -> None:
        """Write the model's compiled programs and their fingerprint."""
        model.save(str(folder))
        (folder / FINGERPRINT_FILE).write_text(json.dumps(self.fingerprint(), indent=2) + "\n")

    def fitting_artifacts(self, model_dir: Path, settings: LlamaSettings) -> Path | None:
        """The archive's folder of compiled programs when they fit; else None, and a line in the log says why."""
        if not settings.neuron.artifacts:
            return None
        folder = model_dir / settings.neuron.artifacts
        reason = _unfit(folder, self.fingerprint())
        if not reason:
            return folder
        log.info("%s: compiling, which takes minutes; saved artefacts not used: %s", self.name, reason)
        return None


def plan_model(name: str, model_dir: Path, settings: LlamaSettings, micro_batch_size: int) -> ModelPlan:
    """Read the model's folder and settings. Raises FileNotFoundError and ValueError that name what is wrong."""
    folder = find_weights(name, model_dir / settings.model_checkpoint_dir)
    config = json.loads((folder / "config.json").read_text())
    if config.get("model_type") not in MODEL_TYPES:
        raise ValueError(
            f"{name}: the neuron engine serves {' and '.join(MODEL_TYPES)}; "
            f"{folder}/config.json is of model_type {config.get('model_type')!r}"
        )
    max_length = max_length_of(config, settings)
    limit = config.get("max_position_embeddings") or max_length
    if max_length > limit:
        raise ValueError(f"{name}: max_length is {max_length}, the model has {limit} positions")
    neuron = settings.neuron
    positions = sorted(buckets(max_length) if neuron.n_positions == "auto" else neuron.n_positions)
    max_length = min(max_length, positions[-1])  # past the last, sample() raises StopIteration in the middle of a row
    estimate = neuron.context_length_estimate
    need = memory(config, settings, micro_batch_size, positions[-1])
    if need.fits:
        log.info("%s: %s", name, need)
    else:
        log.warning("%s will not fit: %s", name, need)
    options: dict[str, Any] = {
        "fuse_qkv": neuron.fuse_qkv or None,
        "group_query_attention": neuron.group_query_attention,
        "attention_layout": neuron.attention_layout,
        "quant": neuron.quantize,
    }
    return ModelPlan(
        name,
        folder,
        config["model_type"],
        max_length,
        vocabulary=int(config["vocab_size"]),
        keywords={
            "n_positions": positions,
            "batch_size": micro_batch_size,
            "amp": neuron_dtype(settings),
            "tp_degree": settings.tp_degree,
            "context_length_estimate": sorted(buckets(positions[-1]) if estimate == "auto" else estimate),
        },
        options={key: value for key, value in options.items() if value is not None},
    )


def find_weights(name: str, folder: Path) -> Path:
    """The folder, when it holds config.json and weights that the library reads. Raises FileNotFoundError."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{name}: no config.json in {folder} (handler.model_checkpoint_dir)")
    if any((folder / file).is_file() for file in SAFETENSORS) or (folder / SPLIT).is_dir():
        return folder
    raise FileNotFoundError(
        f"{name}: no weights in {folder}: neither {' nor '.join(SAFETENSORS)}, nor the directory {SPLIT} that "
        "save_pretrained_split writes"
    )


class _Arguments(NamedTuple):
    """sample()'s own, in the types that it insists on; rows of one call share them."""

    top_k: int | None
    top_p: float
    temperature: float


class _Row:
    """A prompt on its way. room: new tokens that it may still gain."""

    def __init__(self, prompt: Prompt, max_length: int) -> None:
        self.prompt = prompt
        self.room = min(prompt.max_new_tokens, max_length - len(prompt.token_ids))
        self.arguments = _arguments(prompt.sampling)
        self.finished = False

    def gain(self, token: int) -> Step:
        """What one more token is to this row."""
        self.room -= 1
        if token in self.prompt.stop_ids:
            return self.end("stop")
        self.finished = self.room == 0
        return Step(self.prompt.key, token, finish="length" if self.finished else None)

    def end(self, finish: Finish, message: str = "") -> Step:
        """The row's last step, without a token."""
        self.finished = True
        return Step(self.prompt.key, finish=finish, message=message)


def _arguments(sampling: Sampling) -> _Arguments:
    if sampling.temperature == 0:
        return _Arguments(top_k=1, top_p=1.0, temperature=1.0)
    return _Arguments(sampling.top_k, float(sampling.top_p), float(sampling.temperature))


def _groups(rows: list[_Row], max_length: int) -> list[list[_Row]]:
    """Rows that can share a sample(): the same arguments, and room for each after the longest prompt among them.

    Padding puts every row where the longest prompt ends: without the second rule, a row's answer would be cut short
    because of a stranger's prompt.
    """
    groups: list[list[_Row]] = []
    for row in rows:
        for group in groups:
            together = [*group, row]
            longest = max(len(member.prompt.token_ids) for member in together)
            if row.arguments == group[0].arguments and longest + max(r.room for r in together) <= max_length:
                group.append(row)
                break
        else:
            groups.append([row])
    return groups


def _pad_left(prompts: list[Sequence[int]], rows: int) -> tuple[Tensor, Tensor]:
    """input_ids [rows, longest] int64 and start_ids [rows] int32, where each row's prompt begins.

    Rows that are missing from the compiled batch become prompts of one token, which nobody reads.
    """
    prompts = [*prompts, *([(PADDING_ID,)] * (rows - len(prompts)))]
    longest = max(map(len, prompts))
    starts = [longest - len(prompt) for prompt in prompts]
    padded = [[PADDING_ID] * start + list(prompt) for start, prompt in zip(starts, prompts, strict=True)]
    return torch.tensor(padded, dtype=torch.int64), torch.tensor(starts, dtype=torch.int32)


def _end_cancelled(rows: list[_Row], inbox: Inbox) -> list[Step]:
    return [row.end("cancelled") for row in rows if not row.finished and inbox.cancelled(row.prompt.key)]


class _SampleCall:
    """One sample() in a thread of its own, in step with its reader: asked for the next tokens, the model goes on.

    It is sample()'s streamer and its stopping criterion in one. That the thread has ended is what ends the reading:
    sample() leaves end() out when it fails.
    """

    def __init__(
        self, model: Any, input_ids: Tensor, start_ids: Tensor, sequence_length: int, arguments: _Arguments
    ) -> None:
        """sequence_length: prompts and new tokens together, in tokens."""
        self.why_it_ended = "the model stopped before the row was done"
        self._tokens: SimpleQueue[list[int] | None] = SimpleQueue()
        self._turn = threading.Semaphore(0)
        self._stopped = False
        criteria = import_module("transformers_neuronx.stopping_criteria").StoppingCriteriaList([self.must_stop])

        def sample() -> None:
            model.sample(
                input_ids,
                sequence_length,
                start_ids=start_ids,
                eos_token_override=NO_EOS,
                streamer=self,
                stopping_criteria_list=criteria,
                **arguments._asdict(),
            )

        self._thread = threading.Thread(target=self._run, args=(sample,), name="neuron-sample", daemon=True)

    def __iter__(self) -> Iterator[list[int]]:
        """A token for each row of the batch, step by step."""
        self._thread.start()
        while (tokens := self._tokens.get()) is not None:
            yield tokens
            self._turn.release()

    def stop(self) -> None:
        """End sample() before its next step, and wait until it has ended: the model has only one KV cache."""
        self._stopped = True
        self._turn.release()
        if self._thread.ident is not None:
            self._thread.join()

    def put(self, tokens: Tensor) -> None:
        """sample() has chosen a token for each row, [B, 1]; the prompt never comes here."""
        self._tokens.put(tokens[:, 0].tolist())
        if not self._stopped:
            self._turn.acquire()

    def end(self) -> None:
        """sample() is done, which the end of the thread says as well."""

    def must_stop(self, prompt_ids: Tensor, probabilities: Tensor) -> bool:
        """Asked after every token, with the prompt's ids and not the new ones."""
        return self._stopped

    def _run(self, sample: Callable[[], None]) -> None:
        try:
            sample()
        except BaseException as error:  # noqa: BLE001 - whatever it was, the rows that wait have to hear of it
            log.error("sample() failed", exc_info=error)
            self.why_it_ended = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        finally:
            self._tokens.put(None)


def _unfit(folder: Path, wanted: dict[str, str]) -> str:
    """Why the compiled programs of a folder are not to be used; empty when they are."""
    if not any(folder.glob("*.neff")):
        return f"no .neff file in {folder}"
    try:
        found = json.loads((folder / FINGERPRINT_FILE).read_text())
    except (OSError, ValueError) as error:
        return f"{folder}/{FINGERPRINT_FILE}: {error}"
    return difference(wanted, found)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
