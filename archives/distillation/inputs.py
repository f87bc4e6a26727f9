"""Items as tensors: preprocessed once by a model's own processor or tokenizer, kept if they fit, and augmented.

Images are opened by the workers' own decoder and the model's image processor on Pillow: what a student learns from is
what it will be served.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch.nn import functional
from transformers import AutoImageProcessor, AutoTokenizer

from archives.distillation.options import Augment
from model_configs.errors import KitError
from servekit.errors import RequestError
from servekit.images import decode_image

KEPT_BYTES = 2 << 30
CHUNK = 256
MAX_PIXELS = 100_000_000
PROBES = ((97, 61), (61, 97))
PIXELS = "pixel_values"

Batch = dict[str, torch.Tensor]
Encode = Callable[[Sequence[str]], Batch]


class Inputs:
    """The items of a split as one model wants them. batch(indices) gives its keyword arguments."""

    def __init__(self, items: Sequence[str], encode: Encode, kept_bytes: int = KEPT_BYTES) -> None:
        """kept_bytes: images that need more are preprocessed again for each batch."""
        self._items = items
        self._encode = encode
        one = encode(items[:1])
        fits = PIXELS not in one or len(items) * one[PIXELS].nbytes <= kept_bytes
        self._kept: Batch | None = self._all() if fits else None

    def __len__(self) -> int:
        return len(self._items)

    def batch(self, indices: torch.Tensor) -> Batch:
        """indices: [rows]. Columns of a text batch that are padding in every row are left out."""
        if self._kept is None:
            return self._encode([self._items[index] for index in indices.tolist()])
        rows = {name: tensor[indices] for name, tensor in self._kept.items()}
        if "attention_mask" not in rows:
            return rows
        used = rows["attention_mask"].any(dim=0)
        return {name: tensor[:, used] for name, tensor in rows.items()}

    def _all(self) -> Batch:
        starts = range(0, len(self._items), CHUNK)
        steps = track(starts, "preprocessing", console=Console(stderr=True), transient=True)
        chunks = [self._encode(self._items[start : start + CHUNK]) for start in steps]
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def encoder(folder: Path, kind: Literal["image", "text"], model: Any, max_length: int) -> Encode:
    """How a model's folder turns paths of images, or texts, into tensors. Raises KitError if it does not say."""
    return _image_encoder(folder) if kind == "image" else _text_encoder(folder, model, max_length)


def decode(path: str) -> Image.Image:
    """The image as upright RGB. Raises KitError that names the file."""
    try:
        return decode_image(Path(path).read_bytes(), MAX_PIXELS)
    except (OSError, RequestError) as error:
        raise KitError(f"{path} cannot be read: {error}", "remove it, or save it again") from None


def affine_maps(items: int, augment: Augment, seed: int) -> torch.Tensor:
    """[views, items, 2, 3]: for each view of each item the map that warp takes; seeded."""
    generator = torch.Generator().manual_seed(seed)

    def spread(limit: float) -> torch.Tensor:
        return limit * (2 * torch.rand(augment.views, items, generator=generator) - 1)

    angle = spread(math.radians(augment.rotation_deg))
    size = 1 + spread(augment.zoom)
    # affine_grid counts an image as 2 wide, from −1 to 1.
    across, down = spread(2 * augment.shift), spread(2 * augment.shift)
    cosine, sine = size * angle.cos(), size * angle.sin()
    rows = [torch.stack([cosine, -sine, across], -1), torch.stack([sine, cosine, down], -1)]
    return torch.stack(rows, dim=-2)


def warp(batch: Batch, maps: torch.Tensor | None) -> Batch:
    """The batch with its images [rows, 3, height, width] moved by maps [rows, 2, 3]; a border continues outwards.

    The maps count in shares of width and height, so the same ones move a teacher's and a student's sizes alike.
    """
    if maps is None:
        return batch
    pixels = batch[PIXELS]
    grid = functional.affine_grid(maps, list(pixels.shape), align_corners=False)
    moved = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return {**batch, PIXELS: moved}


def _image_encoder(folder: Path) -> Encode:
    processor = _loaded(AutoImageProcessor, folder, "preprocessor_config.json", backend="pil")

    def encode_images(images: Sequence[Image.Image]) -> Batch:
        return {PIXELS: processor(images=list(images), return_tensors="pt")[PIXELS]}

    if len({encode_images([Image.new("RGB", size)])[PIXELS].shape for size in PROBES}) > 1:
        raise KitError(
            f"{folder}/preprocessor_config.json: images of different shapes stay different",
            "set size to height and width, or do_center_crop",
        )
    return lambda paths: encode_images([decode(path) for path in paths])


def _text_encoder(folder: Path, model: Any, max_length: int) -> Encode:
    tokenizer = _loaded(AutoTokenizer, folder, "tokenizer.json")
    positions: int = getattr(model.config, "max_position_embeddings", max_length)
    longest = min(max_length, positions, tokenizer.model_max_length)
    # A tokenizer may give token_type_ids to a model that has none, as DistilBERT.
    taken = inspect.signature(model.forward).parameters

    def encode(texts: Sequence[str]) -> Batch:
        rows: Mapping[str, torch.Tensor] = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        )
        return {name: tensor for name, tensor in rows.items() if name in taken}

    return encode


def _loaded(loader: Any, folder: Path, wanted: str, **options: str) -> Any:
    try:
        return loader.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise KitError(f"{folder} does not say how its inputs are made: {reason}", f"put {wanted} there") from None
