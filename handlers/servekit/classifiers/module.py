"""The model that every step of the ladder runs: images or token ids in, logits out, in float32.

Knows nothing of how it is run.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from servekit import fingerprint
from servekit.settings import ClassifierSettings

Inputs = tuple[Tensor, ...]
"""Images: pixel_values [B, 3, H, W]. Texts: input_ids, attention_mask and, if the model takes them, token_type_ids,
each [B, L] int64, right-padded."""

LABEL_FILE = "index_to_name.json"
SCRIPT_FILE = "model.pt"
WEIGHTS_FILE = "model.safetensors"
EXAMPLE_TOKENS = 9
DEFAULT_MAX_LENGTH = 512


class UnsupportedModel(ValueError):
    """The folder holds something that this handler does not serve; the message names file and key."""


@dataclass(frozen=True)
class ClassifierSpec:
    """What to compute. shape: [3, H, W] of an image; input_names: a text model's inputs, empty for images."""

    name: str
    model_dir: Path
    source: str
    labels: list[str]
    function: str
    batch_sizes: tuple[int, ...]
    shape: tuple[int, int, int] | None = None
    input_names: tuple[str, ...] = ()
    max_length: int = 0
    class_file: str = ""
    class_name: str = ""
    trust_remote_code: bool = field(default=False, repr=False)

    @property
    def is_text(self) -> bool:
        """Whether it takes token ids; else it takes images."""
        return self.shape is None

    @property
    def max_batch(self) -> int:
        """Most items in one forward pass."""
        return self.batch_sizes[-1]

    @property
    def sha256(self) -> str:
        """Of config, weights and code."""
        return fingerprint.model_sha256(self.model_dir, [self.class_file] if self.class_file else [SCRIPT_FILE])

    @property
    def settings_key(self) -> str:
        """The settings that a compiled package has built in, as a string."""
        return json.dumps(
            [self.source, self.class_name, self.shape, self.input_names, self.max_length, self.batch_sizes]
        )

    def example(self, rows: int, columns: int = EXAMPLE_TOKENS) -> Inputs:
        """Inputs of the right shape: grey images, or rows of columns tokens."""
        if self.shape is not None:
            return (torch.zeros((rows, *self.shape)),)
        columns = min(columns, self.max_length)
        fill = {"attention_mask": 1, "token_type_ids": 0}
        return tuple(torch.full((rows, columns), fill.get(name, 1), dtype=torch.int64) for name in self.input_names)


class ImageLogits(nn.Module):
    """pixel_values [B, 3, H, W] → logits [B, C]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return _logits(self.model(pixel_values))


class TextLogits(nn.Module):
    """input_ids, attention_mask[, token_type_ids], each [B, L] → logits [B, C]."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        return _logits(self.model(**dict(zip(self.names, inputs, strict=True))))


def classifier_spec(
    name: str,
    model_dir: Path,
    settings: ClassifierSettings,
    *,
    shape: tuple[int, int, int] | None = None,
    input_names: tuple[str, ...] = (),
) -> ClassifierSpec:
    """Settings over the model's own files. shape or input_names: what its processor or tokenizer makes."""
    config = _config(model_dir, settings) if settings.source == "transformers" else {}
    # BertTokenizer makes them for DistilBERT too, which knows no types.
    has_types = config.get("type_vocab_size", 0 if config else 2) > 1
    labels = read_labels(model_dir, config)
    limits = [config.get("max_position_embeddings", DEFAULT_MAX_LENGTH), *_tokenizer_limit(model_dir)]
    return ClassifierSpec(
        name=name,
        model_dir=model_dir,
        source=settings.source,
        labels=labels,
        function=own_function(config, len(labels)) if settings.function == "auto" else settings.function,
        batch_sizes=settings.batch_sizes,
        shape=shape,
        input_names=tuple(name for name in input_names if has_types or name != "token_type_ids"),
        max_length=min(limits) if settings.max_length == "auto" else settings.max_length,
        class_file=settings.class_file or "",
        class_name=settings.class_name or "",
        trust_remote_code=settings.trust_remote_code,
    )


def _config(model_dir: Path, settings: ClassifierSettings) -> dict[str, Any]:
    """With the defaults, which config.json leaves out: two nameless classes, for one."""
    from transformers import AutoConfig

    config: dict[str, Any] = AutoConfig.from_pretrained(
        model_dir, trust_remote_code=settings.trust_remote_code, local_files_only=True
    ).to_dict()
    return config


def _tokenizer_limit(model_dir: Path) -> list[int]:
    """RoBERTa's 512 stands only here: of its 514 positions two are never reached."""
    path = model_dir / "tokenizer_config.json"
    found = json.loads(path.read_text()).get("model_max_length") if path.exists() else None
    return [int(found)] if found else []


def read_labels(model_dir: Path, config: dict[str, Any]) -> list[str]:
    """Names of the classes in the order of the logits: index_to_name.json, as TorchServe's own handlers read it, else
    config.json's id2label. Raises UnsupportedModel."""
    path = model_dir / LABEL_FILE
    table = json.loads(path.read_text()) if path.exists() else config.get("id2label")
    if not table:
        raise UnsupportedModel(f"{model_dir}: neither {LABEL_FILE} nor config.json's id2label names the classes")
    by_index = {int(index): name[-1] if isinstance(name, list) else str(name) for index, name in table.items()}
    if sorted(by_index) != list(range(len(by_index))):
        raise UnsupportedModel(f"{path if path.exists() else model_dir / 'config.json'}: labels are not 0 to n - 1")
    return [by_index[index] for index in range(len(by_index))]


def own_function(config: dict[str, Any], classes: int) -> str:
    """softmax, sigmoid or none, as transformers' text-classification pipeline decides."""
    problem = config.get("problem_type")
    if problem == "regression":
        return "none"
    return "sigmoid" if problem == "multi_label_classification" or classes == 1 else "softmax"


def load_module(spec: ClassifierSpec) -> nn.Module:
    """The model in float32 and evaluation mode; weights from safetensors, or TorchScript."""
    loaders = {"transformers": _from_transformers, "torchscript": _from_torchscript, "module": _from_class}
    model = loaders[spec.source](spec).float()
    return (TextLogits(model, spec.input_names) if spec.is_text else ImageLogits(model)).eval()


def module_to_nhwc(module: nn.Module) -> nn.Module:
    """The module with its convolutions' weights channels last, the layout that oneDNN computes in."""
    moved: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def images_to_nhwc(inputs: Inputs) -> Inputs:
    """Images channels last in memory; their shape stays [B, 3, H, W]."""
    return tuple(tensor.contiguous(memory_format=torch.channels_last) for tensor in inputs)


def _from_transformers(spec: ClassifierSpec) -> nn.Module:
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    auto = AutoModelForSequenceClassification if spec.is_text else AutoModelForImageClassification
    model: nn.Module = auto.from_pretrained(
        spec.model_dir, use_safetensors=True, trust_remote_code=spec.trust_remote_code, local_files_only=True
    )
    return model


def _from_torchscript(spec: ClassifierSpec) -> nn.Module:
    return torch.jit.load(str(spec.model_dir / SCRIPT_FILE), map_location="cpu")


def _from_class(spec: ClassifierSpec) -> nn.Module:
    from safetensors.torch import load_model

    path = spec.model_dir / spec.class_file
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    if module_spec is None or module_spec.loader is None:
        raise UnsupportedModel(f"{path} is no Python file")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    model: nn.Module = getattr(module, spec.class_name)()
    load_model(model, str(spec.model_dir / WEIGHTS_FILE))
    return model


def _logits(output: Any) -> Tensor:
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits.float()
