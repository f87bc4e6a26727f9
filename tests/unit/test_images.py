"""Image files from strangers: damaged, huge, odd."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from servekit.errors import RequestError
from servekit.images import FORMATS, MAX_ASPECT, decode_image
from tests.fakes.tiny_classifiers import image_file

LIMIT = 1_000_000


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    image.save(buffer := io.BytesIO(), file_format, **options)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes whose header promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    header = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100_000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_is_read(file_format: str) -> None:
    image = decode_image(image_file(file_format=file_format), LIMIT)
    assert (image.mode, image.size) == ("RGB", (48, 40))


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"", 422, "empty_input"),
        (b"hello", 400, "invalid_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, "invalid_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 400, "invalid_image"),
        (image_file()[:2000], 400, "truncated_image"),
        (image_file(file_format="JPEG")[:1200], 400, "truncated_image"),
        (image_file(file_format="WEBP")[:300], 400, "invalid_image"),
        (image_file()[:20], 400, "invalid_image"),
        (png_that_claims(60_000, 60_000), 413, "image_too_large"),
        (png_that_claims(1001, 1000), 413, "image_too_large"),
        (png_that_claims(1, MAX_ASPECT + 1), 422, "image_aspect"),
        (saved(Image.fromarray(np.array([[1.0, np.nan], [0.0, 2.0]], dtype=np.float32)), "TIFF"), 422, "not_finite"),
    ],
)
def test_a_bad_image_is_a_clear_error(raw: bytes, status: int, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode_image(raw, LIMIT)
    assert (caught.value.status, caught.value.code) == (status, code)


def test_it_is_turned_upright_and_made_rgb() -> None:
    lying = Image.new("L", (20, 10), 128)
    exif = lying.getexif()
    exif[0x0112] = 6  # rotated by a quarter
    assert decode_image(saved(lying, "JPEG", exif=exif), LIMIT).size == (10, 20)
    for mode in ("1", "P", "RGBA", "CMYK", "I;16", "LA"):
        raw = saved(Image.new(mode, (6, 5)), "TIFF" if mode in ("CMYK", "I;16") else "PNG")
        assert decode_image(raw, LIMIT).mode == "RGB"


def test_only_the_first_frame_is_read() -> None:
    frames = [Image.new("P", (30, 30), color) for color in range(40)]
    raw = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(raw, LIMIT).size == (30, 30)


FILES = [image_file(seed, file_format=file_format) for seed, file_format in enumerate(FORMATS)]


@given(st.sampled_from(FILES), st.data())
def test_whatever_is_broken_is_an_image_or_a_request_error(raw: bytes, data: st.DataObject) -> None:
    broken = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 8))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode_image(bytes(broken[: data.draw(st.integers(0, len(broken)))]), LIMIT)
    except RequestError as error:
        assert 400 <= error.status < 500
    else:
        assert image.mode == "RGB"
        assert image.width * image.height <= LIMIT
