"""What of a model's YAML may be changed to make it faster on a machine without changing an answer: the search space.

Pure: from a checked configuration and a number of CPUs to candidates, each a few keys with other values. Nothing that
changes scores, vectors or texts by more than float32's order of summation is an axis: no quantisation, no data type,
no limit that a client can see. Knows nothing of servers and measurements.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from model_configs import schema
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig
from servekit.settings import ClassifierSettings, CpuSettings, EmbeddingSettings, LlamaSettings
from servekit.strict import problems

Value = int | float | str | tuple[int, ...]
Override = tuple[str, Value]
"""A key path of the YAML and its value: ("torchserve.batchSize", 32)."""

BATCH_SIZES = (1, 4, 8, 16, 32, 64)
BATCH_DELAYS_MS = (1, 2, 5, 10)
"""0 never gathers more than 2 requests."""
BATCH_TEXTS = (16, 32, 64)
PADDINGS = (0.05, 0.12, 0.3)
PASS_TOKENS = (512, 1024, 2048)
SHAPE_GRIDS = ((1,), (1, 8), (1, 4, 16), (1, 2, 4, 8), (1, 8, 32))
FLOAT32_STEPS = ("eager", "channels_last", "compile")
SLOTS = (1, 2, 4, 8, 16, 32)
PREFILL_CHUNKS = (64, 128, 256, 512)
MICRO_BATCH_SIZES = (1, 2, 4, 8)
TUNED_KEYS = (
    *(f"torchserve.{key}" for key in ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay")),
    *(f"handler.{key}" for key in ("threads", "pinning", "batch_sizes", "max_batch_texts")),
    *(
        "handler.max_padding",
        "handler.max_pass_tokens",
        "handler.prefill_chunk",
        "handler.warmup.batch_sizes",
        "handler.compile.batch_buckets",
    ),
)
MOST_CANDIDATES = 5000
"""A larger product is thinned at random; it only happens on machines with many CPUs."""


@dataclass(frozen=True)
class Choice:
    """One value of an axis, in words, and what it changes; nothing for the YAML's own value."""

    text: str
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True)
class Axis:
    """Values that exclude each other; the first is the YAML's own."""

    name: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Candidate:
    """Another configuration of the same model. Equal if it changes the same keys; without any it is the default."""

    overrides: tuple[Override, ...] = ()
    choices: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """Of each axis, its name and the value's words."""
    label: str = field(default="default", compare=False)
    """What is not the default, in words."""

    def apply(self, config: AnyModelConfig) -> AnyModelConfig:
        """The configuration with these keys, checked as the YAML is. Raises KitError when it is not valid."""
        raw = config.model_dump(exclude_unset=True)
        for path, value in self.overrides:
            _put(raw, path.split("."), value)
        try:
            changed: AnyModelConfig = type(config).model_validate(raw)
        except ValidationError as error:
            wrong = problems(error, type(config))
        else:
            wrong = schema.cross_checks(changed)
        if wrong:
            raise KitError(f"{config.model.name}, {self.label}: {'; '.join(wrong)}", "another value")
        return changed

    def key(self, config: AnyModelConfig) -> str:
        """Sha256 of all of the configuration that reaches a server: the same however it is spelt in the YAML."""
        return key(self.apply(config))


def key(config: AnyModelConfig) -> str:
    """Sha256 of a configuration's sections that an archive holds, with their defaults."""
    micro = config.micro_batching.model_dump(mode="json") if config.micro_batching else None
    parts = [config.torchserve.model_dump(mode="json"), config.resolved_handler.model_dump(mode="json"), micro]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def untuned(config: AnyModelConfig) -> AnyModelConfig:
    """The configuration as it is before anybody has tuned it: TUNED_KEYS at the schema's defaults."""
    raw = config.model_dump(exclude_unset=True)
    for path in TUNED_KEYS:
        *sections, last = path.split(".")
        found: Any = raw
        for part in sections:
            found = found.get(part, {})
        found.pop(last, None)
    changed: AnyModelConfig = type(config).model_validate(raw)
    return changed


def space(config: AnyModelConfig, cpus: int, seed: int = 0) -> list[Candidate]:
    """Every candidate for a machine with this many cores, the default first, then those that change less first.

    cpus: threads that can compute at once, each on a core of its own. seed: of the thinning of a very large product.
    """
    found = axes(config, cpus)
    default = _candidate([(axis, axis.choices[0]) for axis in found], config)
    # The first of several spellings of one configuration stays.
    by_key = {key(config): default}
    for picked in _picks([axis.choices for axis in found], seed):
        candidate = _candidate(list(zip(found, picked, strict=True)), config)
        if _is_sensible(candidate, config) and (own_key := _key_if_valid(candidate, config)):
            by_key.setdefault(own_key, candidate)
    return [default, *sorted(list(by_key.values())[1:], key=_changes)]


def sample(candidates: Sequence[Candidate], count: int, seed: int) -> list[Candidate]:
    """Up to `count` of the candidates, in their order, the first always among them.

    Each next one has as many values as possible that none before it has, then as many rare ones as possible: a value of
    an axis is left out only when `count` is too small for all. Ties are decided by the seed.
    """
    pool = list(candidates[1:])
    random.Random(seed).shuffle(pool)
    taken = list(candidates[:1])
    seen = Counter(choice for candidate in taken for choice in candidate.choices)
    while pool and len(taken) < count:
        best = max(pool, key=lambda candidate: _novelty(candidate, seen))
        pool.remove(best)
        taken.append(best)
        seen.update(best.choices)
    chosen = set(taken)
    return [candidate for candidate in candidates if candidate in chosen]


def combine(config: AnyModelConfig, cpus: int, wanted: Mapping[str, str]) -> Candidate | None:
    """The candidate that has, of each axis, the value with these words; None when they do not go together."""
    picked = [
        (axis, next((choice for choice in axis.choices if choice.text == wanted.get(axis.name)), axis.choices[0]))
        for axis in axes(config, cpus)
    ]
    candidate = _candidate(picked, config)
    return candidate if _key_if_valid(candidate, config) else None


def axes(config: AnyModelConfig, cpus: int) -> list[Axis]:
    """What can be changed of this model, the YAML's own value first on each axis."""
    serving, settings = config.torchserve, config.handler
    found = []
    if isinstance(settings, CpuSettings) and _computes_on_cpu(config):
        found.append(_workers_and_threads(config, cpus))
        if settings.pinning != "launcher":
            found.append(_axis("pinning", "handler.pinning", settings.pinning, ("own", "off")))
    sizes = SLOTS if isinstance(settings, LlamaSettings) else BATCH_SIZES
    found.append(_axis("batchSize", "torchserve.batchSize", serving.batchSize, sizes))
    if not serving.continuousBatching:
        found.append(_axis("maxBatchDelay", "torchserve.maxBatchDelay", serving.maxBatchDelay, BATCH_DELAYS_MS))
    if config.micro_batching:
        own = config.micro_batching.micro_batch_size
        found.append(_axis("micro_batch_size", "micro_batching.micro_batch_size", own, MICRO_BATCH_SIZES))
    if isinstance(settings, EmbeddingSettings):
        found += _embedding_axes(settings)
    if isinstance(settings, ClassifierSettings):
        found += _classifier_axes(settings)
    if isinstance(settings, LlamaSettings):
        found += _llama_axes(settings)
    return [axis for axis in found if len(axis.choices) > 1]


def pairs(cpus: int) -> list[tuple[int, int]]:
    """Workers and threads of each, from 1 × all to all × 1; both on all cores and with one left to TorchServe itself.

    Workers go by powers of two, since each one more costs a copy of the model.
    """
    powers = {1 << power for power in range(cpus.bit_length()) if 1 << power <= cpus}
    workers = sorted(powers | {cpus, max(1, cpus - 1)})
    return sorted({(each, threads) for each in workers for threads in (cpus // each, (cpus - 1) // each) if threads})


def _workers_and_threads(config: AnyModelConfig, cpus: int) -> Axis:
    serving, own_threads = config.torchserve, config.handler.threads
    own = (serving.maxWorkers, own_threads if own_threads != "auto" else max(1, cpus // serving.maxWorkers))
    choices = [Choice(f"{own[0]} × {own[1]}")]
    for workers, threads in pairs(cpus):
        if (workers, threads) == own and serving.minWorkers == serving.maxWorkers:
            continue
        # auto stays true when the YAML goes to a larger machine.
        spelt: Value = "auto" if threads == cpus // workers else threads
        choices.append(
            Choice(
                f"{workers} × {threads}" if (workers, threads) != own else f"{workers} × {threads} from the start",
                (
                    ("torchserve.minWorkers", workers),
                    ("torchserve.maxWorkers", workers),
                    ("handler.threads", spelt),
                ),
            )
        )
    return Axis("workers × threads", tuple(choices))


def _embedding_axes(settings: EmbeddingSettings) -> Iterator[Axis]:
    yield _axis("max_batch_texts", "handler.max_batch_texts", settings.max_batch_texts, BATCH_TEXTS)
    if settings.compile.mode == "jit":
        yield _axis("max_padding", "handler.max_padding", settings.max_padding, PADDINGS)
        own = settings.compile.batch_buckets
        yield _axis("batch_buckets", "handler.compile.batch_buckets", own, ((1,), (1, 8), (1, 4, 16)))
        return
    yield _axis("max_pass_tokens", "handler.max_pass_tokens", settings.max_pass_tokens, PASS_TOKENS)
    # jit is no candidate: it compiles for minutes in every worker.
    yield _axis("mode", "handler.compile.mode", settings.compile.mode, ("aot", "eager"))


def _classifier_axes(settings: ClassifierSettings) -> Iterator[Axis]:
    yield _axis("batch_sizes", "handler.batch_sizes", settings.batch_sizes, SHAPE_GRIDS)
    if settings.step in FLOAT32_STEPS:
        yield _axis("step", "handler.step", settings.step, FLOAT32_STEPS)
    if settings.task == "text":
        yield _axis("max_padding", "handler.max_padding", settings.max_padding, PADDINGS)


def _llama_axes(settings: LlamaSettings) -> Iterator[Axis]:
    if settings.chosen_engine != "torch":
        return
    yield _axis("prefill_chunk", "handler.prefill_chunk", settings.prefill_chunk, PREFILL_CHUNKS)
    if settings.quantize == "none":  # int8 weights are the kernels' own
        yield _axis("mode", "handler.mode", settings.mode, ("auto", "eager"))


def _axis(name: str, path: str, own: Value, values: Iterable[Value]) -> Axis:
    others = [Choice(_text(value), ((path, value),)) for value in values if value != own]
    return Axis(name, (Choice(_text(own)), *others))


def _computes_on_cpu(config: AnyModelConfig) -> bool:
    if isinstance(config.handler, LlamaSettings) and config.handler.chosen_engine != "torch":
        return False
    return config.torchserve.deviceType in (None, "cpu")


def _picks(choices: Sequence[tuple[Choice, ...]], seed: int) -> Iterable[tuple[Choice, ...]]:
    """The whole product, or a random part of it."""
    total = 1
    for each in choices:
        total *= len(each)
    if total <= MOST_CANDIDATES:
        return itertools.product(*choices)
    chooser = random.Random(seed)
    return [tuple(chooser.choice(each) for each in choices) for _ in range(MOST_CANDIDATES)]


def _candidate(picked: Sequence[tuple[Axis, Choice]], config: AnyModelConfig) -> Candidate:
    changed = [(axis, choice) for axis, choice in picked if choice.overrides]
    overrides = dict(override for _, choice in changed for override in choice.overrides)
    overrides |= _followers(config, overrides)
    return Candidate(
        tuple(sorted(overrides.items())),
        tuple((axis.name, choice.text) for axis, choice in picked),
        ", ".join(f"{axis.name} {choice.text}" for axis, choice in changed) or "default",
    )


def _followers(config: AnyModelConfig, overrides: Mapping[str, Value]) -> dict[str, Value]:
    """Keys that have to change with others: an embedding model's shapes, where the YAML names them."""
    settings = config.handler
    if not isinstance(settings, EmbeddingSettings):
        return {}
    texts = int(overrides.get("handler.max_batch_texts", settings.max_batch_texts))  # type: ignore[arg-type]
    largest = min(texts, int(overrides.get("torchserve.batchSize", config.torchserve.batchSize)))  # type: ignore[arg-type]
    found: dict[str, Value] = {}
    if "batch_sizes" in settings.warmup.model_fields_set:
        sizes = tuple(sorted({size for size in settings.warmup.batch_sizes if size < largest} | {largest}))
        if sizes != settings.warmup.batch_sizes:
            found["handler.warmup.batch_sizes"] = sizes
    if "batch_buckets" in settings.compile.model_fields_set and "handler.compile.batch_buckets" not in overrides:
        buckets = tuple(size for size in settings.compile.batch_buckets if size <= texts) or (1,)
        if buckets != settings.compile.batch_buckets:
            found["handler.compile.batch_buckets"] = buckets
    return found if overrides else {}


def _is_sensible(candidate: Candidate, config: AnyModelConfig) -> bool:
    """Whether every value that it changes can make a difference."""
    changed = dict(candidate.overrides)
    batch_size = changed.get("torchserve.batchSize", config.torchserve.batchSize)
    assert isinstance(batch_size, int)  # noqa: S101 - the schema says so
    if batch_size == 1 and "torchserve.maxBatchDelay" in changed:
        return False  # a batch of one waits for nobody
    grid, texts = changed.get("handler.batch_sizes"), changed.get("handler.max_batch_texts")
    too_large = isinstance(grid, tuple) and max(grid) > batch_size
    return not too_large and not (isinstance(texts, int) and texts > batch_size)


def _key_if_valid(candidate: Candidate, config: AnyModelConfig) -> str | None:
    try:
        return candidate.key(config)
    except KitError:
        return None


def _changes(candidate: Candidate) -> int:
    return len(candidate.label.split(", "))


def _novelty(candidate: Candidate, seen: Counter[tuple[str, str]]) -> tuple[int, float]:
    counts = [seen[choice] for choice in candidate.choices]
    return counts.count(0), -sum(counts)


def _text(value: Value) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _put(raw: dict[str, Any], path: Sequence[str], value: Value) -> None:
    for part in path[:-1]:
        raw = raw.setdefault(part, {})
    raw[path[-1]] = value
