"""Every source reads the images that were written for it, and says what is wrong with those that can't be read."""

import hashlib
import io
import logging
import os
import shutil
import struct
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from autoprune.config import DataSpec, digest
from autoprune.config.spec import DATA_SOURCES as KEYS
from autoprune.engine.images import paths as _paths
from autoprune.engine.images._image_folder import folder_classes, folder_files
from autoprune.engine.images.decoding import decode_square, endings
from autoprune.engine.images.paths import files_below, path_of
from autoprune.engine.images.sources import DATA_SOURCES, source_of
from autoprune.errors import ConfigError, DataError


def fingerprint(spec, part):
    return source_of(spec).fingerprint(spec, part)


def read_arrays(spec, part):
    return source_of(spec).read(spec, part)


def test_every_source_has_its_keys_and_its_reader():
    assert KEYS.keys() == DATA_SOURCES.keys()
    assert [source.name for source in DATA_SOURCES.values()] == list(DATA_SOURCES)


def noise(n=6, channels=3, size=5, seed=0):
    shape = (n, size, size, channels) if channels == 3 else (n, size, size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels, mode=None):
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path, images, labels, *, wrapped=True, columns=("img", "label")):
    encoded = [image if isinstance(image, bytes) else png(image) for image in images]
    rows = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(encoded)] if wrapped else encoded
    pq.write_table(pa.table({columns[0]: rows, columns[1]: labels}), path)
    return DataSpec(source="parquet", train=str(path), image_column=columns[0], label_column=columns[1])


# -- digits ---------------------------------------------------------------------------------------------------------


def test_digits_are_those_that_scikit_learn_gives():
    from sklearn.datasets import load_digits

    digits, spec = load_digits(), DataSpec(source="digits")
    parts = [read_arrays(spec, part) for part in ("train", "test")]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    np.testing.assert_array_equal(images[:, 0], (digits.images * (255 / 16)).round())
    np.testing.assert_array_equal(labels, digits.target)


def test_digits():
    spec = DataSpec(source="digits")
    images, labels = read_arrays(spec, "train")
    assert (images.shape, images.dtype, labels.dtype) == ((1437, 1, 8, 8), np.uint8, np.int64)
    assert (images.min(), images.max()) == (0, 255)
    assert labels[:10].tolist() == list(range(10))
    test_images, test_labels = read_arrays(spec, "test")
    assert test_images.shape == (360, 1, 8, 8)
    assert len(test_labels) == 360
    assert images[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # of 0, 0, 5, 13, 9, 1, 0, 0 sixteenths
    assert not spec.holds_paths
    assert fingerprint(spec, "train") != fingerprint(spec, "test")


# -- Parquet --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("wrapped", [True, False])
def test_parquet(tmp_path, channels, wrapped):
    images, labels = noise(channels=channels), [3, 1, 2, 0, 1, 1]
    spec = write_parquet(tmp_path / "a.parquet", images, labels, wrapped=wrapped)
    pixels, classes = read_arrays(spec, "train")
    expected = images[:, None] if channels == 1 else images.transpose(0, 3, 1, 2)
    assert (pixels.dtype, classes.dtype) == (np.uint8, np.int64)
    assert np.array_equal(pixels, expected)
    assert classes.tolist() == labels


def test_parquet_in_several_pieces_and_with_small_labels(tmp_path):
    images = noise(10)
    table = pa.table({
        "img": [{"bytes": png(image)} for image in images], "label": pa.array(range(10), pa.int8()),
        "other": ["x"] * 10,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    pixels, classes = read_arrays(DataSpec(source="parquet", train=str(tmp_path / "a.parquet")), "train")
    assert np.array_equal(pixels, images.transpose(0, 3, 1, 2))
    assert classes.tolist() == list(range(10))


def test_other_image_modes_become_rgb(tmp_path):
    colour = noise(1)[0]
    spec = write_parquet(tmp_path / "a.parquet", [png(colour, "RGBA"), png(colour, "P"), png(colour, "1")], [0, 1, 2])
    pixels, _ = read_arrays(spec, "train")
    assert pixels.shape == (3, 3, 5, 5)
    assert np.array_equal(pixels[0], colour.transpose(2, 0, 1))
    assert set(np.unique(pixels[2])) <= {0, 255}


def test_other_columns(tmp_path):
    images = noise(4)
    rows = [{"bytes": png(image)} for image in images]
    pq.write_table(
        pa.table({"image": rows, "fine_label": [5, 6, 7, 8], "coarse_label": [0, 0, 1, 1]}), tmp_path / "a.parquet"
    )
    fine, coarse = (
        DataSpec(source="parquet", train=str(tmp_path / "a.parquet"), image_column="image", label_column=column)
        for column in ("fine_label", "coarse_label")
    )
    assert read_arrays(fine, "train")[1].tolist() == [5, 6, 7, 8]
    assert read_arrays(coarse, "train")[1].tolist() == [0, 0, 1, 1]
    assert fingerprint(fine, "train") != fingerprint(coarse, "train")
    with pytest.raises(
        DataError, match=r"a column `img` must be there, but the file has image, fine_label, coarse_labe"
    ):
        read_arrays(DataSpec(source="parquet", train=str(tmp_path / "a.parquet")), "train")
    with pytest.raises(DataError, match=r"a column `label` must be there.* Set `image_column` and `label_column`"):
        read_arrays(DataSpec(source="parquet", train=str(tmp_path / "a.parquet"), image_column="image"), "train")


def refused(tmp_path, told, images, labels, **options):
    spec = write_parquet(tmp_path / "a.parquet", images, labels, **options)
    with pytest.raises(DataError, match=told):
        read_arrays(spec, "train")


def test_images_of_different_sizes(tmp_path):
    images = [*noise(2, size=5), *noise(2, size=4)]
    refused(
        tmp_path, r"all images must be of one size, but \(3, 4, 4\) and \(3, 5, 5\) are both there", images, [0] * 4
    )


def test_bytes_that_are_no_image(tmp_path):
    broken = png(noise(1)[0])
    refused(tmp_path, r"a\.parquet: row 2: this must be an image, but can't be decoded: its format is none that Pillow",
            [*noise(2), b"no image"], [0] * 3)  # fmt: skip
    refused(tmp_path, "row 1: this must be an image, but can't be decoded", [*noise(1), broken[:60]], [0] * 2)
    refused(tmp_path, "row 1: this must be an image, but it is empty", [*noise(1), b""], [0] * 2)


def test_a_row_without_an_image(tmp_path):
    table = pa.table({"img": [{"bytes": png(noise(1)[0])}, {"bytes": None}, None], "label": [0, 1, 2]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(
        DataError, match=r"row 1: the column `img` must hold encoded images, but is null here\. Drop the"
    ):
        read_arrays(DataSpec(source="parquet", train=str(tmp_path / "a.parquet")), "train")


def test_grey_images_beside_colour_become_rgb(tmp_path):
    grey, colour = noise(1, channels=1)[0], noise(1)[0]
    pixels, _ = read_arrays(write_parquet(tmp_path / "a.parquet", [grey, colour, png(grey, "LA")], [0, 1, 2]), "train")
    assert pixels.shape == (3, 3, 5, 5)
    assert np.array_equal(pixels[0], np.stack([grey] * 3))
    assert np.array_equal(pixels[1], colour.transpose(2, 0, 1))
    assert np.array_equal(pixels[2], pixels[0])


def test_grey_images_of_any_depth_have_one_channel(tmp_path):
    grey = noise(1, channels=1)[0]
    deep = png(grey.astype(np.uint16) * 257)
    pixels, _ = read_arrays(write_parquet(tmp_path / "a.parquet", [grey, deep, png(grey, "LA")], [0, 1, 2]), "train")
    assert pixels.shape == (3, 1, 5, 5)
    assert np.array_equal(pixels[1], grey[None])
    assert np.array_equal(pixels[2], grey[None])


def test_columns_of_the_wrong_kind(tmp_path):
    pq.write_table(pa.table({"img": [1, 2], "label": [0, 1]}), tmp_path / "ints.parquet")
    with pytest.raises(DataError, match="the column `img` must hold encoded images, but holds int64"):
        read_arrays(DataSpec(source="parquet", train=str(tmp_path / "ints.parquet")), "train")
    pq.write_table(pa.table({"img": [{"path": "a.png"}], "label": [0]}), tmp_path / "paths.parquet")
    with pytest.raises(DataError, match="the column `img` must hold `bytes`, but holds struct<path: string>"):
        read_arrays(DataSpec(source="parquet", train=str(tmp_path / "paths.parquet")), "train")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0.0, 1.0, 2.0], r"whole numbers >= 0, one per image, but got float64 of shape \(3,\) for 3 images"),
        (["a", "b", "c"], r"but got object of shape \(3,\)"),
        ([0, None, 1], r"but got float64 of shape \(3,\)"),
        ([0, -1, 1], r"but got int64 of shape \(3,\) with values below 0 for 3 images"),
    ],
)
def test_labels_of_the_wrong_kind(tmp_path, labels, told):
    refused(tmp_path, rf"a\.parquet: labels must be .*{told}", noise(3), labels)


def test_files_that_are_no_parquet(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"a\.parquet: this is not a readable Parquet file"):
        read_arrays(DataSpec(source="parquet", train=str(tmp_path / "a.parquet")), "train")
    with pytest.raises(DataError, match="this is not a readable Parquet file"):
        read_arrays(DataSpec(source="parquet", train=str(tmp_path)), "train")


def test_an_empty_parquet_file(tmp_path):
    schema = pa.schema({"img": pa.struct({"bytes": pa.binary()}), "label": pa.int64()})
    pq.write_table(schema.empty_table(), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="the column `img` must hold encoded images, but holds binary"):
        read_arrays(DataSpec(source="parquet", train=str(tmp_path / "a.parquet")), "train")


@pytest.mark.parametrize("source", ["parquet", "image_folder"])
def test_nothing_there(tmp_path, source):
    size = {"image_size": 4} if source == "image_folder" else {}
    spec = DataSpec(source=source, train=str(tmp_path / "gone"), **size)
    with pytest.raises(DataError, match=r"^\[data\] `train`: there is nothing at .*gone\. Check the path\.$"):
        path_of(spec, "train")
    with pytest.raises(
        ConfigError, match=r"^\[data\] must have a test split to be scored on, but it names no `test`\."
    ):
        fingerprint(spec, "test")


# -- image folder ---------------------------------------------------------------------------------------------------


def write_folder(root, classes=("cat", "dog"), seed=0):
    generator = np.random.default_rng(seed)
    for name in classes:
        for i, (height, width) in enumerate([(9, 9), (7, 12), (20, 8)]):
            folder = root / name / "deep" if i == 1 else root / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return root


def test_folder_files(tmp_path):
    root = write_folder(tmp_path / "train", ("dog", "cat", "Ant"))
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "cat" / "._0.png").write_bytes(b"what macOS leaves")
    (root / "cat" / ".DS_Store").write_bytes(b"what macOS leaves")
    (root / "cat" / "Thumbs.db").write_bytes(b"what Windows leaves")
    (root / "cat" / ".cache").mkdir()
    Image.fromarray(noise(1)[0]).save(root / "cat" / ".cache" / "thumb.png")
    (root / ".cache").mkdir()
    Image.fromarray(noise(1)[0]).save(root / ".cache" / "thumb.png")
    Image.fromarray(noise(1)[0]).save(root / "stray.png")
    classes = folder_classes(root)
    assert classes == ("Ant", "cat", "dog")
    paths, labels = folder_files(root, classes)
    assert labels == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [os.path.relpath(path, root) for path in paths[3:6]] == ["cat/0.png", "cat/2.png", "cat/deep/1.png"]


def test_a_part_that_lacks_a_class_keeps_the_labels_of_the_others(tmp_path):
    classes = folder_classes(write_folder(tmp_path / "train", ("ant", "cat", "dog")))
    _, labels = folder_files(write_folder(tmp_path / "test", ("ant", "dog")), classes)
    assert labels == [0, 0, 0, 2, 2, 2]


def test_a_part_with_a_class_of_its_own_is_refused(tmp_path):
    classes = folder_classes(write_folder(tmp_path / "train"))
    with pytest.raises(DataError, match=r"test: every class must be one of the training set's, but 'cow' is not"):
        folder_files(write_folder(tmp_path / "test", ("cat", "cow")), classes)


def test_folders_without_images(tmp_path):
    root = write_folder(tmp_path / "train", ("dog",))
    (root / "cat" / "deep").mkdir(parents=True)
    (root / "cat" / ".a.png").write_bytes(b"")
    classes = folder_classes(root)
    with pytest.raises(
        DataError, match=r"train/cat: the folder of the class 'cat' must hold an image, but is empty\. Add images, or "
    ):
        folder_files(root, classes)
    for name in ("a.heic", "b.HEIC", "deep/c.txt"):
        (root / "cat" / name).write_bytes(b"")
    told = (
        r"but holds only \.heic \(2\), \.txt \(1\)\. Add images, or remove the folder\. Endings that are read: \.apng, "
    )
    with pytest.raises(DataError, match=told):
        folder_files(root, classes)
    (tmp_path / "flat").mkdir()
    Image.fromarray(noise(1)[0]).save(tmp_path / "flat" / "a.png")
    with pytest.raises(DataError, match=r"flat: one folder of images per class must be here, but no folder was found"):
        folder_files(tmp_path / "flat", ())
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"an image folder must be a folder, but .*file is a file"):
        fingerprint(DataSpec(source="image_folder", train=str(tmp_path / "file"), image_size=4), "train")


@pytest.mark.parametrize("ending", ["tif", "TIFF", "gif", "PNG", "jpe", "ppm", "JP2", "tga"])
def test_every_ending_that_pillow_decodes(tmp_path, ending):
    for name, value in (("cat", 0), ("dog", 255)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)).save(tmp_path / name / f"a.{ending}")
    spec = DataSpec(source="image_folder", train=str(tmp_path), image_size=4)
    images, labels = read_arrays(spec, "train")
    assert labels.tolist() == [0, 1]
    assert [set(image.ravel().tolist()) for image in images] == [{0}, {255}]


def test_endings():
    assert {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".mpo"} <= set(endings())
    # Films, drawings, and files whose decoder Pillow leaves to others: beside images, they are none.
    assert not {".mpg", ".eps", ".ps", ".h5", ".grib", ".wmf", ".pdf", ".txt", ""} & set(endings())


def test_files_that_are_not_read_are_told(tmp_path, caplog):
    root = write_folder(tmp_path / "train")
    spec = DataSpec(source="image_folder", train=str(root), image_size=4)
    with caplog.at_level(logging.WARNING):
        read_arrays(spec, "train")
        assert caplog.messages == []
        for name in ("cat/a.heic", "dog/b.heic", "dog/c.txt", "dog/.DS_Store"):
            (root / name).write_bytes(b"")
        read_arrays(spec, "train")
    assert caplog.messages == [
        f"{root}: files of kinds that Pillow does not decode are passed over: .heic (2), .txt (1)."
    ]


def test_links_are_followed(tmp_path):
    elsewhere = write_folder(tmp_path / "elsewhere")
    root = tmp_path / "train"
    (root / "bird").mkdir(parents=True)
    (root / "ant").symlink_to(elsewhere / "cat")
    (root / "bird" / "more").symlink_to(elsewhere / "dog")
    (root / "bird" / "one.png").symlink_to(elsewhere / "cat" / "0.png")
    paths, labels = folder_files(root, folder_classes(root))
    assert [os.path.relpath(path, root) for path in paths] == [
        "ant/0.png", "ant/2.png", "ant/deep/1.png",
        "bird/more/0.png", "bird/more/2.png", "bird/more/deep/1.png", "bird/one.png",
    ]  # fmt: skip
    assert labels == [0] * 3 + [1] * 4
    spec = DataSpec(source="image_folder", train=str(root), image_size=4)
    first = fingerprint(spec, "train")
    (elsewhere / "dog" / "0.png").unlink()
    assert fingerprint(spec, "train") != first  # What lies behind a link counts among the content.


def test_links_that_lead_nowhere_or_back(tmp_path):
    root = write_folder(tmp_path / "train")
    (root / "cat" / "notes").symlink_to(tmp_path / "gone")
    assert len(folder_files(root, folder_classes(root))[0]) == 6
    (root / "cat" / "3.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(
        DataError, match=r"cat/3\.png: this must be a file, but is none, or a link to none\. Mend or re"
    ):
        folder_files(root, folder_classes(root))
    (root / "cat" / "3.png").unlink()
    for target in (root / "cat", root, root / "cat" / "deep"):
        (root / "cat" / "deep" / "back").symlink_to(target)
        with pytest.raises(DataError, match=r"deep/back: a link must not lead back to a folder that it lies in"):
            files_below(root / "cat")
        (root / "cat" / "deep" / "back").unlink()
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "home").symlink_to(root / "cat")
    (root / "cat" / "aside").symlink_to(tmp_path / "aside")
    with pytest.raises(DataError, match=r"aside/home: a link must not lead back"):
        fingerprint(DataSpec(source="image_folder", train=str(root), image_size=4), "train")


def test_files_and_folders_that_can_not_be_read(tmp_path, monkeypatch):
    with pytest.raises(
        DataError, match=r"gone\.png: this must be an image file, but can't be read: No such file.* Mend"
    ):
        decode_square(str(tmp_path / "gone.png"), 4)
    scandir = os.scandir

    def scan(path):
        if path.name in ("closed", ".closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    (tmp_path / ".closed").mkdir()  # Such as a trash can at the root of a disk.
    (tmp_path / ".back").symlink_to(tmp_path)
    assert files_below(tmp_path) == []
    (tmp_path / "closed").mkdir()
    with pytest.raises(
        DataError, match=r"closed: this must be a folder that can be read, but it can't: Permission denie"
    ):
        files_below(tmp_path)


def test_parquet_and_folders_show_the_same(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    images = [
        (Image.fromarray(noise(1)[0]), {"exif": exif}),
        (Image.fromarray(noise(1, channels=1)[0].astype(np.uint16) * 200), {}),
        (Image.fromarray(np.dstack([noise(1)[0], noise(1, channels=1)[0]])), {}),
        (Image.fromarray(noise(1)[0]).convert("P"), {"transparency": 3}),
    ]
    (tmp_path / "train" / "a").mkdir(parents=True)
    data = []
    for i, (image, options) in enumerate(images):
        image.save(tmp_path / "train" / "a" / f"{i}.png", **options)
        data.append((tmp_path / "train" / "a" / f"{i}.png").read_bytes())
    rows, _ = read_arrays(write_parquet(tmp_path / "a.parquet", data, [0] * 4), "train")
    files, _ = read_arrays(DataSpec(source="image_folder", train=str(tmp_path / "train"), image_size=5), "train")
    assert np.array_equal(rows, files)


def test_a_large_square_is_cropped_from_the_middle(tmp_path):
    """10 × 6 at size 6: no scaling, two columns go on each side."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(decode_square(str(tmp_path / "a.png"), 6), pixels[:, 2:8].transpose(2, 0, 1))
    assert decode_square(str(tmp_path / "a.png"), 3).shape == (3, 3, 3)
    grey = np.full((4, 9), 77, dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(decode_square(str(tmp_path / "grey.png"), 12), np.full((3, 12, 12), 77))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 300), (300, 3), (7, 11), (11, 7)])
@pytest.mark.parametrize("size", [1, 5, 8])
def test_every_size_gives_a_square(tmp_path, height, width, size):
    Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    assert decode_square(str(tmp_path / "a.png"), size).shape == (3, size, size)


def wide_png(width, height):
    """An image of one colour, of few bytes however large it is."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_that_fill_the_memory(tmp_path):
    path = tmp_path / "vast.png"
    path.write_bytes(wide_png(8192, 8193))
    assert path.stat().st_size < 100_000
    with pytest.raises(
        DataError, match=r"must have at most 67,108,864 pixels, but this one is 8,192 × 8,193\. Scale it"
    ):
        decode_square(str(path), 8)
    path.write_bytes(wide_png(1, 50_000))  # Scaled to a row of eight, it would be 400,000 high.
    with pytest.raises(
        DataError, match=r"must be at most 100 times as long as wide, but this one is 1 × 50,000\. Crop"
    ):
        decode_square(str(path), 8)
    path.write_bytes(wide_png(8, 800))
    assert decode_square(str(path), 8).shape == (3, 8, 8)


def test_a_parquet_file_of_more_rows_than_bytes(tmp_path):
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"img": pa.nulls(10**6, pa.binary()), "label": [0] * 10**6}), path)
    spec = DataSpec(source="parquet", train=str(path), validation="last:1")
    with pytest.raises(DataError, match=r"each row must hold an encoded image, but there are 1,000,000 rows in "):
        read_arrays(spec, "train")


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(DataError, match=r"a\.png: this must be an image, but can't be decoded: its format is"):
        decode_square(str(tmp_path / "a.png"), 4)


# -- torchvision ----------------------------------------------------------------------------------------------------


def write_idx(path, array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.tobytes())


def test_torchvision_mnist_from_its_raw_files(tmp_path):
    """Nothing is downloaded where the files are there."""
    generator, expected = np.random.default_rng(0), {}
    for part, prefix, n in (("train", "train", 7), ("test", "t10k", 3)):
        images = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, n, dtype=np.uint8)
        write_idx(tmp_path / "MNIST" / "raw" / f"{prefix}-images-idx3-ubyte", images)
        write_idx(tmp_path / "MNIST" / "raw" / f"{prefix}-labels-idx1-ubyte", labels)
        expected[part] = images, labels
    spec = DataSpec(source="torchvision", name="MNIST", train=str(tmp_path))
    for part, (images, labels) in expected.items():
        pixels, classes = read_arrays(spec, part)
        assert np.array_equal(pixels, images[:, None])
        assert classes.tolist() == labels.tolist()
    assert fingerprint(spec, "train") != fingerprint(spec, "test")
    other = DataSpec(source="torchvision", name="FashionMNIST", train=str(tmp_path))
    assert fingerprint(spec, "train") != fingerprint(other, "train")


def test_torchvision_data_sets_that_do_not_exist_or_take_other_arguments(tmp_path):
    with pytest.raises(ConfigError, match=r"\[data\] `name`: there is no torchvision data set 'MNISST'; did you mean"):
        read_arrays(DataSpec(source="torchvision", name="MNISST", train=str(tmp_path)), "train")
    with pytest.raises(DataError, match=r"torchvision's FakeData can't be loaded into .*unexpected keyword argument"):
        read_arrays(DataSpec(source="torchvision", name="FakeData", train=str(tmp_path)), "train")


def test_torchvision_images_of_other_kinds(tmp_path, monkeypatch):
    """Bilevel ones are white at 255, not at 1; floats are no bytes."""
    import torchvision

    grey = np.array([[0, 255], [255, 0]], dtype=np.uint8)
    spec = DataSpec(source="torchvision", name="MNIST", train=str(tmp_path))

    def of(*images):
        monkeypatch.setattr(torchvision.datasets, "MNIST", lambda **options: [(image, 0) for image in images])
        return read_arrays(spec, "train")[0]

    assert of(Image.fromarray(grey).convert("1"), Image.fromarray(grey)).tolist() == [[grey.tolist()]] * 2
    with pytest.raises(
        DataError, match=r"torchvision's MNIST: image 1: an image must be one of Pillow or uint8 of shape"
    ):
        of(grey, grey / 255)
    with pytest.raises(DataError, match=r"MNIST: there must be images, but there is none"):
        of()


# -- factory --------------------------------------------------------------------------------------------------------


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """Write a module with a data factory; it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    made = []

    def write(body, name="make"):
        module = f"own_data_{len(made)}_{os.getpid()}"
        (tmp_path / f"{module}.py").write_text(f"import numpy as np\ncalls = []\ndef {name}():\n{body}\n")
        made.append(module)
        return DataSpec(source="factory", factory=f"{module}:{name}")

    yield write
    for module in made:
        sys.modules.pop(module, None)


def test_factory(factory):
    spec = factory(
        "    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)\n"
        "    return {'train': (images, [1, 0]), 'test': (images[:1], np.array([2], dtype=np.int32))}"
    )
    pixels, classes = read_arrays(spec, "train")
    assert (pixels.shape, classes.dtype, classes.tolist()) == ((2, 3, 4, 4), np.int64, [1, 0])
    assert read_arrays(spec, "test")[1].tolist() == [2]
    assert fingerprint(spec, "train") != fingerprint(spec, "test")


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("[1, 2]", r"must return a mapping with 'train': \(images, labels\), but returned list"),
        ("{'test': 1}", r"must return a mapping with 'train': \(images, labels\), but returned dict"),
        ("{'train': 5}", r"must return 'train' as \(images, labels\)"),
        ("{'train': (1, 2, 3)}", r"must return 'train' as \(images, labels\)"),
        (
            "{'train': (np.zeros((2, 1, 4, 4)), [0, 1])}",
            r"images must be uint8 of shape \(N, C, H, W\), but got float64",
        ),
        ("{'train': (np.zeros((2, 4, 4), np.uint8), [0, 1])}", r"but got uint8 of shape \(2, 4, 4\)"),
        ("{'train': (np.zeros((0, 1, 4, 4), np.uint8), [])}", r"but got uint8 of shape \(0, 1, 4, 4\)"),
        ("{'train': (np.zeros((2, 1, 4, 4), np.uint8), [0])}", r"got int64 of shape \(1,\) for 2 images"),
        ("{'train': (np.zeros((2, 1, 4, 4), np.uint8), [True, False])}", r"but got bool of shape \(2,\)"),
    ],
)
def test_what_a_factory_must_return(factory, returned, told):
    with pytest.raises(DataError, match=told):
        read_arrays(factory(f"    return {returned}"), "train")


def test_a_factory_that_fails(factory):
    with pytest.raises(ConfigError, match=r"`data\.factory` = '.*:make' raised KeyError: 'no'\. Fix the function"):
        fingerprint(factory("    raise KeyError('no')"), "train")


def test_the_hash_of_a_factory_follows_images_labels_and_shape(factory):
    body = "    return {{'train': (np.zeros({shape}, np.uint8) + {value}, [{label}, 0])}}"
    prints = [
        fingerprint(factory(body.format(shape=shape, value=f"np.uint8({value})", label=label)), "train")
        for shape, value, label in [
            ((2, 1, 4, 4), 0, 1), ((2, 1, 4, 4), 1, 1), ((2, 1, 4, 4), 0, 2), ((2, 1, 2, 8), 0, 1),
            ((2, 1, 4, 4), 0, 1),
        ]
    ]  # fmt: skip
    assert len(set(prints[:4])) == 4
    assert prints[4] == prints[0]


# -- fingerprints of files ------------------------------------------------------------------------------------------


def test_the_hash_of_a_file_follows_its_content_not_its_path(tmp_path, monkeypatch):
    first = write_parquet(tmp_path / "a.parquet", noise(), [0] * 6)
    (tmp_path / "elsewhere").mkdir()
    shutil.copyfile(tmp_path / "a.parquet", tmp_path / "elsewhere" / "b.parquet")
    moved = DataSpec(source="parquet", train=str(tmp_path / "elsewhere" / "b.parquet"))
    assert fingerprint(moved, "train") == fingerprint(first, "train")
    monkeypatch.chdir(tmp_path)
    assert fingerprint(DataSpec(source="parquet", train="a.parquet"), "train") == fingerprint(first, "train")
    monkeypatch.setattr(_paths, "_READ_BYTES", 7)
    assert fingerprint(moved, "train") == fingerprint(first, "train")
    other = write_parquet(tmp_path / "c.parquet", noise(seed=1), [0] * 6)
    assert fingerprint(other, "train") != fingerprint(first, "train")


def test_the_hash_of_a_folder(tmp_path):
    root = write_folder(tmp_path / "train")
    shutil.copytree(root, tmp_path / "moved")

    def of(path, size=8):
        return fingerprint(DataSpec(source="image_folder", train=str(path), image_size=size), "train")

    first = of(root)
    assert of(tmp_path / "moved") == first
    assert of(root, size=9) != first  # other images of the same files
    (tmp_path / "moved" / "cat" / "0.png").rename(tmp_path / "moved" / "dog" / "9.png")
    assert of(tmp_path / "moved") != first
    (root / "dog" / "0.png").unlink()
    assert of(root) != first


def test_the_hash_of_a_folder_is_that_of_names_and_bytes_hidden_ones_too(tmp_path):
    """As it was before hidden files were passed over: the hash of data that were read right does not change."""
    root = write_folder(tmp_path / "train", ("cat",))
    (root / ".DS_Store").write_bytes(b"x")
    expected = hashlib.sha256(digest(8).encode())
    for name in (".DS_Store", "cat/0.png", "cat/2.png", "cat/deep/1.png"):
        expected.update(name.encode() + (root / name).read_bytes())
    spec = DataSpec(source="image_folder", train=str(root), image_size=8)
    assert fingerprint(spec, "train") == expected.hexdigest()[:16]


def test_the_hash_of_large_files_follows_names_sizes_and_times(tmp_path, monkeypatch):
    monkeypatch.setattr(_paths, "_HASHED_BYTES", 10)
    root = write_folder(tmp_path / "train")
    spec = DataSpec(source="image_folder", train=str(root), image_size=8)
    monkeypatch.setattr(_paths.Path, "open", lambda *args: pytest.fail("content was read"))
    first = fingerprint(spec, "train")
    assert fingerprint(spec, "train") == first
    assert fingerprint(DataSpec(source="image_folder", train=str(root), image_size=9), "train") != first
    os.utime(root / "cat" / "0.png", ns=(1, 1))
    assert fingerprint(spec, "train") != first
