from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.search.phases import PhaseCache, PhasePlace, PhaseRows
from autoprune.search.phases.cache import surplus
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Attr, Lifecycle, Proposal

HERE = Path("/here")


def result(key: str, size_bytes: int, *, kind: str = "sparsify", folder: Path = HERE) -> PhasePlace:
    place = str(folder / f"{kind}-{key}.safetensors")
    return PhasePlace(key=key, kind=kind, place=place, sha256="s", size_bytes=size_bytes, used_at=0.0)


def keys(results: list[PhasePlace], limit_bytes: float, *in_use: str) -> list[str]:
    return [chosen.key for chosen in surplus(results, folder=HERE, in_use=in_use, limit_bytes=limit_bytes)]


def test_the_longest_unused_go_until_the_rest_fits() -> None:
    results = [result("a", 4), result("b", 3), result("c", 2)]
    assert keys(results, 9) == []
    assert keys(results, 8) == ["a"]
    assert keys(results, 5) == ["a"]
    assert keys(results, 4.9) == ["a", "b"]
    assert keys(results, 0) == ["a", "b", "c"]


def test_what_is_in_use_and_dense_networks_stay_but_count() -> None:
    results = [result("d", 100, kind="dense"), result("a", 4), result("b", 3), result("c", 2)]
    assert keys(results, 105, "a") == ["b", "c"]
    assert keys(results, 0, "a", "c") == ["b"]


def test_files_of_other_folders_neither_go_nor_count() -> None:
    others = [result("x", 50, folder=Path("/there")), result("y", 50, folder=HERE / "below")]
    assert keys([*others, result("a", 4)], 4) == []
    assert keys([*others, result("a", 4)], 3) == ["a"]
    beside = PhasePlace(key="z", kind="sparsify", place="/here/../z", sha256="s", size_bytes=9, used_at=0.0)
    assert keys([beside], 0) == []


@given(
    sizes=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=8),
    limit_bytes=st.integers(0, 40),
)
def test_no_more_goes_than_must(sizes: list[tuple[int, bool]], limit_bytes: int) -> None:
    results = [result(str(i), size) for i, (size, _) in enumerate(sizes)]
    in_use = {str(i) for i, (_, used) in enumerate(sizes) if used}
    gone = surplus(results, folder=HERE, in_use=in_use, limit_bytes=limit_bytes)
    rest = sum(row.size_bytes for row in results) - sum(row.size_bytes for row in gone)
    free = [row for row in results if row.key not in in_use]
    assert gone == free[: len(gone)]
    assert rest <= limit_bytes or len(gone) == len(free)
    if gone:
        assert rest + gone[-1].size_bytes > limit_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "phases"
    folder.mkdir()
    return folder


def fill(rows: PhaseRows, folder: Path, clock: Any, *names: str) -> None:
    for name in names:
        clock.now += 1
        kind = "dense" if name == "dense" else "sparsify"
        path = folder / f"{kind}-{name}.safetensors"
        path.write_bytes(b"x" * 10)
        path.with_suffix(".json").write_text("{}")
        rows.publish(name, kind=kind, owner="me", place=str(path), sha256="s", size_bytes=10)


def stems(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_files_and_rows_go_together(db: Database, study: StudyHandle, folder: Path, clock: Any) -> None:
    rows = PhaseRows(db)
    fill(rows, folder, clock, "dense", "used", "old", "new")
    Lifecycle(study, owner="me", n_trials=9).claim(
        Proposal(params={}, distributions={}, key="k", attrs={Attr.PHASE: "used"})
    )
    cache = PhaseCache(rows, folder=folder, limit_bytes=30)
    cache.shrink()
    cache.shrink()
    assert {row.key for row in rows.by_last_use()} == {"dense", "used", "new"}
    left = {"dense-dense", "sparsify-used", "sparsify-new"}
    assert stems(folder) == {f"{stem}{end}" for stem in left for end in (".safetensors", ".json")}
    PhaseCache(rows, folder=folder, limit_bytes=1).shrink()
    assert {row.key for row in rows.by_last_use()} == {"dense", "used"}


def test_files_that_are_gone_already_leave_no_row_behind(db: Database, folder: Path, clock: Any) -> None:
    rows = PhaseRows(db)
    fill(rows, folder, clock, "a", "b")
    (folder / "sparsify-a.json").unlink()
    (folder / "sparsify-b.safetensors").unlink()
    PhaseCache(rows, folder=folder, limit_bytes=1).shrink()
    assert rows.by_last_use() == []
    assert stems(folder) == set()


def test_a_file_that_cannot_be_deleted_keeps_its_row(
    db: Database, folder: Path, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = PhaseRows(db)
    fill(rows, folder, clock, "a", "b")
    (folder / "sparsify-a.json").unlink()
    (folder / "sparsify-a.json").mkdir()
    PhaseCache(rows, folder=folder, limit_bytes=1).shrink()
    assert [row.key for row in rows.by_last_use()] == ["a"]
    assert "over its limit, but" in caplog.text
