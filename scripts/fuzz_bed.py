"""What generated inputs are tried on: a small study with real networks, its files, images, and an input among them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image

from autoprune.api import _planning
from autoprune.config import TrialSpec
from autoprune.engine.files import PhaseStore
from autoprune.pipeline import open_workbench, run_trial
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle, Proposal

__all__ = ["NAME", "Bed", "Input", "make_bed"]

NAME = "tiny"
_STUDY = """
[study]
name = "tiny"
n_trials = 9

[space]
methods = ["magnitude", "slimming"]
macs_target = { low = 0.2, high = 0.9 }

[method.slimming]
strength = { low = 1e-4, high = 1e-2, scale = "log" }

[network]
architecture = "resnet_digits"

[data]
source = "digits"
validation = "random:0.25"

[train.dense]
epochs = 0.2

[train.finetune]
epochs = 0.05

[engine]
precision = "float32"
artifacts = "artifacts"
recalibration_images = 64
"""
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "JPEG2000", "DDS", "SGI", "PCX")


@dataclass(frozen=True)
class Bed:
    """A folder with everything that is read, whole.

    Args:
        folder: Holds ``study.toml``, ``space.toml``, ``autoprune.db``, ``artifacts``, ``weights``, ``images`` and
            ``train.parquet``.
    """

    folder: Path

    @property
    def url(self) -> str:
        """The database's."""
        return f"sqlite:///{self.folder / 'autoprune.db'}"

    @property
    def networks(self) -> list[Path]:
        """The weights of the finished trials."""
        return sorted((self.folder / "artifacts" / "trials" / NAME).glob("*.safetensors"))

    @property
    def phases(self) -> list[Path]:
        """The weights of the cached phases."""
        return sorted((self.folder / "artifacts" / "phases").glob("*.safetensors"))

    @property
    def weights(self) -> list[Path]:
        """Weights of the dense network, in every kind of file that is read."""
        return sorted((self.folder / "weights").iterdir())

    @property
    def images(self) -> list[Path]:
        """Images of many formats, one class."""
        return sorted((self.folder / "images" / "a").iterdir())

    def study(self, **tables: str) -> str:
        """The text of a study file; a table given by name replaces the bed's own, and an empty one leaves it out."""
        own = {part.partition("]")[0]: part for part in _STUDY.split("\n[") if part.strip()}
        own |= {name: f"{name}]\n{text}\n" for name, text in tables.items()}
        return "".join(f"[{part}\n" for name, part in own.items() if tables.get(name, "x"))

    def spec(self, tables: str) -> _planning.SettingSpec:
        """What a study file says of network and data."""
        path = self.folder / "spec.toml"
        path.write_text(tables)
        return _planning.load_setting(path)


@dataclass(frozen=True)
class Input:
    """One generated input.

    Args:
        arguments: The command that reads it; in the bed's folder.
        files: Laid into the bed before, by their place in it; what was there comes back.
        read: Reads it as the command does, without what the command does besides; the command where there is none.
    """

    arguments: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    read: Callable[[], Any] | None = None

    @contextmanager
    def laid_into(self, bed: Bed) -> Iterator[None]:
        """The bed with the input's files in it."""
        before = {place: (bed.folder / place).read_bytes() for place in self.files if (bed.folder / place).is_file()}
        try:
            for place, data in self.files.items():
                (bed.folder / place).parent.mkdir(parents=True, exist_ok=True)
                (bed.folder / place).write_bytes(data)
            yield
        finally:
            for place in self.files:
                if place in before:
                    (bed.folder / place).write_bytes(before[place])
                else:
                    (bed.folder / place).unlink(missing_ok=True)


def make_bed(folder: Path, *, n_trials: int = 3) -> Bed:
    """Run a study of seconds, and lay out the other files.

    Args:
        folder: Empty.
        n_trials: Trials that are run; one more fails and one is left running.
    """
    bed = Bed(folder)
    (folder / "study.toml").write_text(_STUDY)
    (folder / "space.toml").write_text(_space())
    network = _run(bed, n_trials)
    _write_weights(folder / "weights", network.state_dict())
    _write_images(folder / "images")
    shutil.copytree(folder / "images" / "a", folder / "images" / "b")
    _write_parquet(folder / "train.parquet")
    return bed


def _space() -> str:
    text = _STUDY.partition("[space]")[2].partition("[network]")[0]
    return f"[space]{text}"


def _run(bed: Bed, n_trials: int) -> torch.nn.Module:
    config = _planning.load_config(bed.folder / "study.toml")
    workbench = open_workbench(config.setting)
    db = Database.open(bed.url, create=True)
    study = StudyHandle.create_or_join(
        db,
        name=NAME,
        identity=_planning.identity_of(config, workbench),
        config={"config": config.to_dict(), "cost": workbench.traced.cost.to_dict()},
        directions=config.study.directions,
        objectives=config.study.objectives,
    )
    lifecycle = Lifecycle(study, owner="here:1:abc", n_trials=config.study.n_trials, grace_s=10**9)
    phases = PhaseStore(Path(config.setting.artifacts) / "phases")
    for index in range(n_trials + 2):
        point = {"method": "magnitude", "width_rule": "uniform", "macs_target": 0.3 + 0.1 * index}
        claim = lifecycle.claim(Proposal(params={}, distributions={}, key=str(index), attrs={"point": point}))
        assert isinstance(claim, Claim)
        if index < n_trials:
            spec = TrialSpec(setting=config.setting, study=NAME, number=claim.number, **point)
            result = run_trial(spec, lambda report: None, phases)
            lifecycle.complete(claim.trial_id, (result.score, result.macs_ratio), result.to_dict())
        elif index == n_trials:
            lifecycle.failed(claim.trial_id, "the loss became nan")
    study.enter("here:1:abc")
    db.close()
    return workbench.network


def _write_weights(folder: Path, state: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    state = {name: tensor.clone() for name, tensor in state.items()}
    save_file(state, folder / "dense.safetensors")
    torch.save(state, folder / "dense.pt")
    torch.save({"epoch": 3, "model": state, "optimizer": {"state": {}, "param_groups": []}}, folder / "checkpoint.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)


def encoded(rng: Random, kind: str, *, mode: str | None = None, size: int = 8) -> bytes:
    """A small image of noise in one of the formats that Pillow writes, in one of its modes."""
    modes = {"JPEG": ("RGB", "L", "CMYK"), "PPM": ("RGB", "L"), "JPEG2000": ("RGB", "L"), "PCX": ("RGB", "L", "P")}
    usual = ("RGB", "L", "P", "RGBA") if kind in ("PNG", "TIFF") else ("RGB",)
    mode = mode or rng.choice(modes.get(kind, usual))
    pixels = np.frombuffer(rng.randbytes(size * size * 4), np.uint8).reshape(size, size, 4)
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image if mode == "RGBA" else image.convert("RGB").convert(mode)).save(file, kind)
    return file.getvalue()


def _write_images(folder: Path) -> None:
    rng = Random("images")
    (folder / "a").mkdir(parents=True)
    for kind in _FORMATS:
        ending = next(end for end, name in Image.registered_extensions().items() if name == kind)
        (folder / "a" / f"{kind}{ending}").write_bytes(encoded(rng, kind))


def _write_parquet(path: Path) -> None:
    rng = Random("parquet")
    images = [{"bytes": encoded(rng, "PNG", mode="L"), "path": None} for _ in range(12)]
    pyarrow.parquet.write_table(pyarrow.table({"img": images, "label": [i % 3 for i in range(12)]}), path)


def record_of(path: Path) -> dict[str, Any]:
    """The JSON beside a file of weights."""
    record: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return record
