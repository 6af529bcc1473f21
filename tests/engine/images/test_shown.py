"""Images decode to the numbers that a viewer shows, or are refused in one sentence."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from autoprune.engine.images.decoding import decode, decode_square, pixels_of
from autoprune.errors import DataError

COLOUR = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
GREY = np.random.default_rng(1).integers(0, 256, (2, 3), dtype=np.uint8)
ORIENTATION = 0x0112


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def shown(image, kind="PNG", **options):
    """Pixels as (H, W) or (H, W, 3)."""
    pixels = decode(encoded(image, kind, **options), "a")
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def tiff(pixels, *, bits, photometric=1, sample_format=1, width=2, height=1, extra=()):
    """An uncompressed little-endian TIFF of one strip, its tags as (number, value)."""
    tags = [
        (256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, None), (277, 1), (278, height),
        (279, len(pixels)), (339, sample_format), *extra,
    ]  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        struct.pack("<HHIHH", tag, 3, 1, start if value is None else value, 0) for tag, value in sorted(tags)
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(row, *, width, bits, colour_type, key=None):
    """A PNG of one row as it is stored, with or without a transparent colour."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour_type, 0, 0, 0))]
    if key is not None:
        parts.append((b"tRNS", key))
    parts += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


# -- depth ----------------------------------------------------------------------------------------------------------


def test_images_of_8_bits_are_as_stored():
    assert np.array_equal(shown(Image.fromarray(COLOUR)), COLOUR)
    assert np.array_equal(shown(Image.fromarray(GREY)), GREY)
    assert np.array_equal(shown(Image.fromarray(COLOUR), "TIFF"), COLOUR)
    assert np.array_equal(shown(Image.fromarray(COLOUR), "BMP"), COLOUR)


DEEP = np.array([[0, 128, 129], [257 * 7, 257 * 7 + 128, 257 * 7 + 129], [256, 65535, 65535 - 129]], dtype=np.uint16)
SHALLOW = [[0, 0, 1], [7, 7, 8], [1, 255, 254]]  # To the nearest 257th: 128 / 257 is below a half, 129 / 257 above.


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_not_clipped(kind):
    assert shown(Image.fromarray(DEEP), kind).tolist() == SHALLOW


def test_16_bits_of_every_byte_order_and_compression():
    assert shown(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw").tolist() == SHALLOW
    assert shown(Image.fromarray(DEEP.astype(">u2")), "TIFF").tolist() == SHALLOW
    assert pixels_of(Image.fromarray(DEEP.astype(">u2")), "a")[0].tolist() == SHALLOW


@given(st.integers(0, 65535))
def test_16_bits_are_rounded_to_the_nearest(value):
    (found,) = decode(tiff(struct.pack("<HH", value, 0), bits=16), "a")[0, 0, :1].tolist()
    assert abs(257 * found - value) <= 128


def test_12_bits_fill_the_scale():
    """4095 is white; 4095 / 255 = 16.06 is one step."""
    stored = 0xFFF << 12 | 16
    assert decode(tiff(stored.to_bytes(3, "big"), bits=12), "a").tolist() == [[[255, 1]]]
    assert decode(b"P5 3 1 4095\n" + struct.pack(">3H", 4095, 0, 16), "a").tolist() == [[[255, 0, 1]]]


def test_colour_of_16_bits_is_within_one_of_its_8_bits():
    """Pillow takes the upper byte."""
    data = png(struct.pack(">6H", 65535, 0, 257 * 9, 300, 257 * 200, 32768), width=2, bits=16, colour_type=2)
    assert np.abs(decode(data, "a").transpose(1, 2, 0).ravel().astype(int) - [255, 0, 9, 1, 200, 128]).max() <= 1


def test_ones_that_are_ink():
    """TIFF with white at zero, in every depth that Pillow reads; X bitmaps."""
    assert decode(tiff(bytes([0x0F]), bits=1, width=8, photometric=0), "a")[0, 0].tolist() == [255] * 4 + [0] * 4
    assert decode(tiff(bytes([0, 255]), bits=8, photometric=0), "a")[0, 0].tolist() == [255, 0]
    assert decode(tiff(struct.pack("<HH", 0, 257 * 5), bits=16, photometric=0), "a")[0, 0].tolist() == [255, 250]
    bitmap = b"#define im_width 8\n#define im_height 1\nstatic char im_bits[] = {\n0x0f\n};\n"
    assert decode(bitmap, "a")[0, 0].tolist() == [0] * 4 + [255] * 4
    assert decode(b"P4 8 1\n\x0f", "a")[0, 0].tolist() == [255] * 4 + [0] * 4


@pytest.mark.parametrize(
    ("data", "holds"),
    [
        (tiff(struct.pack("<ff", 0.5, 1.0), bits=32, sample_format=3), r"TIFF holds floating-point numbers \(mode F\)"),
        (tiff(struct.pack("<ii", 5, 70000), bits=32, sample_format=2), r"TIFF holds signed numbers or more than 16"),
        (tiff(struct.pack("<hh", -5, 300), bits=16, sample_format=2), r"TIFF holds signed .* 16 bits \(mode I\)"),
        (b"Pf\n2 1\n-1.0\n" + struct.pack("<ff", 0.5, 2.0), "PPM holds floating-point numbers"),
        (
            b"".join(
                f"{card:<80}".encode()
                for card in ["SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 2", "NAXIS2  = 1", "END"]
            ).ljust(2880) + bytes(2880),
            r"FITS holds measured numbers \(mode I;16\)",
        ),
    ],
    ids=["float TIFF", "32 bits", "signed", "PFM", "FITS"],
)  # fmt: skip
def test_numbers_without_a_scale_are_refused(data, holds):
    with pytest.raises(
        DataError,
        match=rf"^a\.x: pixels must be whole numbers of 8 or 16 bits, .*{holds}.* Save it with 8 or 16 bits, scaled",
    ):
        decode(data, "a.x")


def test_numbers_without_a_scale_are_refused_in_folders_too(tmp_path):
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: pixels must be whole numbers of 8 or 16 bits"):
        decode_square(str(tmp_path / "a.tif"), 2)


# -- transparency ---------------------------------------------------------------------------------------------------


def test_transparent_pixels_lie_on_white():
    """(alpha * pixel + (255 - alpha) * 255) / 255, rounded: for 100 at 128, 45185 / 255 = 177.2."""
    image = Image.new("RGBA", (3, 1))
    for x, pixel in enumerate([(100, 0, 255, 128), (10, 20, 30, 0), (10, 20, 30, 255)]):
        image.putpixel((x, 0), pixel)
    expected = [[[177, 127, 255], [255, 255, 255], [10, 20, 30]]]
    assert shown(image).tolist() == expected
    assert shown(image, "TIFF").tolist() == expected
    assert shown(image, "WEBP", lossless=True, exact=True).tolist() == expected
    assert shown(image, "TGA").tolist() == expected


def test_grey_with_transparency_stays_grey():
    image = Image.new("LA", (2, 1))
    image.putpixel((0, 0), (100, 128))
    image.putpixel((1, 0), (7, 255))
    assert shown(image).tolist() == [[177, 7]]
    assert shown(image, "TIFF").tolist() == [[177, 7]]
    deep = png(struct.pack(">4H", 257 * 100, 257 * 128, 257 * 7, 65535), width=2, bits=16, colour_type=4)
    assert decode(deep, "a").tolist() == [[[177, 7]]]


@given(st.integers(0, 255), st.integers(0, 255))
def test_transparency_is_rounded_to_the_nearest(pixel, alpha):
    (found,) = set(pixels_of(Image.new("RGBA", (1, 1), (pixel,) * 3 + (alpha,)), "a").ravel().tolist())
    assert abs(2 * (255 * found - (alpha * pixel + (255 - alpha) * 255))) <= 255


def test_palettes():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 100, 100, 100, 200, 0, 0])
    image.putdata([0, 1, 2])
    assert shown(image).tolist() == [[[10, 20, 30], [100, 100, 100], [200, 0, 0]]]
    expected = [[[10, 20, 30], [255, 255, 255], [200, 0, 0]]]
    assert shown(image, transparency=1).tolist() == expected
    assert shown(image, "GIF", transparency=1).tolist() == expected
    assert shown(image, transparency=bytes([255, 128, 255])).tolist()[0][1] == [177, 177, 177]


def test_premultiplied_and_palette_with_alpha():
    premultiplied = Image.new("RGBa", (1, 1), (50, 0, 128, 128))  # 100, 0 and 255 at a half
    assert np.abs(pixels_of(premultiplied, "a").ravel().astype(int) - [177, 127, 255]).max() <= 1
    image = Image.new("PA", (1, 1), (0, 128))
    image.putpalette([100, 0, 255])
    assert pixels_of(image, "a").ravel().tolist() == [177, 127, 255]


@pytest.mark.parametrize(
    ("bits", "row", "width", "key", "expected"),
    [
        (1, bytes([0b10000000]), 2, 1, [255, 0]),
        (1, bytes([0b10000000]), 2, 0, [255, 255]),
        (2, bytes([0b00011011]), 4, 1, [0, 255, 170, 255]),
        (4, bytes([0x0E]), 2, 14, [0, 255]),
        (8, bytes([9, 10]), 2, 9, [255, 10]),
        (16, struct.pack(">HH", 257 * 9, 257 * 9 + 1), 2, 257 * 9, [255, 9]),
    ],
)
def test_a_transparent_grey_is_named_as_it_is_stored(bits, row, width, key, expected):
    data = png(row, width=width, bits=bits, colour_type=0, key=struct.pack(">H", key))
    assert decode(data, "a").tolist() == [[expected]]


def test_a_transparent_colour():
    row = bytes([1, 2, 3, 4, 5, 6])
    data = png(row, width=2, bits=8, colour_type=2, key=struct.pack(">3H", 4, 5, 6))
    assert decode(data, "a").transpose(1, 2, 0).tolist() == [[[1, 2, 3], [255, 255, 255]]]
    data = png(row * 2, width=2, bits=16, colour_type=2, key=struct.pack(">3H", 4, 5, 6))
    with pytest.raises(
        DataError, match=r"^a: a transparent colour must be one of 8 bits, .* Save it with an alpha chan"
    ):
        decode(data, "a")


# -- other spaces of colour -----------------------------------------------------------------------------------------


def test_bilevel_images_are_grey():
    image = Image.fromarray(np.array([[0, 255, 255]], dtype=np.uint8)).convert("1")
    assert shown(image).tolist() == shown(image, "TIFF").tolist() == shown(image, "GIF").tolist() == [[0, 255, 255]]


def test_inks():
    """255 - ink, times 255 - black: (255 - 55) * (255 - 51) / 255 = 160."""
    image = Image.new("CMYK", (8, 8), (55, 0, 255, 51))
    expected = [160, 204, 0]
    assert (shown(image, "TIFF") == expected).all()
    # Adobe stores the inks of a JPEG inverted, and so does Pillow.
    assert np.abs(shown(image, "JPEG", quality=100).astype(int) - expected).max() <= 2


def test_luma_and_chroma():
    """JPEG's own: red is (76, 85, 255)."""
    image = Image.new("YCbCr", (1, 1), (76, 85, 255))
    assert np.abs(pixels_of(image, "a").ravel().astype(int) - [255, 0, 0]).max() <= 1


def test_lab():
    """L* = 50.2 without colour: Y = ((50.2 + 16) / 116)³ = 0.1858, and 1.055 * Y^(1 / 2.4) - 0.055 = 0.468 in sRGB."""
    image = Image.new("LAB", (1, 1), (128, 128, 128))
    assert np.abs(shown(image, "TIFF").ravel().astype(int) - 119).max() <= 1


# -- orientation ----------------------------------------------------------------------------------------------------

# Where the stored first row and first column lie in what is shown, by the EXIF standard.
UPRIGHT = {
    1: lambda stored: stored,  # top, left
    2: np.fliplr,  # top, right
    3: lambda stored: stored[::-1, ::-1],  # bottom, right
    4: np.flipud,  # bottom, left
    5: np.transpose,  # left, top
    6: lambda stored: np.rot90(stored, -1),  # right, top
    7: lambda stored: stored[::-1, ::-1].T,  # right, bottom
    8: np.rot90,  # left, bottom
}


def turned(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation(orientation):
    expected = UPRIGHT[orientation](GREY).tolist()
    assert shown(Image.fromarray(GREY), exif=turned(orientation)).tolist() == expected
    assert shown(Image.fromarray(DEEP[:2] * 0 + GREY.astype(np.uint16) * 257), exif=turned(orientation)).tolist() == (
        expected
    )
    assert decode(tiff(GREY.tobytes(), bits=8, width=3, height=2, extra=[(274, orientation)]), "a")[0].tolist() == (
        expected
    )
    photo = np.kron(GREY, np.ones((16, 16), dtype=np.uint8))
    found = shown(Image.fromarray(photo), "JPEG", quality=100, exif=turned(orientation)).astype(int)
    assert found.shape == UPRIGHT[orientation](photo).shape
    assert np.abs(found - UPRIGHT[orientation](photo)).max() <= 8


def test_folders_follow_the_orientation(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=turned(6))
    assert np.array_equal(decode_square(str(tmp_path / "a.png"), 4), np.rot90(pixels, -1).transpose(2, 0, 1))


@pytest.mark.parametrize("exif", [b"Exif\0\0no such thing", turned(6).tobytes()[:-9], turned(99).tobytes()])
def test_a_broken_orientation_is_none(exif):
    assert decode(encoded(Image.fromarray(COLOUR), "JPEG", exif=exif), "a").shape == (3, 4, 6)


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_of_several_frames(kind):
    first, second = (Image.new("RGB", (2, 2), colour) for colour in ("red", "lime"))
    options = {"lossless": True} if kind == "WEBP" else {}
    found = shown(first, kind, save_all=True, append_images=[second], **options)
    assert (found == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000"])
def test_files_that_are_cut_short(kind):
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)), kind)
    with pytest.raises(
        DataError, match=r"^a: this must be an image, but can't be decoded: .*\. Replace or remove it\.$"
    ):
        decode(data[: len(data) * 6 // 10], "a")


def test_no_bytes_and_bytes_of_nothing():
    with pytest.raises(DataError, match=r"^a: this must be an image, but it is empty\. Replace or remove it\.$"):
        decode(b"", "a")
    with pytest.raises(
        DataError, match=r"^a: this .* can't be decoded: its format is none that Pillow reads\. Replace"
    ):
        decode(b"version https://git-lfs.github.com/spec/v1", "a")


def test_images_that_others_have_opened():
    assert pixels_of(COLOUR, "a").shape == (3, 4, 6)
    assert pixels_of(Image.fromarray(GREY).convert("LA"), "a").tolist() == [GREY.tolist()]
    with pytest.raises(DataError, match=r"^a: an image must be one of Pillow or uint8 .* but got ndarray of float64"):
        pixels_of(COLOUR / 255, "a")
    with pytest.raises(DataError, match=r"^a: an image must have pixels, but this one is 0 × 3\."):
        pixels_of(Image.new("RGB", (0, 3)), "a")
