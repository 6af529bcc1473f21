"""`autoprune clean`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def networks(finished: Any, write_study: Callable[..., Path], tmp_path: Path) -> Path:
    """Where the networks of a study lie whose artifacts no other test shares: two of failed and unknown trials."""
    import autoprune
    from autoprune.api._planning import load_config
    from autoprune.search.storage import Database, StudyHandle

    file = write_study(tmp_path, engine=f'artifacts = "{tmp_path}/artifacts"')
    db = Database.open(finished.url, create=False)
    record = StudyHandle.open(db, "digits")
    study = autoprune.Study(db, record)
    StudyHandle.create_or_join(
        db, name="digits", identity=record.identity, config=record.config | {"config": load_config(file).to_dict()},
        directions=record.directions, objectives=record.objectives,
    )  # fmt: skip
    assert study.config.setting.artifacts != f"{tmp_path}/artifacts"
    db.close()
    folder = tmp_path / "artifacts" / "trials" / "digits"
    folder.mkdir(parents=True)
    for number in (5, 6, 99):  # failed, running, unknown
        (folder / f"{number:05d}.safetensors").write_bytes(b"x" * 600)
    return folder


def ok(answer: Any) -> str:
    assert (answer.code, answer.err) == (0, "")
    return str(answer.out)


def test_what_goes_is_told_before_and_after(run: Run, finished: Any, networks: Path) -> None:
    told = "files of trials that failed or are unknown: 2, 1,200 bytes"
    assert ok(run("clean", "digits", "--dry-run", "--storage", finished.url)).splitlines() == [
        told,
        f"  {networks}/00005.safetensors",
        f"  {networks}/00099.safetensors",
        "1,200 bytes would be deleted; nothing was.",
    ]
    assert len(list(networks.iterdir())) == 3
    assert ok(run("clean", "digits", "--storage", finished.url)).splitlines() == [told, "1,200 bytes deleted."]
    assert [path.name for path in networks.iterdir()] == ["00006.safetensors"]
    assert ok(run("clean", "digits", "--phases", "--storage", finished.url)) == "there is nothing to delete.\n"


def test_cleaning_writes_to_no_database(run: Run, finished: Any, networks: Path) -> None:
    before = finished.database.read_bytes()
    ok(run("clean", "digits", "--storage", finished.url))
    ok(run("clean", "digits", "--phases", "--dry-run", "--storage", finished.url))
    assert finished.database.read_bytes() == before


def test_bad_input(run: Run, finished: Any) -> None:
    told = "there is no study 'digit'; did you mean 'digits'?"
    assert run("clean", "digit", "--storage", finished.url).is_refusal(told)
    assert run("clean", "digits", "--all").is_refusal("there is no flag '--all'")
    assert run("clean").is_refusal("the following arguments are required: NAME")
    assert run("clean", "digits").is_refusal("/here/autoprune.db. `autoprune launch` makes one")
