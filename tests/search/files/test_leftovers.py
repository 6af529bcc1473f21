"""What nobody will come back for, and all that only looks like it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from autoprune.search.files import driver_signs, own_phases, remove_scratch, stale_scratch, stray_files, temporary_files
from autoprune.search.files.leftovers import DriverSigns
from autoprune.search.files.retention import Holding
from autoprune.search.phases import PhaseRows
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Attr, Claim, Lifecycle, Proposal, new_owner

DIRECTIONS = ["maximize", "minimize"]
HEX = "0123456789abcdef" * 2


def aged(path: Path, *, hours: float) -> Path:
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))
    return path


# Files of trials


@pytest.mark.parametrize(
    ("state", "strays"),
    [
        (TrialState.COMPLETE, ["00003.json.{}.tmp", "00003.safetensors.{}.tmp"]),
        (TrialState.RUNNING, []),
        (TrialState.WAITING, []),
        (TrialState.FAIL, None),
        (TrialState.PRUNED, None),
        (None, None),  # unknown
    ],
)
def test_files_of_trials_without_a_result(state: TrialState | None, strays: list[str] | None) -> None:
    folder = Path("/networks")
    names = ["00003.json", "00003.json.{}.tmp", "00003.safetensors", "00003.safetensors.{}.tmp"]
    files = [folder / name.format(HEX) for name in names]
    values = (0.9, 0.5) if state is TrialState.COMPLETE else None
    path = str(folder / "00003.safetensors") if state is TrialState.COMPLETE else None
    trials = [] if state is None else [Holding(3, state, values, path=path)]
    found = [path.name for path in stray_files(files, trials)]
    assert found == [name.format(HEX) for name in (names if strays is None else strays)]


def test_what_is_no_file_of_a_trial_is_left_alone() -> None:
    names = [
        "notes.txt",
        "best.safetensors",
        "00003.safetensors.bak",
        "3.json.part",
        ".00003.json",
        "00003.pt",
        "00004",
    ]
    assert stray_files([Path("/networks") / name for name in names], []) == []


def test_what_another_trial_took_over_stays() -> None:
    file = Path("/networks/00003.safetensors")
    taken = Holding(5, TrialState.COMPLETE, (0.9, 0.5), path=str(file))
    assert stray_files([file, file.with_suffix(".json")], [Holding(3, TrialState.FAIL), taken]) == []


def test_a_complete_trial_s_number_in_another_folder_is_not_its_file() -> None:
    moved = Holding(3, TrialState.COMPLETE, (0.9, 0.5), path="/old/00003.safetensors")
    assert stray_files([Path("/new/00003.json")], [moved]) == [Path("/new/00003.json")]


# Half-written files


def test_half_written_files_are_left_alone_for_an_hour(tmp_path: Path) -> None:
    for name in ("a.safetensors.1f.tmp", "b.images.2e.tmp.npy", "c.safetensors", "d.npy"):
        (tmp_path / name).touch()
        aged(tmp_path / name, hours=2)
    (tmp_path / "fresh.json.3d.tmp").touch()
    aged(tmp_path / "fresh.json.3d.tmp", hours=0.9)
    (tmp_path / "folder.tmp").mkdir()
    aged(tmp_path / "folder.tmp", hours=2)
    assert [path.name for path in temporary_files(tmp_path)] == ["a.safetensors.1f.tmp", "b.images.2e.tmp.npy"]
    assert temporary_files(tmp_path / "none") == []


# Scratch folders


def dead_owner() -> str:
    """A driver of this machine whose process is no longer there."""
    place, _, _, name = new_owner().split("|")
    return f"{place}|999999999|1|{name}"


def scratch(folder: Path, name: str, owner: str | None, *, hours: float = 0.0) -> Path:
    made = folder / f"tune-{name}"
    made.mkdir(parents=True)
    (made / "state.json").touch()
    if owner is not None:
        (made / "owner").write_text(owner)
    for path in (made / "state.json", made):
        aged(path, hours=hours)
    return made


def test_scratch_of_drivers_that_ended(tmp_path: Path) -> None:
    signs = DriverSigns(alive=frozenset({"alive"}), ended=frozenset({"left"}))
    scratch(tmp_path, "left", "left")
    scratch(tmp_path, "dead", dead_owner())
    scratch(tmp_path, "alive", "alive", hours=99)
    scratch(tmp_path, "here", new_owner(), hours=99)
    scratch(tmp_path, "elsewhere", "another machine|1|1|x", hours=99)
    scratch(tmp_path, "nameless", None, hours=99)
    (tmp_path / "tune-file").touch()
    (tmp_path / "tune-link").symlink_to(tmp_path / "tune-left")
    (tmp_path / "other").mkdir()
    assert [path.name for path in stale_scratch(tmp_path, signs)] == ["tune-dead", "tune-left"]
    assert stale_scratch(tmp_path / "none", signs) == []


@pytest.mark.parametrize("n_done", range(4))
def test_scratch_whose_deletion_is_cut_short_goes_at_once(
    n_done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs = DriverSigns(alive=frozenset({"alive"}), ended=frozenset())
    made = scratch(tmp_path, "dead", dead_owner())
    (made / "study").mkdir()
    left = n_done
    with monkeypatch.context() as patched:

        def dying(real: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
                real(*args, **kwargs)

            return call

        patched.setattr(Path, "unlink", dying(Path.unlink))
        patched.setattr(Path, "rmdir", dying(Path.rmdir))
        patched.setattr(shutil, "rmtree", dying(shutil.rmtree))
        with contextlib.suppress(KeyboardInterrupt):
            remove_scratch(made)
        assert left < 0
    assert made.exists()
    assert stale_scratch(tmp_path, signs) == [made]
    remove_scratch(made)
    assert list(tmp_path.iterdir()) == []


def test_scratch_that_others_delete_too_is_no_error(tmp_path: Path) -> None:
    for i in range(20):
        folder = scratch(tmp_path, str(i), dead_owner())
        for k in range(30):
            (folder / f"part{k}").mkdir()
            (folder / f"part{k}" / "file").touch()
        with ThreadPoolExecutor(2) as pool:
            done = [pool.submit(remove_scratch, folder) for _ in range(2)]
        assert [each.exception() for each in done] == [None, None]
        assert not folder.exists()


def test_scratch_that_is_being_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".tune-new").mkdir()
    signs = DriverSigns(alive=frozenset(), ended=frozenset())
    assert stale_scratch(tmp_path, signs) == []
    aged(tmp_path / ".tune-new", hours=2)
    assert [path.name for path in stale_scratch(tmp_path, signs)] == [".tune-new"]


def test_scratch_without_a_name_goes_when_all_is_quiet(tmp_path: Path) -> None:
    quiet = DriverSigns(alive=frozenset(), ended=frozenset())
    scratch(tmp_path, "old", None, hours=2)
    scratch(tmp_path, "fresh", None, hours=0.5)
    touched = scratch(tmp_path, "touched", None, hours=2)
    aged(touched / "state.json", hours=0.1)
    assert [path.name for path in stale_scratch(tmp_path, quiet)] == ["tune-old"]


def test_signs_of_drivers_of_all_studies(db: Database, study: StudyHandle, clock: Any) -> None:
    other = StudyHandle.create_or_join(db, name="other", identity={}, config={}, directions=DIRECTIONS)
    dead, here = dead_owner(), new_owner()
    study.enter("silent")
    clock.now += 3000
    study.enter("gone")
    study.leave("gone")
    study.enter(dead)
    other.enter("far away")
    other.enter(here)
    clock.now += 3000
    signs = driver_signs(study)
    assert signs.ended == {"silent", "gone", dead}
    assert signs.alive == {"far away", here}


# Phases


@pytest.fixture
def other(db: Database, study: StudyHandle) -> StudyHandle:
    return StudyHandle.create_or_join(db, name="other", identity={}, config={}, directions=DIRECTIONS)


def test_phases_that_no_other_study_used(db: Database, study: StudyHandle, other: StudyHandle) -> None:
    rows, here, there = PhaseRows(db), Path("/here/phases"), Path("/there/phases")

    def publish(key: str, kind: str = "sparsify", folder: Path = here) -> None:
        file = {"place": str(folder / f"{kind}-{key}.safetensors"), "sha256": "0", "size_bytes": 9}
        rows.publish(key, kind=kind, owner="me", **file)  # type: ignore[arg-type]

    def trial(of: StudyHandle, key: str, *, done: bool = True) -> None:
        lifecycle = Lifecycle(of, owner="me", n_trials=99)
        claim = lifecycle.claim(Proposal({}, {}, f"{of.name} {key}", {Attr.PHASE: key}))
        assert isinstance(claim, Claim)
        if done:
            lifecycle.complete(claim.trial_id, (0.9, 0.5), {})

    for key in ("own", "shared", "theirs", "in use", "nobody's"):
        publish(key)
    publish("dense", kind="dense")
    publish("far", folder=there)
    for key in ("own", "shared", "in use", "dense", "far", "never published"):
        trial(study, key)
    trial(study, "in use again", done=False)
    publish("in use again")
    trial(other, "shared")
    trial(other, "theirs")
    trial(other, "in use", done=False)
    assert [phase.key for phase in own_phases(study, rows, [here])] == ["own"]
    assert [phase.key for phase in own_phases(study, rows, [here, there])] == ["far", "own"]
    assert [phase.key for phase in own_phases(other, rows, [here])] == ["theirs"]
    assert own_phases(study, rows, []) == []
