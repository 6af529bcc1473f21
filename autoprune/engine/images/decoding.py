"""From bytes to images: decoding, cropping, and what every source must give."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import DataError

__all__ = ["Arrays", "channels_first", "checked", "decode", "decode_square", "stack"]

Arrays: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images, uint8, shape (N, C, H, W), and labels, shape (N,)."""


def _open_image(data: bytes, where: str, convert: Callable[[Any], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return convert(image)
    except Exception as error:  # Pillow's decoders raise whatever the bytes make them stumble over.
        reason = str(error).rstrip(".") or type(error).__name__
        raise DataError(f"{where}: this must be an image, but can't be decoded: {reason}.") from error


def decode(data: bytes, where: str) -> NDArray[np.uint8]:
    """Decode an image, shape (C, H, W): grey ones have one channel, all others are RGB."""

    def convert(image: Any) -> NDArray[np.uint8]:
        return np.array(image if image.mode == "L" else image.convert("RGB"), dtype=np.uint8)

    return channels_first(_open_image(data, where, convert))


def channels_first(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels of shape (H, W) or (H, W, C) as (C, H, W)."""
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def decode_square(path: str, size: int) -> NDArray[np.uint8]:
    """Decode an image file, scale its short side to ``size`` and crop the middle; RGB, shape (3, size, size).

    Raises:
        DataError: It can't be decoded.
    """

    def convert(image: Any) -> NDArray[np.uint8]:
        scale = size / min(image.size)
        resized = image.convert("RGB").resize(
            (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
        )
        left, top = (resized.width - size) // 2, (resized.height - size) // 2
        return np.array(resized.crop((left, top, left + size, top + size)), dtype=np.uint8)

    return channels_first(_open_image(Path(path).read_bytes(), path, convert))


def stack(images: list[NDArray[np.uint8]], where: str) -> NDArray[np.uint8]:
    """Images of shape (C, H, W) as one array.

    Raises:
        DataError: They are not of one size.
    """
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1:
        raise DataError(f"{where}: all images must be of one size, but {shapes[0]} and {shapes[1]} are both there.")
    return np.stack(images)


def checked(images: Any, labels: Any, where: str) -> Arrays:
    """What a source has read, held against what all of them must give.

    Raises:
        DataError: Images or labels are of another type or shape.
    """
    pixels, classes = np.asarray(images), np.asarray(labels)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) == 0:
        raise DataError(
            f"{where}: images must be uint8 of shape (N, C, H, W), but got {pixels.dtype} of shape {pixels.shape}."
        )
    if classes.shape != (len(pixels),) or not np.issubdtype(classes.dtype, np.integer) or classes.min() < 0:
        negative = " with values below 0" if np.issubdtype(classes.dtype, np.integer) and classes.min() < 0 else ""
        raise DataError(
            f"{where}: labels must be whole numbers >= 0, one per image, "
            f"but got {classes.dtype} of shape {classes.shape}{negative} for {len(pixels)} images."
        )
    return pixels, classes.astype(np.int64)
