"""The `handler:` section of a model's YAML: one settings class for each handler. Pydantic only, no torch.

model_configs/schema.py checks the section with these classes before an archive is built, the handler reads it
with the same ones inside the worker.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from servekit.retrieval.prompt import PASSAGE_FIELDS, PROMPT_FIELDS, template_problem
from servekit.strict import Strict

PositiveInt = Annotated[int, Field(ge=1)]
Level = Literal["amx", "avx512_vnni", "avx512", "avx2", "sve", "neon"]
"""Of servekit/fingerprint.py's LEVELS."""
Buckets = Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)]


class CompileSettings(Strict):
    """How the encoder is run.

    aot: compiled into the archive, any batch and length, nothing compiled in the worker.
    jit: torch.compile in the worker, one graph for each (batch, length) bucket, all compiled before the first request.
    eager: PyTorch as it is.
    """

    mode: Literal["aot", "jit", "eager"] = "aot"
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """aot only. int8: weights by row and activations by token in 8 bits. bf16: linear layers in bfloat16, for CPUs that
    have it."""
    backend: Literal["auto", "inductor"] = "auto"
    """aot only. auto: the kit's own C++ kernels where they know model and CPU (the family of BERT in float32 and int8
    on x86-64), else AOTInductor. inductor: always that; int8 then needs torchao."""
    require_artifacts: bool = False
    """aot only: a worker for which the archive holds no fitting artefact does not start, instead of compiling."""
    machines: Annotated[tuple[Level, ...], Field(strict=False)] = ()
    """aot only: kinds of CPU that the archive is built for, else that of the machine that builds it."""
    batch_buckets: Buckets = (1, 8)
    """jit only: texts in a forward pass; handler.max_batch_texts is always the last bucket."""
    length_buckets: Buckets = (16, 64)
    """jit only: tokens in a row; the model's maximum length is always the last bucket."""

    @model_validator(mode="after")
    def _what_is_for_aot_alone(self) -> CompileSettings:
        if self.mode != "aot":
            wanted = {
                f"precision: {self.precision}": self.precision != "fp32",
                f"backend: {self.backend}": self.backend != "auto",
                "require_artifacts: true": self.require_artifacts,
                f"machines: {list(self.machines)}": bool(self.machines),
            }
            for key in (key for key, asked in wanted.items() if asked):
                raise ValueError(f"{key} goes with mode: aot, not {self.mode}")
        return self


class WarmupSettings(Strict):
    """Shapes that run once before the worker says it is ready (jit: every bucket runs, whatever stands here)."""

    batch_sizes: Buckets = (1, 32)
    lengths: Buckets = (16, 64, 256)


class CpuSettings(Strict):
    """What a handler that computes on CPUs may be told about them; the handlers' settings inherit it."""

    threads: Literal["auto"] | PositiveInt = "auto"
    """CPU threads of one worker; auto is one for each physical core of the worker's share of the CPUs it may use."""
    pinning: Literal["own", "launcher", "off"] = "own"
    """own: each worker pins itself to its share. launcher: TorchServe's cpu_launcher_enable does, from the host's
    lscpu; it breaks under a cpuset. off: no worker is pinned."""


class EmbeddingSettings(CpuSettings):
    """Settings of embedding_handler.py."""

    pooling: Literal["auto", "mean", "cls", "max"] = "auto"
    """auto reads the model's sentence-transformers files; mean when it has none."""
    normalize: Literal["auto"] | bool = "auto"
    """auto reads the model's sentence-transformers files; false when it has none."""
    max_length: Literal["auto"] | PositiveInt = "auto"
    """Longest row in tokens, special tokens included; auto reads the model's files."""
    trust_remote_code: bool = False
    """Run Python code that comes with the weights. Only for weights whose code you have read."""
    max_batch_texts: PositiveInt = 32
    """Most texts in one forward pass; larger batches are split."""
    max_pass_tokens: PositiveInt = 1024
    """Most tokens in one forward pass, so that what lies between two layers stays in the cache (not jit, whose buckets
    decide, nor the kernels, which divide a pass themselves)."""
    max_padding: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Share of token slots in one forward pass that may be padding before the batch is split, where texts are not
    packed."""
    max_texts_per_request: PositiveInt = 256
    """A request with more texts is answered 413."""
    max_request_bytes: Annotated[int, Field(ge=1024)] = 512 * 1024
    """A larger body is answered 413."""
    compile: CompileSettings = CompileSettings()
    warmup: WarmupSettings = WarmupSettings()

    @property
    def needs(self) -> dict[str, str]:
        """Tools that building the archive needs, each with the key that asks for it."""
        tools = {"compiler": "handler.compile.mode: aot"} if self.compile.mode == "aot" else {}
        return tools | ({"torchao": "handler.compile.precision: int8"} if self.compile.precision == "int8" else {})

    @model_validator(mode="after")
    def _buckets_fit(self) -> EmbeddingSettings:
        for section, key in (("compile", "batch_buckets"), ("warmup", "batch_sizes")):
            chosen: Strict = getattr(self, section)
            if key in chosen.model_fields_set:  # defaults are cut to fit where they are used
                largest = max(getattr(chosen, key))
                if largest > self.max_batch_texts:
                    raise ValueError(f"{section}.{key}: {largest} is more than max_batch_texts={self.max_batch_texts}")
        return self


URL_VARIABLE = "SERVEKIT_URL"
"""Environment variable with the inference URL of a worker's own TorchServe; `kit.py serve` sets it."""


class AnswerSettings(Strict):
    """The OpenAI-compatible server that writes answers from what was found: a model of this kit, vLLM, …"""

    base_url: str
    """Up to and with /v1; a path alone, /predictions/<model>/<version>/v1, is a model of the same TorchServe."""
    model: str
    api_key_env: str | None = None
    """Environment variable with the bearer key. Without one the client's own Authorization header goes on, if the
    server is on this machine."""
    max_tokens: PositiveInt = 128
    """For requests that name none."""
    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Longest silence in a stream, and the longest time to a whole answer."""


class RetrievalSettings(EmbeddingSettings):
    """Settings of retrieval_handler.py: those of the encoder, and how passages are found and put."""

    k: PositiveInt = 5
    """Passages in an answer when the request names no k."""
    max_k: PositiveInt = 100
    """A request for more is answered 422."""
    template: str = "Answer the question by these passages.\n\n{context}\n\nQuestion: {question}\nAnswer:"
    """The ready prompt: {context} is where the passages go."""
    passage_template: str = "{text}"
    """How a passage stands in the context: {number}, {source}, {title}, {text}."""
    max_context_chars: PositiveInt = 6000
    """Passages are added, best first, while they fit."""
    answer: AnswerSettings | None = None
    """Where v1/completions and v1/chat/completions get their answers from."""

    @property
    def encoder(self) -> EmbeddingSettings:
        """Of these, the encoder's own: the same as of an embedding model that it shares its space with."""
        own = self.model_dump(include=set(EmbeddingSettings.model_fields), exclude_unset=True)
        return EmbeddingSettings.model_validate(own)

    @model_validator(mode="after")
    def _templates_can_be_filled(self) -> RetrievalSettings:
        templates = (("template", PROMPT_FIELDS, PROMPT_FIELDS), ("passage_template", PASSAGE_FIELDS, ("text",)))
        for key, fields, needed in templates:
            if problem := template_problem(getattr(self, key), fields, needed):
                raise ValueError(f"{key}: {problem}")
        if self.k > self.max_k:
            raise ValueError(f"k: {self.k} is more than max_k={self.max_k}")
        return self


LadderStep = Literal["eager", "channels_last", "ipex", "compile", "bf16", "int8"]
CANDIDATES: tuple[LadderStep, ...] = ("eager", "channels_last", "ipex", "compile")


class ClassifierSettings(CpuSettings):
    """Settings of classifier_handler.py."""

    task: Literal["auto", "image", "text"] = "auto"
    """auto: image when the model's folder has a preprocessor_config.json, else text."""
    source: Literal["transformers", "torchscript", "module"] = "transformers"
    """transformers: config.json and safetensors. torchscript: model.pt. module: a class in class_file, whose
    state_dict is model.safetensors."""
    class_file: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*\.py$")] | None = None
    """source module only: the file, in the model's folder, that defines class_name."""
    class_name: str | None = None
    step: Literal["auto"] | LadderStep = "auto"
    """How the model is run; auto measures the candidates on this machine, once, and takes the fastest."""
    candidates: Annotated[tuple[LadderStep, ...], Field(strict=False, min_length=1)] = CANDIDATES
    """What auto may choose from. bf16 and int8 change the scores, so they have to be named here."""
    batch_sizes: Buckets = (1, 8)
    """Sizes of a forward pass. Images are cut into exactly these, with no padding; texts go up to the largest."""
    function: Literal["auto", "softmax", "sigmoid", "none"] = "auto"
    """From logits to scores; auto reads the model's problem_type, as transformers' pipelines do."""
    top_k: PositiveInt = 5
    """Labels in a reply, best first, when the request names no top_k."""
    max_length: Literal["auto"] | PositiveInt = "auto"
    """Texts only: longest row in tokens, special tokens included; auto reads the model's files."""
    max_padding: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.12
    """Texts only: share of token slots in one forward pass that may be padding before the batch is split."""
    max_image_pixels: PositiveInt = 25_000_000
    """A larger image is answered 413 before it is decoded."""
    max_items_per_request: PositiveInt = 64
    """A request with more images or texts is answered 413."""
    max_request_bytes: Annotated[int, Field(ge=1024)] = 6 * 1024 * 1024
    """A larger body is answered 413."""
    min_agreement: Annotated[float, Field(ge=0.0, le=1.0)] = 0.98
    """bf16, int8: share of the calibration items whose best label must be the fp32 model's, or no archive is built."""
    trust_remote_code: bool = False
    """Run Python code that comes with the weights. Only for weights whose code you have read."""

    @property
    def steps(self) -> tuple[LadderStep, ...]:
        """The steps that may run."""
        return self.candidates if self.step == "auto" else (self.step,)

    @property
    def needs(self) -> dict[str, str]:
        """Tools that building the archive needs, each with the key that asks for it."""
        tools = {"compiler": f"handler.step: {self.step}"} if self.step in ("compile", "bf16", "int8") else {}
        return tools | ({"torchao": "handler.step: int8"} if "int8" in self.steps else {})

    @model_validator(mode="after")
    def _module_is_named(self) -> ClassifierSettings:
        if (self.source == "module") != bool(self.class_file and self.class_name):
            raise ValueError("class_file and class_name go with source: module, and only with it")
        if self.source == "module" and not self.trust_remote_code:
            raise ValueError("source: module runs class_file's code: set trust_remote_code when you have read it")
        if list(self.batch_sizes) != sorted(set(self.batch_sizes)) or self.batch_sizes[0] != 1:
            raise ValueError("batch_sizes: ascending and from 1, so that every number of items can be made of them")
        if "eager" not in self.candidates:
            raise ValueError("candidates: eager is what the others are measured against")
        return self


class Parallelism(Strict):
    """Threads of each stage."""

    preprocess: PositiveInt = 1
    inference: PositiveInt = 1
    postprocess: PositiveInt = 1


class MicroBatching(Strict):
    """A batch cut into micro-batches whose stages overlap: the `micro_batching:` section."""

    micro_batch_size: PositiveInt = 1
    parallelism: Parallelism = Parallelism()


class NeuronSettings(Strict):
    """Settings of the Neuron engine alone; the names are transformers-neuronx's."""

    context_length_estimate: Literal["auto"] | Buckets = "auto"
    """Prompt lengths that are compiled; auto is powers of two up to max_length."""
    n_positions: Literal["auto"] | Buckets = "auto"
    """Total lengths that are compiled; auto is powers of two up to max_length."""
    artifacts: str | None = "artefacts/neuron"
    """Folder in the archive with NEFF files, which `kit.py archive` writes where transformers-neuronx is; compiled at
    start where it is not there."""
    visible_cores: str | None = None
    """NEURON_RT_VISIBLE_CORES of the first worker, as "0-11"; auto gives each worker tp_degree cores of its own."""
    compiler_flags: str | None = None
    """NEURON_CC_FLAGS."""
    fuse_qkv: bool = False
    group_query_attention: Literal["shard-over-heads", "shard-over-batch", "replicated-heads", "all-gather-heads"] | (
        None
    ) = None
    attention_layout: Literal["HSB", "BSH"] | None = None
    quantize: Literal["s8"] | None = None
    """8-bit weights by transformers-neuronx's own QuantizationConfig."""


class UpstreamSettings(Strict):
    """The OpenAI-compatible server that the openai engine forwards to."""

    base_url: str
    """Up to and with /v1."""
    model: str | None = None
    """The name that the server knows the model by; the first that it lists when not given."""
    api_key_env: str | None = None
    """Environment variable with the bearer key."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest silence of the server."""


Dtype = Literal["f32", "f16", "bf16"]


class LlamaSettings(CpuSettings):
    """Settings of llama_handler.py; model_checkpoint_dir, amp, tp_degree, max_length are the Inferentia2 article's."""

    engine: Literal["auto", "torch", "neuron", "openai"] = "auto"
    """auto: neuron when tp_degree is given, openai when upstream is, else torch."""
    model_checkpoint_dir: str = "model"
    """The folder with weights and tokenizer, in the archive."""
    amp: Literal["auto"] | Dtype = "auto"
    """Data type of weights and computation; auto: f32 on CPU, bf16 elsewhere."""
    tp_degree: PositiveInt | None = None
    """neuron: NeuronCores that share the model."""
    max_length: Literal["auto"] | Annotated[int, Field(ge=2)] = "auto"
    """Prompt and new tokens together; auto is the model's own limit, at most 2048."""
    max_batch: Literal["auto"] | PositiveInt = "auto"
    """Rows in flight; auto is torchserve.batchSize, or micro_batching.micro_batch_size where that is used."""
    mode: Literal["auto", "kernels", "compile", "eager"] = "auto"
    """torch: kernels are the kit's own for CPU, built with the archive; compile is torch.compile, with CUDA graphs on
    CUDA. auto: kernels on CPU when they fit, compile on CUDA, else eager."""
    quantize: Literal["none", "int8"] = "none"
    """torch on CPU: int8 holds the weights in 8 bits with a scale for each row."""
    prefill_chunk: Annotated[int, Field(ge=16)] = 256
    """torch: most tokens of a prompt that are read between two steps of the other rows."""
    default_max_new_tokens: PositiveInt = 128
    """For requests that name none."""
    max_stop_strings: PositiveInt = 16
    """A request with more is answered 422."""
    max_request_bytes: Annotated[int, Field(ge=1024)] = 512 * 1024
    """A larger body is answered 413."""
    heartbeat_s: Annotated[float, Field(gt=0)] = 5.0
    """A stream that has nothing to send for this long sends an empty chunk, which keeps TorchServe's
    responseTimeout away."""
    neuron: NeuronSettings = NeuronSettings()
    upstream: UpstreamSettings | None = None

    @property
    def chosen_engine(self) -> Literal["torch", "neuron", "openai"]:
        """The engine that auto stands for."""
        if self.engine != "auto":
            return self.engine
        if self.tp_degree:
            return "neuron"
        return "openai" if self.upstream else "torch"

    @property
    def needs(self) -> dict[str, str]:
        """Tools that building the archive needs, each with the key that asks for it."""
        return {"compiler": "handler.mode: kernels"} if self.mode == "kernels" else {}

    @model_validator(mode="after")
    def _engine_has_what_it_needs(self) -> LlamaSettings:
        engine = self.chosen_engine
        if (engine == "openai") != bool(self.upstream):
            raise ValueError("upstream goes with engine: openai, and only with it")
        if (engine == "neuron") != bool(self.tp_degree):
            raise ValueError("tp_degree goes with engine: neuron, and only with it")
        if engine != "torch" and self.quantize != "none":
            raise ValueError(f"quantize: the {engine} engine has none; neuron.quantize is transformers-neuronx's own")
        return self


HANDLER_SETTINGS: dict[str, type[Strict]] = {
    "classifier_handler.py": ClassifierSettings,
    "embedding_handler.py": EmbeddingSettings,
    "llama_handler.py": LlamaSettings,
    "retrieval_handler.py": RetrievalSettings,
}
