"""The schema of a model's YAML, its loader, and what of it goes into the archive.

Knows nothing of archives, servers or load tests; the `handler:` section is checked by servekit/settings.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, Union

import yaml
from pydantic import Field, ValidationError, model_validator

from model_configs import CONFIGS_DIR, HANDLERS_DIR, ROOT, ec2, sagemaker_advice
from model_configs.ec2 import Ec2
from model_configs.errors import KitError
from model_configs.gateway import GatewaySettings
from model_configs.loadtest import LoadTest
from model_configs.sagemaker import SageMaker
from servekit import neuron_support
from servekit.settings import (
    HANDLER_SETTINGS,
    ClassifierSettings,
    CpuSettings,
    EmbeddingSettings,
    LlamaSettings,
    MicroBatching,
    PositiveInt,
    RetrievalSettings,
)
from servekit.strict import Strict, closest, problems

SCHEMA_FILE = CONFIGS_DIR / "schema.json"
SECONDS_PER_COMPILED_SHAPE = 15
"""What torch.compile takes for one shape of a small encoder on 2 cores; larger models take longer."""

Seconds = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")]
Settings = TypeVar("Settings", bound=Strict)


class Assets(Strict):
    """Where weights and tokenizer come from; the first of package, path, hub that is there is taken."""

    package: str | None = None
    """An installed Python package that carries them."""
    package_folder: str | None = None
    """The folder inside site-packages."""
    path: str | None = None
    """A local folder; relative paths start at the project's root, ~ is the home folder."""
    hub: str | None = None
    """A Hugging Face hub repository, fetched when no local folder is there."""
    revision: str = "main"
    """The hub revision; a commit hash makes the archive reproducible."""
    sha256: dict[str, Sha256] = Field(default_factory=dict)
    """Files that must have these sums."""
    calibration: str | None = None
    """A folder of typical inputs that quantised steps are calibrated on and compared with float32 on; it is not
    part of the archive. Relative paths start at the project's root."""

    @model_validator(mode="after")
    def _has_a_source(self) -> Assets:
        if not (self.package or self.path or self.hub):
            raise ValueError("one of package, path or hub is needed")
        if bool(self.package) != bool(self.package_folder):
            raise ValueError("package and package_folder go together")
        return self


class Model(Strict):
    """What is served and how it is packaged."""

    name: Name
    version: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]*$")]
    handler: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*_handler\.py$")]
    format: Literal["mar", "no-archive", "tgz"] = "mar"
    assets: Assets


class TorchServe(Strict):
    """TorchServe's own keys, in its own spelling (ModelConfig.java). It ignores a key that it does not know."""

    minWorkers: PositiveInt = 1
    maxWorkers: PositiveInt = 1
    batchSize: PositiveInt = 1
    maxBatchDelay: Annotated[int, Field(ge=0)] = 1
    """Milliseconds. 0 never gathers more than 2 requests."""
    responseTimeout: Seconds = 60
    """Seconds after which TorchServe kills a worker that has not answered."""
    startupTimeout: Seconds = 300
    """Seconds a worker may take to load. TorchServe 0.11 has no such key and uses responseTimeout."""
    maxRetryTimeoutInSec: Seconds | None = None
    clientTimeoutInMills: PositiveInt | None = None
    jobQueueSize: PositiveInt | None = None
    useJobTicket: bool | None = None
    deviceType: Literal["cpu", "gpu", "neuron"] | None = None
    deviceIds: list[int] | None = None
    parallelType: Literal["pp", "tp", "pptp", "custom"] | None = None
    parallelLevel: PositiveInt | None = None
    torchrun: dict[str, int | str] | None = None
    continuousBatching: bool | None = None
    sequenceBatching: bool | None = None
    asyncCommunication: bool | None = None
    useVenv: bool | None = None

    @model_validator(mode="after")
    def _workers_ordered(self) -> TorchServe:
        if self.maxWorkers < self.minWorkers:
            raise ValueError(f"maxWorkers={self.maxWorkers} is less than minWorkers={self.minWorkers}")
        return self


class Deploy(Strict):
    """Targets outside this machine, and what they cost."""

    sagemaker: SageMaker | None = None
    ec2: Ec2 | None = None
    gateway: GatewaySettings = GatewaySettings()
    price_per_hour: Annotated[float, Field(gt=0)] | None = None
    """US dollars an hour for the machine that the figures are reported for."""


class Index(Strict):
    """What `kit.py index` makes for retrieval_handler.py; it goes into the archive."""

    sources: list[str] = Field(default_factory=list)
    """Folders, files, URLs, or pydoc:topics for CPython's own; those of the command line go before these."""
    chunk_size: PositiveInt = 1000
    """Characters of a passage, at most."""
    chunk_overlap: Annotated[int, Field(ge=0)] = 0
    """Characters that a passage shares with the one before."""
    kind: Literal["auto", "flat", "hnsw", "ivf"] = "auto"
    """auto: flat, which is exact, while a search takes less than the encoder; hnsw beyond that, then ivf."""

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Index:
        if self.chunk_overlap >= self.chunk_size:
            raise ValueError(f"chunk_overlap: {self.chunk_overlap} is not less than chunk_size={self.chunk_size}")
        return self


class ModelConfig(Strict, Generic[Settings]):
    """One model's YAML."""

    model: Model
    torchserve: TorchServe = TorchServe()
    handler: Settings
    micro_batching: MicroBatching | None = None
    index: Index | None = None
    deploy: Deploy | None = None
    loadtest: LoadTest | None = None

    @property
    def resolved_handler(self) -> Settings:
        """The handler's settings as its builder has to know them: with rows in flight, without what is only served."""
        handler = self.handler
        if isinstance(handler, RetrievalSettings):
            return handler.encoder  # type: ignore[return-value] # the builder makes an encoder
        if not isinstance(handler, LlamaSettings) or handler.max_batch != "auto":
            return handler
        rows = self.micro_batching.micro_batch_size if self.micro_batching else self.torchserve.batchSize
        return handler.model_copy(update={"max_batch": rows})

    def model_config_yaml(self) -> str:
        """The archive's model-config.yaml: TorchServe's keys, `handler` and `micro_batching`, nothing else."""
        keys: dict[str, Any] = self.torchserve.model_dump(exclude_none=True)
        keys["handler"] = self.handler.model_dump(mode="json", exclude_unset=True)
        if self.micro_batching:
            keys["micro_batching"] = self.micro_batching.model_dump(mode="json")
        return yaml.safe_dump(keys, sort_keys=False)


AnyModelConfig = ModelConfig[Any]


class _NoDuplicates(yaml.SafeLoader):
    """YAML's loader keeps the last of two equal keys; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def model_names(folder: Path = CONFIGS_DIR) -> list[str]:
    """Names of all models that have a YAML, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_model(name: str, folder: Path = CONFIGS_DIR) -> AnyModelConfig:
    """The configuration of a model by name. Raises KitError."""
    path = folder / f"{name}.yaml"
    if not path.exists():
        near = closest(name, model_names(folder))
        advice = f"did you mean {near}?" if near else f"there are: {', '.join(model_names(folder))}"
        raise KitError(f"no model named {name!r}: {_short(path)} does not exist", advice)
    config = load_file(path)
    if config.model.name != name:
        raise KitError(
            f"{_short(path)}: model.name: {config.model.name!r} is not the file's name, {name!r}", "rename one"
        )
    return config


def retrieval_model(name: str) -> tuple[AnyModelConfig, RetrievalSettings]:
    """A retrieval model's configuration and handler settings by name. Raises KitError, also for another handler's."""
    config = load_model(name)
    if not isinstance(config.handler, RetrievalSettings):
        raise KitError(f"{name} is no retrieval model", "one whose model.handler is retrieval_handler.py")
    return config, config.handler


def load_file(path: Path) -> AnyModelConfig:
    """Parse and check one YAML. Raises KitError that names file, key path and, for unknown keys, the closest."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _NoDuplicates)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise KitError(
            f"{_short(path)}{line}: not YAML: {error.problem}", "see model_configs/minilm.yaml for a whole one"
        ) from None
    return checked(raw, path)


def checked(raw: Any, path: Path) -> AnyModelConfig:
    """What a YAML holds as a configuration; path: the file that errors name. Raises KitError as load_file does."""
    settings = _handler_settings(path, raw)
    schema = ModelConfig[settings]  # type: ignore[valid-type]
    try:
        config = schema.model_validate(raw)
    except ValidationError as error:
        lines = [f"{_short(path)}: {line}" for line in problems(error, schema)]
        raise KitError("\n       ".join(lines), f"every key is described in {_short(SCHEMA_FILE)}") from None
    wrong = cross_checks(config)
    if wrong:
        raise KitError("\n       ".join(f"{_short(path)}: {line}" for line in wrong), "change one of the two keys")
    return config


def cross_checks(config: AnyModelConfig) -> list[str]:
    """What no single key shows to be wrong: one line `key.path: …` for each."""
    serving, settings, wrong = config.torchserve, config.handler, []
    if isinstance(settings, EmbeddingSettings):
        largest = max(settings.warmup.batch_sizes)
        if largest > serving.batchSize and "batch_sizes" in settings.warmup.model_fields_set:
            wrong.append(f"handler.warmup.batch_sizes: {largest} is more than torchserve.batchSize={serving.batchSize}")
        if settings.compile.mode == "jit":
            shapes = (len(settings.compile.batch_buckets) + 1) * (len(settings.compile.length_buckets) + 1)
            needed_s = shapes * SECONDS_PER_COMPILED_SHAPE
            if needed_s > serving.startupTimeout:
                wrong.append(
                    f"torchserve.startupTimeout: compiling up to {shapes} buckets takes about {needed_s} s, "
                    f"more than {serving.startupTimeout}"
                )
    if isinstance(settings, RetrievalSettings) and settings.answer:
        longest_s = settings.answer.timeout_s
        if longest_s >= serving.responseTimeout:
            wrong.append(
                f"handler.answer.timeout_s: {longest_s:g} comes after torchserve.responseTimeout="
                f"{serving.responseTimeout} has ended the worker"
            )
    if config.index and not isinstance(settings, RetrievalSettings):
        wrong.append(f"index: goes with model.handler: retrieval_handler.py, not {config.model.handler}")
    if isinstance(settings, LlamaSettings):
        wrong += neuron_support.problems(settings, _instance_type(config), serving.maxWorkers)
        wrong += _batching_problems(config)
    if config.deploy and config.deploy.sagemaker:
        wrong += sagemaker_advice.problems(config.deploy.sagemaker, serving.deviceType)
    if config.deploy and config.deploy.ec2:
        wrong += ec2.problems(config.deploy.ec2, serving.deviceType)
    return wrong


def _batching_problems(config: AnyModelConfig) -> list[str]:
    serving, micro = config.torchserve, config.micro_batching
    wrong = []
    if serving.continuousBatching and micro:
        wrong.append("micro_batching: torchserve.continuousBatching is the other way to batch; one of the two")
    if micro and micro.micro_batch_size > serving.batchSize:
        size = micro.micro_batch_size
        wrong.append(f"micro_batching.micro_batch_size: {size} is more than torchserve.batchSize={serving.batchSize}")
    if config.handler.heartbeat_s >= serving.responseTimeout:
        wrong.append(
            f"handler.heartbeat_s: {config.handler.heartbeat_s:g} comes after torchserve.responseTimeout="
            f"{serving.responseTimeout} has ended the worker"
        )
    return wrong


def _instance_type(config: AnyModelConfig) -> str | None:
    deploy = config.deploy
    target = (deploy.sagemaker or deploy.ec2) if deploy else None
    return target.instance_type if target else None


def advice(config: AnyModelConfig) -> list[str]:
    """What is allowed but costs: one line for each."""
    serving, lines = config.torchserve, []
    if serving.batchSize > 1 and serving.maxBatchDelay == 0:
        lines.append("torchserve.maxBatchDelay: 0 never gathers more than 2 requests into a batch; 1 does")
    if serving.asyncCommunication:
        lines.append("torchserve.asyncCommunication: workers were seen to die under load and to leak replies")
    if isinstance(config.handler, CpuSettings) and config.handler.pinning == "launcher":
        lines.append("handler.pinning: the launcher reads the host's lscpu: no worker starts under a cpuset; own does")
    if isinstance(config.handler, ClassifierSettings) and max(config.handler.batch_sizes) > serving.batchSize:
        lines.append(
            f"handler.batch_sizes: {max(config.handler.batch_sizes)} is more than torchserve.batchSize="
            f"{serving.batchSize}: only requests of several items will fill it"
        )
    if isinstance(config.handler, LlamaSettings):
        lines += _llama_advice(config)
    if config.deploy and config.deploy.sagemaker:
        lines += sagemaker_advice.advice(
            config.deploy.sagemaker, config.handler, serving.responseTimeout, serving.startupTimeout
        )
    if config.model.assets.hub and config.model.assets.revision == "main":
        lines.append("model.assets.revision: 'main' moves; a commit hash keeps the archive reproducible")
    return lines


def _llama_advice(config: AnyModelConfig) -> list[str]:
    serving, micro = config.torchserve, config.micro_batching
    lines = neuron_support.advice(
        config.handler,
        batch=micro.micro_batch_size if micro else serving.batchSize,
        response_timeout_s=serving.responseTimeout,
        startup_timeout_s=serving.startupTimeout,
    )
    if not serving.continuousBatching:
        lines.append(
            "torchserve.continuousBatching: without it a batch's connections end together, and TorchServe never tells "
            "the worker that a client has gone"
        )
    return lines


def json_schema() -> str:
    """The JSON Schema of a model's YAML, for editors."""
    any_settings: Any = Union[tuple(HANDLER_SETTINGS.values())]  # noqa: UP007 - built at run time
    schema = ModelConfig[any_settings].model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def _handler_settings(path: Path, raw: Any) -> type[Strict]:
    if not isinstance(raw, dict):
        raise KitError(f"{_short(path)}: the file holds no keys", "start from model_configs/minilm.yaml")
    section = raw.get("model")
    handler = section.get("handler") if isinstance(section, dict) else None
    if handler not in HANDLER_SETTINGS:
        near = closest(str(handler), HANDLER_SETTINGS)
        there = ", ".join(sorted(HANDLER_SETTINGS))
        raise KitError(
            f"{_short(path)}: model.handler: {handler!r} is no handler of this kit",
            f"did you mean {near}?" if near else f"there are: {there}, in {_short(HANDLERS_DIR)}",
        )
    return HANDLER_SETTINGS[handler]


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
