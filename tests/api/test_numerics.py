"""A study has one precision and layout: its database's, else what was measured when it was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoprune import api
from autoprune.api import _kept, _numerics, _planning
from autoprune.config import Numerics, SettingSpec
from autoprune.distributed import Slots
from autoprune.errors import IdentityError
from autoprune.search.storage import Database, StudyHandle
from tests.conftest import FinishedStudy

HALF_PLAIN = Numerics("bfloat16", "contiguous")
SLOTS = Slots(concurrency=1, cpu=1, gpu=0, threads=1)


@pytest.fixture
def file(write_study: Callable[..., Path], tmp_path: Path, artifacts: Path) -> Path:
    return write_study(tmp_path, engine=f'artifacts = "{artifacts}"')


def measures(numerics: Numerics) -> Callable[[SettingSpec], SettingSpec]:
    return lambda setting: setting.computed_in(numerics)


def refuses(setting: SettingSpec) -> SettingSpec:
    raise AssertionError("nothing is to be measured")


def test_what_was_measured_is_stored_and_kept(file: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    db = Database.open(url, create=True)
    config, workbench, record = _numerics.settle(_planning.load_config(file), db, measures(HALF_PLAIN))
    assert config.setting.numerics == HALF_PLAIN
    assert workbench.identity["precision"] == record.identity["precision"] == "bfloat16"
    # A resume, and the same file launched again, here or elsewhere, measure nothing.
    assert api.open_study("digits", url).config == config
    again, _, joined = _numerics.settle(_planning.load_config(file), db, refuses)
    assert (again, joined.revision) == (config, 1)
    plan = api.plan(file, storage=url)
    assert plan.config.setting.numerics == HALF_PLAIN
    assert plan.inspection.computed_in == "bfloat16 contiguous"
    assert (plan.joins is not None, plan.joins and plan.joins.changed) == (True, ())
    # A layout that is asked for is another revision of the same study; another precision is another study.
    asked = dataclasses.replace(
        _planning.load_config(file),
        setting=dataclasses.replace(config.setting, precision="auto", layout="channels_last"),
    )
    laid, _, joined = _numerics.settle(asked, db, refuses)
    assert (laid.setting.numerics, joined.revision) == (Numerics("bfloat16"), 2)
    named = dataclasses.replace(config, setting=dataclasses.replace(config.setting, precision="float32"))
    with pytest.raises(IdentityError, match='`precision` is "bfloat16" there and "float32" here'):
        _numerics.settle(named, db, refuses)
    db.close()


def test_of_two_drivers_the_first_to_write_decides(file: Path, tmp_path: Path) -> None:
    db = Database.open(f"sqlite:///{tmp_path}/b.db", create=True)

    def overtaken(setting: SettingSpec) -> SettingSpec:
        _numerics.settle(_planning.load_config(file), db, measures(HALF_PLAIN))
        return setting.computed_in(Numerics())

    config, workbench, record = _numerics.settle(_planning.load_config(file), db, overtaken)
    assert config.setting.numerics == workbench.setting.numerics == HALF_PLAIN
    assert (record.revision, record.identity["precision"]) == (1, "bfloat16")
    db.close()


def test_a_study_from_before_goes_on_as_it_is_stored(finished: FinishedStudy, artifacts: Path) -> None:
    """Its file named no precision, which meant float32."""
    finished.file.write_text(finished.file.read_text().replace('precision = "float32"\n', ""))
    db = Database.open(finished.url, create=False)
    stored = StudyHandle.open(db, "digits").config
    config, _, record = _numerics.settle(_planning.load_config(finished.file), db, refuses)
    assert config.setting.precision == "float32"
    assert record.config["config"] == stored["config"]
    assert "layout" not in stored["config"]["setting"]
    db.close()


class InFloat32(nn.Module):
    """Trains in any precision, but fails in evaluation mode in all but float32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if not self.training and x.dtype is not torch.float32:
            raise RuntimeError("no answer in half precision")
        answer: Tensor = self.head(x.relu().mean((2, 3)))
        return answer


def in_float32() -> nn.Module:
    """What a study file's `factory` names."""
    return InFloat32()


def test_a_network_that_can_not_be_scored_in_what_was_chosen(
    write_study: Callable[..., Path], tmp_path: Path, artifacts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = {"network": f'factory = "{__name__}:in_float32"', "engine": f'artifacts = "{artifacts}"'}
    file, db = write_study(tmp_path, **tables), Database.open(f"sqlite:///{tmp_path}/c.db", create=True)
    config, _, _ = _numerics.settle(_planning.load_config(file), db, measures(HALF_PLAIN))
    assert config.setting.numerics == Numerics()
    assert "fails in bfloat16 contiguous: " in caplog.text
    assert "no answer in half precision" in caplog.text
    db.close()


def test_nothing_is_looked_up_where_there_is_no_database(file: Path, tmp_path: Path) -> None:
    config = _planning.load_config(file)
    assert _kept.kept_at(f"sqlite:///{tmp_path}/none.db", config) == config
    assert "measured for seconds by the launch" in api.inspect(file).computed_in
    assert not (tmp_path / "none.db").exists()


def test_a_measured_multiple_is_stored_and_kept(
    write_study: Callable[..., Path], tmp_path: Path, artifacts: Path
) -> None:
    tables = {
        "network": 'architecture = "resnet_digits"\nmultiple = "auto"',
        "engine": f'artifacts = "{artifacts}"\nprecision = "float32"\ncompile = "auto"',
    }
    url, file = f"sqlite:///{tmp_path}/m.db", write_study(tmp_path, **tables)
    db = Database.open(url, create=True)
    config, _, _ = _numerics.settle(
        _planning.load_config(file), db, lambda asked: dataclasses.replace(asked.with_multiple(8), compile=300)
    )
    assert api.open_study("digits", url).config == config
    again, workbench, joined = _numerics.settle(_planning.load_config(file), db, refuses)
    assert (again, joined.revision) == (config, 1)
    assert (workbench.limits().multiple, workbench.runtime.compiled_from) == (8, 300)
    db.close()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_multiples_are_timed_by_workers(write_study: Callable[..., Path], tmp_path: Path, artifacts: Path) -> None:
    class Notes(api.Progress):
        told: list[str] = []  # noqa: RUF012

        def note(self, text: str) -> None:
            self.told.append(text)

    tables = {
        "network": 'architecture = "resnet_digits"\nmultiple = "auto"',
        "engine": f'artifacts = "{artifacts}"\nprecision = "float32"\nthreads = 1\ncompile = "auto"',
    }
    setting = _planning.load_config(write_study(tmp_path, **tables)).setting
    settled = _numerics.measured(setting, slots=SLOTS, progress=Notes())
    assert settled.network.multiple in (1, 4, 8, 16)
    widths, compiling = Notes.told
    assert widths.startswith(("widths are multiples of ", "widths are of any kind, as measured"))
    if not torch.accelerator.is_available():
        assert (settled.compile, compiling) == (
            False, "networks are not compiled (nothing to measure on this device)",
        )  # fmt: skip


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_workers_are_timed(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Notes(api.Progress):
        told: list[str] = []  # noqa: RUF012

        def note(self, text: str) -> None:
            self.told.append(text)

    setting = dataclasses.replace(_planning.load_config(file).setting, threads=1, layout="contiguous")
    chosen = _numerics.measured(setting, slots=SLOTS, progress=Notes()).numerics
    (line,) = Notes.told
    assert line.startswith(f"computed in {chosen}, as measured; images trained a second by each trial: ")
    assert "bfloat16 contiguous " in line
    assert _numerics.warn_where_slow(setting.computed_in(Numerics()), slots=SLOTS) == 1.0
    factor = _numerics.warn_where_slow(setting.computed_in(HALF_PLAIN), slots=SLOTS)
    assert 0.05 < factor < 50
    assert ("in which training takes" in caplog.text) == (factor >= 1.3)
