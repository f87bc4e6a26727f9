"""Dataset folders: what is read, what is refused and how it is named, and items as tensors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from archives.distillation import data
from archives.distillation.inputs import PIXELS, Batch, Inputs, affine_maps, decode, encoder, warp
from archives.distillation.options import Augment
from model_configs.errors import KitError
from tests.fakes.tiny_distillation import write_image_model, write_images

TEXTS = [("a good day", "good"), ("a bad day", "bad")] * 20


def write_table(folder: Path, name: str, rows: list[tuple[str, str]]) -> None:
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (folder / name).write_text("\n".join(lines) + "\n")


def test_split_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    write_images(tmp_path, {"train": 6, "validation": 2, "test": 3})
    found = data.read(tmp_path)
    assert (found.kind, found.labels) == ("image", ("dark", "light"))
    assert [len(split) for split in (found.train, found.validation, found.test)] == [12, 4, 6]
    assert all(Path(item).parent.name == found.labels[target] for item, target in zip(found.test.items, found.test.targets, strict=True))  # fmt: skip


def test_one_heap_is_cut_the_same_way_every_time_and_label_by_label(tmp_path: Path) -> None:
    write_images(tmp_path, {".": 20})
    found = data.read(tmp_path)
    assert found == data.read(tmp_path)
    assert found != data.read(tmp_path, seed=1)
    assert Counter(found.test.targets) == {0: 4, 1: 4}
    assert Counter(found.validation.targets) == {0: 2, 1: 2}
    items = [*found.train.items, *found.validation.items, *found.test.items]
    assert len(items) == len(set(items)) == 40


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv"])
def test_tables_of_text(tmp_path: Path, name: str) -> None:
    if name.endswith("jsonl"):
        write_table(tmp_path, name, TEXTS)
    else:
        lines = [f'"{text}, said one",{label}' for text, label in TEXTS]
        (tmp_path / name).write_text("\n".join(["text,label", *lines]) + "\n")
    write_table(tmp_path, "test.jsonl", TEXTS[:4])
    found = data.read(tmp_path)
    assert (found.kind, found.labels) == ("text", ("bad", "good"))
    assert [len(split) for split in (found.train, found.validation, found.test)] == [34, 6, 4]
    assert found.labels[found.test.targets[0]] == "good"


def test_labels_take_the_order_of_the_model(tmp_path: Path) -> None:
    write_images(tmp_path, {".": 10})
    found = data.read(tmp_path)
    turned = data.in_order(found, ["light", "dark"])
    assert turned.labels == ("light", "dark")
    assert turned.train.items == found.train.items
    assert [1 - target for target in turned.train.targets] == list(found.train.targets)


def test_labels_that_the_model_does_not_have(tmp_path: Path) -> None:
    write_images(tmp_path, {".": 10})
    with pytest.raises(KitError, match=r"its labels are dark, light; the model's are LABEL_0, LABEL_1") as caught:
        data.in_order(data.read(tmp_path), ["LABEL_0", "LABEL_1"])
    assert "id2label" in caught.value.hint


def test_what_is_refused_is_named(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="none is not a folder"):
        data.read(tmp_path / "none")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(KitError, match="empty holds no training data"):
        data.read(empty)
    one = tmp_path / "one"
    write_images(one, {"train": 3})
    (one / "train" / "dark").rename(one / "dark")
    with pytest.raises(KitError, match="one has one label only, 'light'"):
        data.read(one)
    differing = tmp_path / "differing"
    write_images(differing, {"train": 3, "test": 1})
    (differing / "test" / "dark").rename(differing / "test" / "grey")
    with pytest.raises(KitError, match="train and test do not have the same labels: dark, grey"):
        data.read(differing)
    bare = tmp_path / "bare"
    write_images(bare, {".": 5})
    (bare / "grey").mkdir()
    with pytest.raises(KitError, match="bare/grey holds no images"):
        data.read(bare)
    few = tmp_path / "few"
    write_images(few, {".": 1})
    with pytest.raises(KitError, match="'dark' has too few items"):
        data.read(few)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", '{"text": "a", "label": "b"}\n{"text": 1}\n', "train.jsonl: row 2 has no text or no label"),
        ("train.jsonl", '\n{"text": \n', "train.jsonl:2: not JSON"),
        ("train.jsonl", "[1]\n", "train.jsonl:1: not an object"),
        ("train.csv", "sentence,label\na,b\n", "train.csv: row 1 has no text or no label"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(KitError, match=message):
        data.read(tmp_path)


def test_two_tables_for_one_split(tmp_path: Path) -> None:
    write_table(tmp_path, "train.jsonl", TEXTS)
    (tmp_path / "train.csv").write_text("text,label\n")
    with pytest.raises(KitError, match=r"both train.jsonl and train.csv"):
        data.read(tmp_path)


@pytest.mark.parametrize("content", [b"no image", b"\x89PNG\r\n\x1a\n\x00\x00", b""])
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(KitError, match=r"broken\.png cannot be read"):
        decode(str(tmp_path / "broken.png"))


def test_images_become_what_the_models_own_processor_makes_of_them(tmp_path: Path) -> None:
    folder = write_image_model(tmp_path / "model", size=12)
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    encode = encoder(folder, "image", None, 0)
    pixels = encode([str(tmp_path / "white.png")])[PIXELS]
    assert pixels.shape == (1, 3, 12, 12)
    torch.testing.assert_close(pixels, torch.ones(1, 3, 12, 12))


def test_a_model_without_a_processor(tmp_path: Path) -> None:
    folder = write_image_model(tmp_path / "model", size=12)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(KitError, match="does not say how its inputs are made") as caught:
        encoder(folder, "image", None, 0)
    assert "preprocessor_config.json" in caught.value.hint


def test_a_processor_that_leaves_images_their_shapes(tmp_path: Path) -> None:
    folder = write_image_model(tmp_path / "model", size=12)
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "do_resize": false}'
    )
    with pytest.raises(KitError, match="images of different shapes stay different"):
        encoder(folder, "image", None, 0)


def test_images_that_do_not_fit_are_made_for_each_batch() -> None:
    calls: list[int] = []

    def encode(items: object) -> Batch:
        assert isinstance(items, list)
        calls.append(len(items))
        return {PIXELS: torch.tensor([[float(item)] for item in items])}

    numbers = [str(number) for number in range(10)]
    indices = torch.tensor([7, 2])
    kept, made = Inputs(numbers, encode), Inputs(numbers, encode, kept_bytes=8)
    torch.testing.assert_close(kept.batch(indices), made.batch(indices))
    assert calls == [1, 10, 1, 2]


def test_columns_that_are_padding_in_every_row_are_left_out() -> None:
    ids = torch.tensor([[1, 2, 0, 0], [1, 0, 0, 0], [1, 2, 3, 0]])
    inputs = Inputs(["a", "b", "c"], lambda items: {"input_ids": ids[: len(items)], "attention_mask": ids[: len(items)].clamp(max=1)})  # fmt: skip
    assert inputs.batch(torch.tensor([1, 0]))["input_ids"].tolist() == [[1, 0], [1, 2]]


def test_views_are_seeded_and_small() -> None:
    augment = Augment(views=3, shift=0.1, rotation_deg=10.0, zoom=0.1)
    maps = affine_maps(5, augment, seed=0)
    assert maps.shape == (3, 5, 2, 3)
    torch.testing.assert_close(maps, affine_maps(5, augment, seed=0), rtol=0, atol=0)
    assert (maps[..., 2].abs() <= 0.2).all()
    assert (maps[..., :2] - torch.eye(2)).abs().max() < 0.3


def test_no_moves_leave_images_as_they_are() -> None:
    pixels = torch.rand(4, 3, 8, 8)
    still = affine_maps(4, Augment(views=1, shift=0.0, rotation_deg=0.0, zoom=0.0), seed=0)[0]
    torch.testing.assert_close(warp({PIXELS: pixels}, still)[PIXELS], pixels)
    assert warp({PIXELS: pixels}, None)[PIXELS] is pixels


def test_two_sizes_of_an_image_are_moved_alike() -> None:
    """A teacher at 32 × 32 and a student at 16 × 16 see the same view of the same image."""
    line = torch.linspace(-1, 1, 32)
    large = (line[:, None] + 2 * line[None, :]).expand(1, 3, 32, 32)
    small = torch.nn.functional.avg_pool2d(large, 2)
    maps = affine_maps(1, Augment(views=1, shift=0.05), seed=0)[0]
    moved_large, moved_small = (warp({PIXELS: pixels}, maps)[PIXELS] for pixels in (large, small))
    inner = torch.nn.functional.avg_pool2d(moved_large, 2)[..., 3:-3, 3:-3]
    torch.testing.assert_close(inner, moved_small[..., 3:-3, 3:-3], atol=1e-3, rtol=0)
