"""From a request's items to a model's inputs: one reader for images, one for texts, behind one interface.

A reader turns an item into an example, plans which examples share a forward pass, and stacks them.
Knows nothing of requests' dialects or of how the model is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from servekit.batching import cut, plan_groups
from servekit.classifier_requests import (
    IMAGE_TYPES,
    ClassifierRequest,
    Item,
    parse_image_request,
    parse_text_request,
)
from servekit.classifiers.module import ClassifierSpec, Inputs, UnsupportedModel, classifier_spec
from servekit.errors import RequestError
from servekit.images import decode_image
from servekit.settings import ClassifierSettings
from servekit.tokenizer import TextTokenizer, TokenRow
from servekit.wire import Body

PROCESSOR_FILE = "preprocessor_config.json"
PROBES = ((97, 61), (61, 97))


class Reader(Protocol):
    """What the handler needs of a modality."""

    spec: ClassifierSpec
    binary: tuple[str, ...]
    """Media types whose bodies are bytes."""

    def parse(self, body: Body) -> ClassifierRequest:
        """Raises RequestError."""
        ...

    def read(self, items: Sequence[Item]) -> list[Any]:
        """An example an item. Raises RequestError for the first that cannot be read."""
        ...

    def cost(self, example: Any) -> int:
        """Its share of a forward pass: 1 for an image, tokens for a text."""
        ...

    def truncated(self, example: Any) -> bool:
        """Whether some of the item was left out."""
        ...

    def groups(self, examples: Sequence[Any], sizes: Sequence[int] | None) -> list[list[int]]:
        """Indices of the examples of each forward pass."""
        ...

    def stack(self, examples: Sequence[Any]) -> Inputs:
        """One forward pass's inputs."""
        ...


class ImageReader:
    """Image files and prepared pixels; examples are float32 [3, H, W]."""

    binary: tuple[str, ...] = IMAGE_TYPES

    def __init__(self, name: str, model_dir: Path, settings: ClassifierSettings) -> None:
        self._processor = load_processor(model_dir)
        self._settings = settings
        self.shape = _shape_of(self._processor, model_dir)
        self.spec = classifier_spec(name, model_dir, settings, shape=self.shape)

    def parse(self, body: Body) -> ClassifierRequest:
        return parse_image_request(body, self._settings, self.shape)

    def read(self, items: Sequence[Item]) -> list[NDArray[np.float32]]:
        examples: list[NDArray[np.float32]] = []
        for index, item in enumerate(items):
            try:
                examples.append(item if isinstance(item, np.ndarray) else self._pixels(item))
            except RequestError as error:
                raise error if len(items) == 1 else error.at(index) from None
        return examples

    def cost(self, example: NDArray[np.float32]) -> int:
        return 1

    def truncated(self, example: NDArray[np.float32]) -> bool:
        return False

    def groups(self, examples: Sequence[Any], sizes: Sequence[int] | None) -> list[list[int]]:
        sizes = sizes or range(1, self.spec.max_batch + 1)
        parts, start = [], 0
        for size in cut(len(examples), sizes):
            parts.append(list(range(start, start + size)))
            start += size
        return parts

    def stack(self, examples: Sequence[NDArray[np.float32]]) -> Inputs:
        return (torch.from_numpy(np.stack(examples)),)

    def _pixels(self, item: Any) -> NDArray[np.float32]:
        image = decode_image(item, self._settings.max_image_pixels)
        return np.asarray(self._processor(image, return_tensors="np")["pixel_values"][0], dtype=np.float32)


class TextReader:
    """Texts and pairs of texts; examples are token rows."""

    binary: tuple[str, ...] = ()

    def __init__(self, name: str, model_dir: Path, settings: ClassifierSettings) -> None:
        spec = classifier_spec(name, model_dir, settings, input_names=("input_ids",))
        self._tokenizer = TextTokenizer(model_dir, spec.max_length, settings.trust_remote_code, strip=False)
        names = tuple(n for n in self._tokenizer.input_names if n in ("input_ids", "attention_mask", "token_type_ids"))
        self._settings = settings
        self.spec = classifier_spec(name, model_dir, settings, input_names=names)

    def parse(self, body: Body) -> ClassifierRequest:
        return parse_text_request(body, self._settings)

    def read(self, items: Sequence[Item]) -> list[TokenRow]:
        return self._tokenizer([item for item in items if isinstance(item, (str, tuple))])

    def cost(self, example: TokenRow) -> int:
        return len(example.ids)

    def truncated(self, example: TokenRow) -> bool:
        return example.truncated

    def groups(self, examples: Sequence[TokenRow], sizes: Sequence[int] | None) -> list[list[int]]:
        lengths = [len(example.ids) for example in examples]
        return plan_groups(lengths, self.spec.max_batch, self._settings.max_padding)

    def stack(self, examples: Sequence[TokenRow]) -> Inputs:
        columns = max(2, *(len(example.ids) for example in examples))  # torch.export takes a length of 1 for a constant
        arrays = {name: np.zeros((len(examples), columns), dtype=np.int64) for name in self.spec.input_names}
        arrays["input_ids"][:] = self._tokenizer.pad_id
        for place, example in enumerate(examples):
            values: dict[str, Any] = {"input_ids": example.ids, "attention_mask": 1, "token_type_ids": example.type_ids}
            for name, array in arrays.items():
                array[place, : len(example.ids)] = values[name]
        return tuple(torch.from_numpy(array) for array in arrays.values())


def load_reader(name: str, model_dir: Path, settings: ClassifierSettings) -> Reader:
    """The reader for a model's folder."""
    task = settings.task
    if task == "auto":
        task = "image" if (model_dir / PROCESSOR_FILE).exists() else "text"
    return ImageReader(name, model_dir, settings) if task == "image" else TextReader(name, model_dir, settings)


def load_processor(model_dir: Path) -> Any:
    """The model's own image processor, on Pillow whatever else is installed, so that scores are the same everywhere."""
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(model_dir, backend="pil", local_files_only=True)


def _shape_of(processor: Any, model_dir: Path) -> tuple[int, int, int]:
    """[3, H, W] that every image becomes. Raises UnsupportedModel when images keep shapes of their own."""
    from PIL import Image

    shapes = {processor(Image.new("RGB", size), return_tensors="np")["pixel_values"].shape[1:] for size in PROBES}
    if len(shapes) != 1:
        raise UnsupportedModel(
            f"{model_dir / PROCESSOR_FILE}: images of different shapes stay different: set size to height and width, "
            "or do_center_crop"
        )
    channels, height, width = shapes.pop()
    return channels, height, width
