"""Image files from strangers to RGB pixels: one bad file is one clear error, and none costs more than its limit.

Knows nothing of models or requests.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from servekit.errors import RequestError

# Pillow knows dozens of formats, some with decoders that nobody fuzzes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_ASPECT = 50
"""Longer side ÷ shorter side. Processors scale the shorter side to the model's size, so 1 × 20000 pixels would become
224 × 4.5 million."""
# What Pillow's decoders raise for broken files.
DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, struct.error, zlib.error)

# Pillow's own check warns, or raises beyond twice its limit; ours is the handler's limit, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


def decode_image(raw: bytes, max_pixels: int) -> Image.Image:
    """The first frame of an image file as upright RGB. Raises RequestError 400, 413 or 422."""
    if not raw:
        raise RequestError(422, "empty_input", "there is no image in the request")
    with warnings.catch_warnings():
        # Pillow warns of odd metadata; a log line for each of a stranger's files would be theirs to write.
        warnings.simplefilter("ignore")
        return _decode(raw, max_pixels)


def _decode(raw: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(raw), formats=FORMATS)
    except UnidentifiedImageError:
        raise RequestError(400, "invalid_image", f"the body is no image; {', '.join(FORMATS)} are read") from None
    except DECODING_ERRORS as error:
        raise RequestError(400, "invalid_image", f"the image cannot be read: {error}") from None
    width, height = image.size
    if width * height > max_pixels:
        raise RequestError(413, "image_too_large", f"{width} × {height} pixels, the limit is {max_pixels} in all")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise RequestError(
            422, "image_aspect", f"{width} × {height} pixels: one side is over {MAX_ASPECT} times the other"
        )
    try:
        image.load()
        if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
            raise RequestError(422, "not_finite", "the image holds NaN or infinite values")
        return ImageOps.exif_transpose(image).convert("RGB")
    except DECODING_ERRORS as error:
        raise RequestError(400, "truncated_image", f"the image is damaged or cut off: {error}") from None
