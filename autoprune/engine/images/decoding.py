"""From bytes to images: decoding, cropping, and what every source must give."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from autoprune.engine.images.shown import shown
from autoprune.errors import DataError

__all__ = ["READING", "Arrays", "checked", "decode", "decode_square", "endings", "pixels_of", "stack"]

Arrays: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images, uint8, shape (N, C, H, W), and labels, shape (N,)."""

READING = 2
"""Raised whenever the same files come to be decoded to other numbers, so that none is taken from a cache of before.

2: pixels as viewers show them (`shown`), image folders without hidden files and with all endings that Pillow reads.
"""

_MOST_RESIZED = 100  # An image of one row, scaled until that has the height of all others, would fill the memory.
_NOT_DECODED = {"EPS", "MPEG"}  # A drawing for Ghostscript, and films of which Pillow reads the size alone.


@functools.cache
def endings() -> tuple[str, ...]:
    """Endings of the files that Pillow decodes by itself, sorted, such as ``".tif"``."""
    Image.init()
    opened = {"MPO"}  # Opened as a JPEG.
    for name, (factory, _) in Image.OPEN.items():
        stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)  # Of somebody else's decoder.
        if not stub and name not in _NOT_DECODED:
            opened.add(name)
    return tuple(sorted(ending for ending, name in Image.registered_extensions().items() if name in opened))


def _open_image(data: bytes, where: str, convert: Callable[[Image.Image], Image.Image]) -> NDArray[np.uint8]:
    if not data:
        raise DataError(f"{where}: this must be an image, but it is empty. Replace or remove it.")
    try:
        # Warnings are of what viewers pass over as well, such as an EXIF block that is cut short.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            return _channels_first(np.array(convert(shown(image, where)), dtype=np.uint8))
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever the bytes make them stumble over.
        reason = str(error).rstrip(".") or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "its format is none that Pillow reads"  # Pillow's own text names a buffer in memory.
        raise DataError(
            f"{where}: this must be an image, but can't be decoded: {reason}. Replace or remove it."
        ) from error


def decode(data: bytes, where: str) -> NDArray[np.uint8]:
    """Decode an image as a viewer shows it, shape (C, H, W): one channel where it is grey by its mode, else RGB.

    Raises:
        DataError: It can't be decoded, or viewers do not agree on what it shows.
    """
    return _open_image(data, where, lambda image: image)


def pixels_of(image: Any, where: str) -> NDArray[np.uint8]:
    """Pixels of an image that somebody else has opened, shape (C, H, W), as `decode` gives them.

    Args:
        image: Of Pillow, or an array of bytes of shape (H, W) or (H, W, C).
        where: What to call it in a message.

    Raises:
        DataError: It is of another type.
    """
    with warnings.catch_warnings(action="ignore"):
        pixels = np.asarray(shown(image, where) if isinstance(image, Image.Image) else image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise DataError(
            f"{where}: an image must be one of Pillow or uint8 of shape (H, W) or (H, W, C), but got "
            f'{type(image).__name__} of {pixels.dtype} and shape {pixels.shape}. Use `source = "factory"`.'
        )
    return _channels_first(pixels)


def _channels_first(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels of shape (H, W) or (H, W, C) as (C, H, W)."""
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def decode_square(path: str, size: int) -> NDArray[np.uint8]:
    """Decode an image file, scale its short side to ``size`` and crop the middle; RGB, shape (3, size, size).

    Raises:
        DataError: It can't be read or decoded, or viewers do not agree on what it shows.
    """

    def convert(image: Image.Image) -> Image.Image:
        scale = size / min(image.size)
        width, height = max(size, round(image.width * scale)), max(size, round(image.height * scale))
        if width * height > _MOST_RESIZED * size * size:
            raise DataError(
                f"{path}: an image must be at most {_MOST_RESIZED} times as long as wide, but this one is "
                f"{image.width:,} × {image.height:,}. Crop it."
            )
        resized = image.convert("RGB").resize((width, height))
        left, top = (resized.width - size) // 2, (resized.height - size) // 2
        return resized.crop((left, top, left + size, top + size))

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: this must be an image file, but can't be read: {error.strerror or error}. Mend or remove it."
        ) from error
    return _open_image(data, path, convert)


def stack(images: list[NDArray[np.uint8]], where: str) -> NDArray[np.uint8]:
    """Images of shape (C, H, W) as one array; grey ones beside others become RGB.

    Raises:
        DataError: They are not of one size.
    """
    shapes = {image.shape for image in images}
    if not shapes:
        raise DataError(f"{where}: there must be images, but there is none.")
    most = max(shape[0] for shape in shapes)
    sizes = sorted({(most if channels == 1 else channels, height, width) for channels, height, width in shapes})
    if len(sizes) != 1:
        raise DataError(
            f"{where}: all images must be of one size, but {sizes[0]} and {sizes[1]} are both there. "
            'Bring them to one size, or use `source = "image_folder"`, which scales them.'
        )
    return np.stack([np.broadcast_to(image, sizes[0]) for image in images])


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
