"""What a viewer shows of an image: its first frame, upright, in 8 bits, on white where one sees through it."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from PIL import Image, ImageChops

from autoprune.errors import DataError

__all__ = ["shown"]

_Layers: TypeAlias = tuple[Image.Image, Image.Image | None]  # In L or RGB; how opaque it is, or None for all of it.

_GREY_MODES = ("1", "L", "LA", "La", "I")  # And all that begin with "I;16".
# Formats whose 16-bit numbers go from black at 0 to white at 65535; others hold what an instrument has measured.
_DEEP_FORMATS = {"I;16": (None, "JPEG2000", "PNG", "TIFF"), "I": ("PNG", "PPM")}
_PLAIN_16_BITS = ("I;16", "I;16B", "I;16N", "I;16R")
# A PNG names the grey that one sees through as it is stored, in 1, 2 or 4 bits; Pillow stretches the pixels alone.
_KEY_STEPS = {"1": 255, "L;2": 85, "L;4": 17}
_MOST_PIXELS = 2**26  # 8192 × 8192: a file of kilobytes can hold more than there is memory for.
_WHITE_IS_ZERO = 0  # Of the TIFF tag 262.
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def shown(image: Image.Image, where: str) -> Image.Image:
    """The pixels that a viewer shows.

    Numbers of 16 bits are divided by 257, the EXIF orientation is followed, and what is transparent lies on white:
    ``(alpha * pixel + (255 - alpha) * 255) / 255``, rounded. Colour profiles are not applied.

    Args:
        image: As `PIL.Image.open` gives it: what tells its depth is gone once it is loaded.
        where: What to call it in a message.

    Returns:
        In mode L where the image is grey by its mode, whatever its depth, and else in RGB.

    Raises:
        DataError: It has no pixels or too many, or numbers that viewers do not agree on.
    """
    kind, raw_mode = image.format, _raw_mode(image)
    if 0 in image.size:
        raise DataError(
            f"{where}: an image must have pixels, but this one is {image.width} × {image.height}. Replace or remove it."
        )
    if image.width * image.height > _MOST_PIXELS:
        raise DataError(
            f"{where}: an image must have at most {_MOST_PIXELS:,} pixels, but this one is {image.width:,} × "
            f"{image.height:,}. Scale it down."
        )
    _check_scale(image.mode, kind, where)
    inverted = _is_inverted(image, raw_mode)
    image.load()
    turned = _upright(image)
    if raw_mode == "LA;16B" and turned.mode == "RGBA":  # Pillow has no grey mode of 16 bits with alpha.
        turned = Image.merge("LA", (turned.getchannel("R"), turned.getchannel("A")))
    if turned.mode in _GREY_MODES or turned.mode.startswith("I;16"):
        layer, alpha = _grey(turned, raw_mode if kind == "PNG" else "", top=4095 if raw_mode == "I;12" else 65535)
    else:
        layer, alpha = _colour(turned, raw_mode, where)
    if inverted:
        layer = ImageChops.invert(layer)
    if alpha is None:
        return layer
    ground = Image.new(layer.mode, layer.size, "white")
    ground.paste(layer, mask=alpha)
    return ground


def _raw_mode(image: Image.Image) -> str:
    """How the pixels are stored, in Pillow's words, such as ``"L;4"``; empty where it does not say."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    if isinstance(arguments, tuple) and arguments:
        arguments = arguments[0]
    return arguments if isinstance(arguments, str) else ""


def _check_scale(mode: str, kind: str | None, where: str) -> None:
    deep = "I;16" if mode.startswith("I;16") else mode
    if deep not in ("I;16", "I", "F") or kind in _DEEP_FORMATS.get(deep, ()):
        return
    numbers = {"F": "floating-point numbers", "I": "signed numbers or more than 16 bits"}.get(deep, "measured numbers")
    raise DataError(
        f"{where}: pixels must be whole numbers of 8 or 16 bits, from black at 0 to white at the largest, but this "
        f"{kind or 'image'} holds {numbers} (mode {mode}), which each viewer scales in its own way. "
        "Save it with 8 or 16 bits, scaled as you mean it."
    )


def _is_inverted(image: Image.Image, raw_mode: str) -> bool:
    """Whether Pillow gives black for what viewers show white."""
    if image.format == "XBM":  # Its ones are ink.
        return True
    # Pillow turns such greys of up to 8 bits itself, and says so in the raw mode.
    tags = getattr(image, "tag_v2", {})
    return raw_mode in _PLAIN_16_BITS and tags.get(262) == _WHITE_IS_ZERO


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # Viewers show an image whose EXIF block is broken as it lies.
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _grey(image: Image.Image, stored: str, *, top: int) -> _Layers:
    """Grey in 8 bits.

    Args:
        image: Of a grey mode.
        stored: Raw mode of a PNG, or empty.
        top: White, where the image has more than 8 bits.
    """
    if image.mode in ("LA", "La"):
        both = image.convert("LA")
        return both.getchannel("L"), both.getchannel("A")
    if image.mode in ("1", "L"):
        grey = image if image.mode == "L" else image.convert("L")
        values = np.asarray(grey)
    else:
        values = np.asarray(image)
        # Rounded; a half can't be, since neither 257 nor 4095 / 255 has one.
        grey = Image.fromarray(((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8))
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return grey, None
    opaque = values != key * _KEY_STEPS.get(stored, 1)
    return grey, Image.fromarray(opaque.astype(np.uint8) * 255)


def _colour(image: Image.Image, raw_mode: str, where: str) -> _Layers:
    if image.mode == "RGB" and "16" in raw_mode and "transparency" in image.info:
        raise DataError(
            f"{where}: a transparent colour must be one of 8 bits, but this image names one of 16, which Pillow can't "
            "tell from its neighbours. Save it with an alpha channel."
        )
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        return layers.convert("RGB"), layers.getchannel("A")
    return (image if image.mode == "RGB" else image.convert("RGB")), None
