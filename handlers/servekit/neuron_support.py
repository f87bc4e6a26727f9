"""What Inferentia2 and transformers-neuronx allow: versions and images, cores, buckets, memory. Numbers only, no torch.

The kit reads it to check a YAML before anything is deployed, the neuron engine to set up a worker. Knows nothing of
how a model is loaded or run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from servekit.settings import LlamaSettings


@dataclass(frozen=True)
class Sdk:
    """A release of the Neuron SDK and the transformers-neuronx that belongs to it."""

    version: str
    transformers_neuronx: str


@dataclass(frozen=True)
class Image:
    """A container image with the tag that is to be pinned. last_sdk: the SDK it holds."""

    name: str
    last_sdk: str
    python: str
    torchserve: str | None = None
    torch: str | None = None


SDKS = (
    Sdk("2.13.2", "0.6.106"),  # the one that the Inferentia2 article was written for
    Sdk("2.18.2", "0.10.0.360"),
    Sdk("2.20.2", "0.12.313"),
    Sdk("2.21.1", "0.13.380"),
    Sdk("2.23", "0.13.798"),
    Sdk("2.24", "0.13.985"),
    Sdk("2.25", "0.13.1216"),
)
LAST_SDK = "2.25"
"""transformers-neuronx: maintenance from SDK 2.24, end of support at 2.26."""
LAST_SDK_OF_NXD_INFERENCE = "2.28"
"""NxD Inference, its successor, on Inf2 and Trn1; from 2.29 it runs on neither."""
IMAGE = Image(
    "public.ecr.aws/neuron/pytorch-inference-neuronx:2.7.0-neuronx-py310-sdk2.25.0-ubuntu22.04",
    "2.25.0",
    python="3.10",
    torchserve="0.11.0",
    torch="2.7.0",
)
"""The last one that holds transformers-neuronx."""
NXD_IMAGE = Image("pytorch-inference-vllm-neuronx:0.13.0-neuronx-py312-sdk2.28.0-ubuntu24.04", "2.28.0", python="3.12")
"""The last one with vLLM over NxD Inference that runs on Inf2; the openai engine forwards to it."""
TRANSFORMERS = ">=4.43,<4.48"
"""transformers in that image: Llama 3.1's rotary scaling needs 4.43, transformers-neuronx breaks with 4.48."""

MODEL_TYPES = {"llama": "LlamaForSampling", "mistral": "MistralForSampling"}
"""config.json's model_type, and its class in transformers_neuronx.<model_type>.model."""

CORES = {
    "inf2.xlarge": 2,
    "inf2.8xlarge": 2,
    "inf2.24xlarge": 12,
    "inf2.48xlarge": 24,
    "trn1.2xlarge": 2,
    "trn1.32xlarge": 32,
    "trn1n.32xlarge": 32,
}
"""NeuronCores of one instance."""
TP_DEGREES = {"inf2": (1, 2, 4, 8, 12, 24), "trn1": (1, 2, 8, 32), "trn1n": (1, 2, 8, 32)}
BYTES_PER_CORE = 16 * 1024**3
BYTES_OF = {"f32": 4, "f16": 2, "bf16": 2}
SMALLEST_BUCKET = 128
"""As transformers-neuronx has it: shorter shapes gain no latency, and each bucket is a compilation of its own."""


def buckets(max_length: int) -> tuple[int, ...]:
    """Lengths to compile for, in tokens, ascending: powers of two from 128, and max_length itself."""
    sizes = []
    size = SMALLEST_BUCKET
    while size < max_length:
        sizes.append(size)
        size *= 2
    return (*sizes, max_length)


def visible_cores(place: int, tp_degree: int, first: str | None = None) -> str:
    """NEURON_RT_VISIBLE_CORES of the worker at `place` (from 0): "12-23" for place 1 and tp_degree 12.

    first: the cores of the worker at place 0 ("0-11" or "0,2"), or of the first few; those of the workers after them
    follow in steps of its span. No two workers share a core: the runtime gives a core to one process only. Raises
    ValueError when first is no list of cores, or is not made of whole workers.
    """
    cores = parse_cores(first) if first else tuple(range(tp_degree))
    if len(cores) % tp_degree:
        raise ValueError(f"{first!r}: tp_degree is {tp_degree}, {len(cores)} cores are no multiple of it")
    rounds, place = divmod(place, len(cores) // tp_degree)
    shift = rounds * (cores[-1] - cores[0] + 1)
    own = [core + shift for core in cores[place * tp_degree : (place + 1) * tp_degree]]
    if len(own) > 1 and own[-1] - own[0] + 1 == len(own):
        return f"{own[0]}-{own[-1]}"
    return ",".join(map(str, own))


def parse_cores(text: str) -> tuple[int, ...]:
    """The cores of "0-11", "0,2" or "0-3,8", ascending. Raises ValueError."""
    cores: set[int] = set()
    for part in text.split(","):
        ends = part.strip().split("-")
        if len(ends) > 2 or not all(map(str.isdecimal, ends)) or int(ends[0]) > int(ends[-1]):
            raise ValueError(f"{text!r} is no list of cores, such as 0-11 or 0,2")
        cores.update(range(int(ends[0]), int(ends[-1]) + 1))
    return tuple(sorted(cores))


@dataclass(frozen=True)
class Memory:
    """What a model takes on its NeuronCores, in bytes, all cores together; a lower limit: code and scratch come on top.

    cache_bytes: keys and values of batch × max_length positions.
    """

    weights_bytes: int
    cache_bytes: int
    cores: int

    @property
    def fits(self) -> bool:
        """Whether each core's share is less than its 16 GiB."""
        return self.weights_bytes + self.cache_bytes < self.cores * BYTES_PER_CORE

    def __str__(self) -> str:
        weights, cache = (size / 1024**3 for size in (self.weights_bytes, self.cache_bytes))
        return f"weights {weights:.1f} GiB + keys and values {cache:.1f} GiB on {self.cores} cores of 16 GiB"


def memory(config: Mapping[str, Any], settings: LlamaSettings, batch: int, max_length: int) -> Memory:
    """An estimate from config.json's numbers (of a Llama or a Mistral), for a batch compiled to max_length tokens."""
    hidden, layers, inner = (int(config[key]) for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
    heads = int(config["num_attention_heads"])
    key_heads = int(config.get("num_key_value_heads") or heads)
    head_size = int(config.get("head_dim") or hidden // heads)
    tp_degree, bytes_each = settings.tp_degree or 1, BYTES_OF[neuron_dtype(settings)]

    linear = layers * (2 * hidden * heads * head_size + 2 * hidden * key_heads * head_size + 3 * hidden * inner)
    others = int(config["vocab_size"]) * hidden * (1 if config.get("tie_word_embeddings") else 2)
    others += (2 * layers + 1) * hidden
    # Heads that tp_degree does not divide are padded, and every core holds whole ones.
    padded_key_heads = -(-key_heads // tp_degree) * tp_degree
    cache = 2 * layers * padded_key_heads * head_size * max_length * batch * bytes_each
    return Memory(
        linear * (1 if settings.neuron.quantize else bytes_each) + others * bytes_each, cache, cores=tp_degree
    )


def neuron_dtype(settings: LlamaSettings) -> str:
    """The `amp` that auto stands for on Neuron: bf16."""
    return "bf16" if settings.amp == "auto" else settings.amp


def problems(settings: LlamaSettings, instance_type: str | None = None, workers: int = 1) -> list[str]:
    """What cannot work: one line `handler.…: …` for each. instance_type: as "inf2.24xlarge" or "ml.inf2.24xlarge"."""
    if settings.chosen_engine != "neuron" or settings.tp_degree is None:
        return []
    wrong = []
    tp_degree, instance = settings.tp_degree, (instance_type or "inf2").removeprefix("ml.")
    family = instance.partition(".")[0]
    if family not in TP_DEGREES:
        wrong.append(f"handler.engine: transformers-neuronx runs on Inf2 and Trn1, not on {instance_type}")
    elif tp_degree not in TP_DEGREES[family]:
        allowed = ", ".join(map(str, TP_DEGREES[family]))
        wrong.append(f"handler.tp_degree: {tp_degree} is not among those that {family} can run: {allowed}")
    cores = CORES.get(instance)
    if cores and tp_degree * workers > cores:
        which = f"{tp_degree}" if workers == 1 else f"{workers} workers × {tp_degree}"
        wrong.append(f"handler.tp_degree: {which} is more than the {cores} NeuronCores of {instance}")
    if settings.neuron.visible_cores:
        try:
            visible_cores(0, tp_degree, settings.neuron.visible_cores)
        except ValueError as error:
            wrong.append(f"handler.neuron.visible_cores: {error}")
    return wrong + _bucket_problems(settings)


def _bucket_problems(settings: LlamaSettings) -> list[str]:
    positions, contexts = settings.neuron.n_positions, settings.neuron.context_length_estimate
    longest = settings.max_length
    wrong = []
    if positions != "auto" and longest != "auto" and max(positions) < longest:
        wrong.append(f"handler.neuron.n_positions: {max(positions)} is less than max_length={longest}")
    limit = max(positions) if positions != "auto" else longest
    if contexts != "auto" and limit != "auto" and max(contexts) > limit:
        wrong.append(
            f"handler.neuron.context_length_estimate: {max(contexts)} is more than the longest total length, {limit}"
        )
    return wrong


def advice(
    settings: LlamaSettings,
    *,
    batch: int = 1,
    response_timeout_s: int | None = None,
    startup_timeout_s: int | None = None,
    model_config: Mapping[str, Any] | None = None,
) -> list[str]:
    """What is allowed but has to be known: one line for each.

    batch: rows of the compiled batch. The timeouts are torchserve.responseTimeout and startupTimeout. model_config:
    config.json of the weights, where they are there.
    """
    if settings.chosen_engine != "neuron" or settings.tp_degree is None:
        return []
    lines = [which_image()]
    if response_timeout_s and startup_timeout_s and response_timeout_s < startup_timeout_s:
        lines.append(
            f"torchserve.responseTimeout: {response_timeout_s} s is all that loading gets: TorchServe "
            f"{IMAGE.torchserve}, which that image holds, has no startupTimeout ({startup_timeout_s} s here)"
        )
    if model_config:
        lines += _model_advice(settings, model_config, batch)
    return lines


def which_image() -> str:
    """The one image to use, and until when, in one line."""
    return (
        f"handler.engine: neuron runs in {IMAGE.name} (Python {IMAGE.python}, TorchServe {IMAGE.torchserve}, "
        f"transformers {TRANSFORMERS}), the last with transformers-neuronx: its support ended with Neuron SDK "
        f"{LAST_SDK}; on Inf2, NxD Inference goes up to SDK {LAST_SDK_OF_NXD_INFERENCE} ({NXD_IMAGE.name}, "
        "which engine: openai forwards to)"
    )


def _model_advice(settings: LlamaSettings, config: Mapping[str, Any], batch: int) -> list[str]:
    lines = []
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        return [f"handler.engine: neuron serves {' and '.join(MODEL_TYPES)}; config.json's model_type is {kind!r}"]
    heads, tp_degree = int(config["num_attention_heads"]), settings.tp_degree or 1
    if heads % tp_degree:
        padded = -(-heads // tp_degree) * tp_degree
        lines.append(
            f"handler.tp_degree: {heads} attention heads on {tp_degree} cores are padded to {padded}: "
            f"{padded / heads - 1:.0%} of attention is wasted"
        )
    need = memory(config, settings, batch, max_length_of(config, settings))
    if not need.fits:
        lines.append(f"handler.tp_degree: does not fit: {need}")
    return lines


def max_length_of(config: Mapping[str, Any], settings: LlamaSettings) -> int:
    """The longest row in tokens, prompt and new ones: max_length, else config.json's own limit, at most 2048."""
    if settings.max_length != "auto":
        return settings.max_length
    return min(int(config.get("max_position_embeddings") or 2048), 2048)


def environment_notes(environ: Mapping[str, str]) -> list[str]:
    """One line for each variable of the Inferentia2 article that does not do today what it says there."""
    notes = []
    if "NEURONX_CACHE" in environ:
        notes.append(
            "NEURONX_CACHE does nothing since transformers-neuronx 0.6: saved artefacts (handler.neuron.artifacts) or "
            "NEURON_COMPILE_CACHE_URL keep compiled code"
        )
    if "NEURONX_DUMP_TO" in environ:
        notes.append(
            f"NEURONX_DUMP_TO={environ['NEURONX_DUMP_TO']} is not a cache but the compiler's dump mode, which fails "
            "where the folder is read-only, as a model's is on SageMaker: workers ignore it"
        )
    return notes
