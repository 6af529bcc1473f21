"""Splits are disjoint, complete and the same everywhere; the test split stays shut; augmentation is what it says."""

import dataclasses
import io
import json
import multiprocessing
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from autoprune.config import DataSpec
from autoprune.engine.images import Preprocess, _contract, _factory, _image_folder, augment, load_splits, load_test
from autoprune.engine.images import splits as data
from autoprune.engine.images._parquet import Parquet
from autoprune.engine.images.sources import source_of
from autoprune.errors import ConfigError, DataError

torch.set_num_threads(1)


def write_parquet(path, n=20, seed=0, size=4, labels=None):
    images = np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    rows = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue()})
    labels = [i % 4 for i in range(n)] if labels is None else labels
    pq.write_table(pa.table({"img": rows, "label": labels}), path)
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def write_folder(root, classes=("cat", "dog"), each=4, seed=0):
    generator = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(each):
            pixels = generator.integers(0, 256, (6 + i, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return str(root)


def everything(images, batch=7):
    return torch.cat(list(images.read(torch.arange(len(images)).split(batch))))


@pytest.fixture
def parquet(tmp_path):
    images = write_parquet(tmp_path / "train.parquet")
    write_parquet(tmp_path / "test.parquet", n=6, seed=1)
    spec = DataSpec(
        source="parquet", train=str(tmp_path / "train.parquet"), test=str(tmp_path / "test.parquet"),
        validation="random:0.25",
    )  # fmt: skip
    return spec, images, tmp_path / "held"


# -- splits ---------------------------------------------------------------------------------------------------------


def test_the_last_images_are_held_out(parquet):
    spec, images, folder = parquet
    splits = load_splits(dataclasses.replace(spec, validation="last:6"), folder=folder)
    assert torch.equal(everything(splits.train), images[:14])
    assert torch.equal(everything(splits.validation), images[14:])
    assert splits.train.labels.tolist() == [i % 4 for i in range(14)]
    assert splits.validation.labels.tolist() == [i % 4 for i in range(14, 20)]
    assert (splits.n_classes, splits.train.shape, len(splits.train)) == (4, (3, 4, 4), 14)


@pytest.mark.parametrize(("share", "held"), [("0.25", 5), ("0.1", 2), ("0.9", 18), ("0.03", 1)])
def test_a_random_share_is_held_out(parquet, share, held):
    spec, images, folder = parquet
    splits = load_splits(dataclasses.replace(spec, validation=f"random:{share}"), folder=folder)
    sides = [everything(splits.train), everything(splits.validation)]
    assert [len(side) for side in sides] == [20 - held, held]
    places = [[int((images == image).flatten(1).all(1).nonzero()) for image in side] for side in sides]
    assert sorted(places[0] + places[1]) == list(range(20))
    assert places == [sorted(side) for side in places]
    assert places[1] != list(range(20 - held, 20))
    assert [split.labels.tolist() for split in (splits.train, splits.validation)] == [
        [place % 4 for place in side] for side in places
    ]


def test_other_data_and_other_shares_are_split_differently():
    sides = [data._split(100, rule, content)[1].tolist() for rule, content in
             (("random:0.25", "a"), ("random:0.25", "b"), ("random:0.250", "a"), ("random:0.25", "a"))]  # fmt: skip
    assert sides[0] == sides[3]
    assert len({tuple(side) for side in sides}) == 3


def _split_in_child(spec, folder, answers):
    splits = load_splits(spec, folder=folder)
    answers.put((splits.fingerprint, splits.indices_digest, splits.validation.labels.tolist()))


# Its children use neither the threads of pytest-xdist nor those of Ray that they are told of.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_another_process_splits_alike(parquet, tmp_path):
    """Even one that decodes the data itself, and both at the same time."""
    spec, _, _ = parquet
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    for folders in ((tmp_path / "a", tmp_path / "a"), (tmp_path / "b", tmp_path / "c")):
        workers = [context.Process(target=_split_in_child, args=(spec, folder, answers)) for folder in folders]
        for worker in workers:
            worker.start()
        got = [answers.get() for _ in workers]
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0]
        splits = load_splits(spec, folder=folders[0])
        expected = (splits.fingerprint, splits.indices_digest, splits.validation.labels.tolist())
        assert got == [expected, expected]
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_the_digest_follows_the_rule_and_the_fingerprint_the_content(parquet, tmp_path):
    spec, _, folder = parquet
    first = load_splits(spec, folder=folder)
    other_rule = load_splits(dataclasses.replace(spec, validation="last:5"), folder=folder)
    assert other_rule.fingerprint == first.fingerprint
    assert other_rule.indices_digest != first.indices_digest
    moved = tmp_path / "moved.parquet"
    moved.write_bytes((tmp_path / "train.parquet").read_bytes())
    same = load_splits(dataclasses.replace(spec, train=str(moved)), folder=folder)
    assert (same.fingerprint, same.indices_digest) == (first.fingerprint, first.indices_digest)
    write_parquet(moved, seed=5)
    changed = load_splits(dataclasses.replace(spec, train=str(moved)), folder=folder)
    assert changed.fingerprint != first.fingerprint
    other_test = tmp_path / "other_test.parquet"
    write_parquet(other_test, n=6, seed=9)
    assert load_splits(dataclasses.replace(spec, test=str(other_test)), folder=folder).fingerprint != first.fingerprint
    assert json.loads(json.dumps(first.fingerprint)) == first.fingerprint


def test_the_test_split_is_never_decoded(parquet, monkeypatch):
    spec, _, folder = parquet
    read = []
    inherited = Parquet.read
    monkeypatch.setattr(Parquet, "read", lambda self, spec, part: read.append(part) or inherited(self, spec, part))
    load_splits(spec, folder=folder)
    assert read == ["train"]
    (folder.parent / "test.parquet").write_bytes(b"not even Parquet")
    load_splits(spec, folder=folder)
    assert read == ["train"]


def test_the_test_split_on_its_own(parquet):
    spec, _, folder = parquet
    images = write_parquet(folder.parent / "test.parquet", n=6, seed=1)
    splits = load_splits(spec, folder=folder)
    held, content = load_test(spec, splits, folder=folder)
    assert torch.equal(everything(held), images)
    assert held.labels.tolist() == [0, 1, 2, 3, 0, 1]
    assert content == source_of(spec).fingerprint(spec, "test") != source_of(spec).fingerprint(spec, "train")
    with pytest.raises(ConfigError, match=r"must have a test split to be scored on, but it names no `test`\. Add it"):
        load_test(dataclasses.replace(spec, test=None), splits, folder=folder)


def test_digits_have_both_parts(tmp_path):
    spec = DataSpec(source="digits", validation="last:437")
    splits = load_splits(spec, folder=tmp_path)
    test, _ = load_test(spec, splits, folder=tmp_path)
    assert (len(splits.train), len(splits.validation), len(test)) == (1000, 437, 360)
    assert (splits.n_classes, splits.train.shape) == (10, (1, 8, 8))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": 5}, r"shape \(3, 4, 4\) with labels below 4, but holds images of shape \(3, 5, 5\)"),
        ({"labels": [0, 1, 2, 4]}, r".*with labels below 4, but holds images of shape \(3, 4, 4\) with labels up to 4"),
    ],
)
def test_a_test_split_of_another_kind(parquet, options, told):
    spec, _, folder = parquet
    write_parquet(folder.parent / "test.parquet", n=4, seed=7, **options)
    with pytest.raises(DataError, match=rf"\[data\] `test` must be like the training set, images of {told}"):
        load_test(spec, load_splits(spec, folder=folder), folder=folder)


def test_fewer_labels_than_were_trained_on_are_fine(parquet):
    spec, _, folder = parquet
    write_parquet(folder.parent / "test.parquet", n=4, seed=7, labels=[2, 0, 0, 2])
    assert load_test(spec, load_splits(spec, folder=folder), folder=folder)[0].labels.tolist() == [2, 0, 0, 2]


def test_what_was_trained_or_chosen_on_is_no_test_split(parquet):
    """Also where the files were changed after the study was launched."""
    spec, _, folder = parquet
    chosen = folder.parent / "validation.parquet"
    write_parquet(chosen, n=5, seed=7)
    spec = dataclasses.replace(spec, validation=str(chosen))
    splits = load_splits(spec, folder=folder)
    for part, path in (("train", folder.parent / "train.parquet"), ("validation", chosen)):
        (folder.parent / "test.parquet").write_bytes(path.read_bytes())
        with pytest.raises(DataError, match=rf"`{part}` and `test` hold the same data\. A test split must be its own"):
            load_test(spec, splits, folder=folder)


def test_a_validation_file(parquet, tmp_path):
    spec, images, folder = parquet
    held = write_parquet(tmp_path / "validation.parquet", n=5, seed=7)
    splits = load_splits(dataclasses.replace(spec, validation=str(tmp_path / "validation.parquet")), folder=folder)
    assert torch.equal(everything(splits.train), images)
    assert torch.equal(everything(splits.validation), held)
    write_parquet(tmp_path / "validation.parquet", n=5, seed=8)
    again = load_splits(dataclasses.replace(spec, validation=str(tmp_path / "validation.parquet")), folder=folder)
    assert again.indices_digest != splits.indices_digest


def test_a_validation_folder_shares_the_labels(tmp_path):
    spec = DataSpec(
        source="image_folder", image_size=5, train=write_folder(tmp_path / "train", ("ant", "cat", "dog")),
        validation=write_folder(tmp_path / "validation", ("dog",), seed=1),
    )  # fmt: skip
    splits = load_splits(spec, folder=tmp_path / "held")
    assert splits.n_classes == 3
    assert splits.validation.labels.tolist() == [2, 2, 2, 2]


# -- what is refused ------------------------------------------------------------------------------------------------


def test_one_data_set_for_two_parts(parquet, tmp_path):
    spec, _, folder = parquet
    copy = tmp_path / "copy.parquet"
    copy.write_bytes((tmp_path / "train.parquet").read_bytes())
    with pytest.raises(DataError, match=r"`train` and `test` hold the same data\. A test split must be its own"):
        load_splits(dataclasses.replace(spec, test=str(copy)), folder=folder)
    with pytest.raises(DataError, match="`validation` holds the same data as the training or the test set"):
        load_splits(dataclasses.replace(spec, validation=str(copy)), folder=folder)
    copy.write_bytes((tmp_path / "test.parquet").read_bytes())
    with pytest.raises(DataError, match="`validation` holds the same data as the training or the test set"):
        load_splits(dataclasses.replace(spec, validation=str(copy)), folder=folder)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": 5}, r"shape \(3, 4, 4\) with labels below 4, but holds images of shape \(3, 5, 5\)"),
        ({"labels": [0, 1, 2, 4]}, r".*with labels below 4, but holds images of shape \(3, 4, 4\) with labels up to 4"),
    ],
)
def test_a_validation_file_of_another_kind(parquet, tmp_path, options, told):
    spec, _, folder = parquet
    write_parquet(tmp_path / "validation.parquet", n=4, seed=7, **options)
    with pytest.raises(DataError, match=rf"\[data\] `validation` must be like the training set, images of {told}"):
        load_splits(dataclasses.replace(spec, validation=str(tmp_path / "validation.parquet")), folder=folder)


@pytest.mark.parametrize(("rule", "held"), [("last:20", 20), ("last:21", 21), ("random:0.01", 0), ("random:0.99", 20)])
def test_rules_that_leave_a_side_empty(parquet, rule, held):
    spec, _, folder = parquet
    with pytest.raises(ConfigError, match=f"leave images on both sides, but '{rule}' holds out {held} of 20 images"):
        load_splits(dataclasses.replace(spec, validation=rule), folder=folder)


@pytest.mark.parametrize("rule", ["last:many", "random:", "random:nan", "random:inf", "last:0.5"])
def test_rules_that_are_none(rule):
    """The study file is checked before; a spec may be made otherwise."""
    with pytest.raises(
        ConfigError, match=f'must look like "last:5000" or "random:0.1", or be a path, but got \'{rule}\''
    ):
        data._split(20, rule, "print")


def test_missing_files_and_rules(parquet, tmp_path):
    spec, _, folder = parquet
    with pytest.raises(DataError, match=r"`validation`: there is nothing at .*gone\.parquet\. Check the path"):
        load_splits(dataclasses.replace(spec, validation=str(tmp_path / "gone.parquet")), folder=folder)
    with pytest.raises(DataError, match=r"`test`: there is nothing at .*gone\.parquet"):
        load_splits(dataclasses.replace(spec, test=str(tmp_path / "gone.parquet")), folder=folder)


@pytest.mark.parametrize("numbers", [{"mean": (0.5,) * 3}, {"std": (0.5,) * 3}, {"mean": (0.5,), "std": (0.5,)}])
def test_mean_and_deviation_come_together_one_a_channel(parquet, numbers):
    spec, _, folder = parquet
    with pytest.raises(ConfigError, match=r"\[data\] `mean` and `std` must both hold 3 numbers, one per image channel"):
        load_splits(dataclasses.replace(spec, **numbers), folder=folder)


# -- what is kept on disk -------------------------------------------------------------------------------------------


def test_images_are_decoded_once(parquet, monkeypatch):
    spec, images, folder = parquet
    first = load_splits(spec, folder=folder)
    monkeypatch.setattr(Parquet, "read", lambda self, spec, part: pytest.fail("decoded again"))
    again = load_splits(dataclasses.replace(spec, validation="last:2"), folder=folder)
    assert torch.equal(everything(again.train), images[:18])
    assert sorted(path.suffix for path in folder.iterdir()) == [".npy", ".npy"]
    assert first.fingerprint == again.fingerprint


def test_images_of_another_reading_are_not_taken_from_the_disk(parquet, monkeypatch):
    """What was decoded before files came to be read as viewers show them."""
    spec, images, folder = dataclasses.replace(parquet[0], validation="last:6"), *parquet[1:]
    first = load_splits(spec, folder=folder)
    for path in folder.glob("*.images.npy"):
        np.save(path, np.load(path) * 0)
    monkeypatch.setattr(_contract, "READING", 10_000)
    again = load_splits(spec, folder=folder)
    assert torch.equal(everything(again.train), images[:14])
    assert (again.fingerprint, again.indices_digest) == (first.fingerprint, first.indices_digest)


def test_half_a_decoding_is_done_again(parquet):
    spec, _, folder = parquet
    load_splits(spec, folder=folder)
    next(folder.glob("*.labels.npy")).unlink()
    (folder / "x.images.tmp.npy").write_bytes(b"left by a process that was killed")
    splits = load_splits(dataclasses.replace(spec, validation="last:2"), folder=folder)
    assert splits.train.labels.tolist() == [i % 4 for i in range(18)]


def test_two_label_columns_of_one_file_do_not_share_labels(parquet, tmp_path):
    spec, _, folder = parquet
    table = pq.read_table(tmp_path / "train.parquet")
    table = table.append_column("coarse", pa.array([7] * 20))
    pq.write_table(table, tmp_path / "both.parquet")
    both = dataclasses.replace(spec, train=str(tmp_path / "both.parquet"), test=None)
    fine = load_splits(both, folder=folder)
    coarse = load_splits(dataclasses.replace(both, label_column="coarse"), folder=folder)
    assert fine.n_classes == 4
    assert coarse.train.labels.tolist() == [7] * 15
    assert fine.fingerprint != coarse.fingerprint


def test_two_sizes_of_one_folder_do_not_share_images(tmp_path):
    spec = DataSpec(source="image_folder", train=write_folder(tmp_path / "train"), image_size=5, validation="last:2")
    small = load_splits(spec, folder=tmp_path / "held")
    large = load_splits(dataclasses.replace(spec, image_size=6), folder=tmp_path / "held")
    assert (small.train.shape, large.train.shape) == ((3, 5, 5), (3, 6, 6))
    assert small.fingerprint != large.fingerprint


def test_writing_to_a_batch_does_not_reach_the_held_images(parquet):
    spec, images, folder = parquet
    splits = load_splits(dataclasses.replace(spec, validation="last:6"), folder=folder)
    for batch in splits.train.read([torch.arange(5)]):
        batch.zero_()
    assert torch.equal(everything(splits.train), images[:14])


def test_subsets_of_subsets(parquet):
    spec, images, folder = parquet
    splits = load_splits(dataclasses.replace(spec, validation="last:6"), folder=folder)
    part = splits.validation.subset(torch.tensor([5, 0, 3])).subset(torch.tensor([2, 0]))
    assert torch.equal(everything(part), images[[17, 19]])
    assert part.labels.tolist() == [1, 3]


def test_a_factory_is_called_once_for_the_hash_and_once_to_decode(tmp_path, monkeypatch):
    calls = []

    def make():
        calls.append(1)
        images = np.arange(8 * 16, dtype=np.uint8).reshape(8, 1, 4, 4)
        return {"train": (images, np.arange(8) % 2), "test": (images[:2] + 1, [0, 1])}

    monkeypatch.setattr(_factory, "call_factory", lambda name, key: make())
    spec = DataSpec(source="factory", factory="own.module:make", validation="last:2")
    splits = load_splits(spec, folder=tmp_path)
    assert (len(splits.train), len(splits.validation), splits.n_classes) == (6, 2, 2)
    assert len(calls) == 2
    load_splits(spec, folder=tmp_path)
    assert len(calls) == 3
    assert everything(load_test(spec, splits, folder=tmp_path)[0])[0, 0, 0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("parts", [["train"], ["train", "test"]])
def test_a_factory_without_a_test_split_of_its_own(tmp_path, monkeypatch, parts):
    arrays = np.arange(8 * 16, dtype=np.uint8).reshape(8, 1, 4, 4), np.arange(8) % 2
    monkeypatch.setattr(_factory, "call_factory", lambda name, key: dict.fromkeys(parts, arrays))
    spec = DataSpec(source="factory", factory="own.module:make", validation="last:2")
    splits = load_splits(spec, folder=tmp_path)
    if "test" in parts:
        with pytest.raises(DataError, match="`train` and `test` hold the same data"):
            load_test(spec, splits, folder=tmp_path)
    else:
        with pytest.raises(
            ConfigError, match=r"but the factory 'own\.module:make' returns no 'test'\. Add it and launch"
        ):
            load_test(spec, splits, folder=tmp_path)


# -- folders too large to hold --------------------------------------------------------------------------------------


@pytest.fixture
def folder_spec(tmp_path):
    return DataSpec(source="image_folder", train=write_folder(tmp_path / "train"), image_size=5, validation="last:3")


def test_a_large_folder_reads_the_same_images(folder_spec, tmp_path, monkeypatch):
    held = load_splits(folder_spec, folder=tmp_path / "held")
    monkeypatch.setattr(_image_folder, "_HELD_BYTES", 100)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    read = load_splits(folder_spec, folder=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert (read.fingerprint, read.indices_digest, read.preprocess) == (
        held.fingerprint, held.indices_digest, held.preprocess,
    )  # fmt: skip
    for one, other in ((read.train, held.train), (read.validation, held.validation)):
        assert one.shape == other.shape
        assert torch.equal(one.labels, other.labels)
        batches = [torch.tensor([2, 0]), torch.tensor([1])]
        got, expected = list(one.read(batches)), list(other.read(batches))
        assert [len(batch) for batch in got] == [2, 1]
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_an_image_of_a_large_folder_that_is_none_is_told_in_one_sentence(folder_spec, tmp_path, monkeypatch):
    monkeypatch.setattr(_image_folder, "_HELD_BYTES", 100)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    images = load_splits(folder_spec, folder=tmp_path / "none").train
    for path in (tmp_path / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"^\S+\.png: this must be an image, but it is empty\. Replace or remove it\.$"):
        list(images.read([torch.tensor([1, 0])]))


def test_reading_a_large_folder_draws_nothing_and_runs_ahead_a_little(folder_spec, tmp_path, monkeypatch):
    monkeypatch.setattr(_image_folder, "_HELD_BYTES", 100)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    splits = load_splits(folder_spec, folder=tmp_path / "none")
    asked = []

    def batches():
        for i in range(1_000):
            asked.append(i)
            yield torch.tensor([i % 5])

    torch.manual_seed(0)
    before = torch.get_rng_state()
    reading = splits.train.read(batches())
    next(reading)
    reading.close()
    assert torch.equal(torch.get_rng_state(), before)
    assert len(asked) < 10


# -- normalisation --------------------------------------------------------------------------------------------------


def test_mean_and_deviation_of_the_training_images(parquet):
    spec, images, folder = parquet
    splits = load_splits(dataclasses.replace(spec, validation="last:6"), folder=folder)
    pixels = images[:14].double() / 255
    assert splits.preprocess.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert splits.preprocess.std == pytest.approx(pixels.std((0, 2, 3)).tolist(), rel=1e-12)
    given = load_splits(dataclasses.replace(spec, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)), folder=folder)
    assert given.preprocess == Preprocess((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def test_large_data_is_sampled_evenly(parquet, monkeypatch):
    spec, images, folder = parquet
    spec = dataclasses.replace(spec, validation="last:6")
    for name, value in (("_SAMPLED_IMAGES", 4), ("_SAMPLED_BYTES", 4 * 48 + 1)):
        with monkeypatch.context() as patched:
            patched.setattr(data, name, value)
            splits = load_splits(spec, folder=folder)
        pixels = images[[0, 4, 8, 13]].double() / 255
        assert splits.preprocess.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-12)
        assert splits.preprocess.std == pytest.approx(pixels.std((0, 2, 3)).tolist(), rel=1e-12)


def test_images_of_one_colour_do_not_divide_by_zero(tmp_path, monkeypatch):
    images = np.full((4, 1, 4, 4), 51, dtype=np.uint8)
    monkeypatch.setattr(_factory, "call_factory", lambda name, key: {"train": (images, [0, 1, 0, 1])})
    spec = DataSpec(source="factory", factory="own.module:make", validation="last:1")
    splits = load_splits(spec, folder=tmp_path)
    assert splits.preprocess == Preprocess((0.2,), (1e-3,))


def test_preprocessing():
    images = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    out = Preprocess((0.5, 0.2), (0.25, 0.1))(images, torch.device("cpu"))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.tensor([[[[-2.0, 2.0]], [[0.0, 2.0]]]]), rtol=1e-6, atol=1e-6)
    batch = Preprocess((0.5,) * 3, (0.5,) * 3)(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.device("cpu"))
    assert batch.is_contiguous(memory_format=torch.channels_last)


# -- augmentation ---------------------------------------------------------------------------------------------------


def one_by_one(images, kind, generator):
    n, channels, height, width = images.shape
    pad = max(1, height // 8)
    offsets = torch.randint(0, 2 * pad + 1, (n, 2), generator=generator)
    flips = torch.rand(n, generator=generator) < 0.5 if kind == "crop_flip" else [False] * n
    out = torch.zeros_like(images)
    for i, (image, (down, right), flip) in enumerate(zip(images, offsets.tolist(), flips, strict=True)):
        padded = torch.zeros(channels, height + 2 * pad, width + 2 * pad, dtype=images.dtype)
        padded[:, pad : pad + height, pad : pad + width] = image
        crop = padded[:, down : down + height, right : right + width]
        out[i] = crop.flip(2) if flip else crop
    return out


@pytest.mark.parametrize("kind", ["shift", "crop_flip"])
@pytest.mark.parametrize("shape", [(33, 1, 8, 8), (20, 3, 32, 32), (5, 2, 7, 20), (1, 3, 3, 3)])
def test_augmentation_equals_a_loop_over_images(kind, shape):
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    before = images.clone()
    got = augment(images, kind, torch.Generator().manual_seed(7))
    assert (got.shape, got.dtype) == (images.shape, torch.uint8)
    assert torch.equal(got, one_by_one(images, kind, torch.Generator().manual_seed(7)))
    assert torch.equal(images, before)


def test_augmentation_draws_evenly():
    """An image of one bright pixel: nine places are equally likely, and half are flipped."""
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    image[0, 0, 3, 3] = 255
    out = augment(image.expand(9_000, 1, 8, 8), "crop_flip", torch.Generator().manual_seed(0))
    places, counts = out.flatten(1).argmax(1).unique(return_counts=True)
    assert places.tolist() == [8 * row + column for row in (2, 3, 4) for column in (2, 3, 4, 5)]
    by_column = counts.reshape(3, 4).sum(0)
    # Columns 2, 3, 4 unflipped and 5, 4, 3 flipped, each 1,500 times.
    assert by_column.tolist() == pytest.approx([1500, 3000, 3000, 1500], rel=0.1)
    assert counts.reshape(3, 4).sum(1).tolist() == pytest.approx([3000] * 3, rel=0.1)


def test_no_augmentation_is_the_very_batch_and_draws_nothing():
    images, generator = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert augment(images, "none", generator) is images
    assert torch.equal(generator.get_state(), before)
