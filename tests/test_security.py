"""What comes from elsewhere is data: nothing of it is run, whichever reader it is given to."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune import api
from autoprune.config import DataSpec
from autoprune.engine.files import PhaseStore, publish, read_tensors
from autoprune.engine.images.sources import source_of
from autoprune.errors import AutopruneError, ConfigError
from autoprune.importing import allow_own_code, call_factory, import_named

PACKAGE = Path(__file__).parents[1] / "autoprune"


class Opens:
    """What a hostile pickle does: it runs something when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.fixture
def bait(tmp_path: Path) -> Iterator[bytes]:
    """A pickle that leaves a mark where it is loaded; no reader may have left one."""
    mark = tmp_path / "mark"
    hostile = pickle.dumps(Opens(mark))
    yield hostile
    assert not mark.exists()
    pickle.loads(hostile)
    assert mark.exists()  # The bait is real.


def refused(read: Callable[[], object]) -> None:
    with pytest.raises(AutopruneError):
        read()


# A hostile file for each reader


def test_weights(bait: bytes, tmp_path: Path) -> None:
    hostile = Opens(tmp_path / "mark")
    plain = {"weight": torch.zeros(2)}
    (tmp_path / "plain.safetensors").write_bytes(bait)
    torch.save({**plain, "more": hostile}, tmp_path / "archive.pt")
    torch.save({**plain, "more": hostile}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("plain.safetensors", "archive.pt", "old.pth"):
        refused(lambda name=name: read_tensors(tmp_path / name))


def test_a_network_beside_its_record(bait: bytes, tmp_path: Path) -> None:
    path = tmp_path / "00001.safetensors"
    publish(path, {"weight": torch.zeros(2)}, {"kept": {}})
    refused(lambda: api.load_model(path))  # It lacks what a record has.
    path.with_suffix(".json").write_bytes(bait)
    refused(lambda: api.load_model(path))
    path.write_bytes(bait)
    path.with_suffix(".json").write_text(json.dumps({"sha256": base64.b64encode(bait).decode()}))
    refused(lambda: api.load_model(path))


def test_a_cached_phase(bait: bytes, tmp_path: Path) -> None:
    store = PhaseStore(tmp_path)
    for record in (bait, b'{"sha256": 1}'):
        store.path("dense", "key").write_bytes(bait)
        store.path("dense", "key").with_suffix(".json").write_bytes(record)
        assert store.find("dense", "key") is None


def test_study_and_space_files(bait: bytes, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_bytes(bait)
    refused(lambda: api.load_study(tmp_path / "study.toml"))
    (tmp_path / "given").write_bytes(bait)
    for table in ("network", "data", "task"):
        text = f'[study]\nname = "x"\n[{table}]\nfactory = "pickle:{tmp_path}/given#0"\n'
        (tmp_path / "study.toml").write_text(text)
        with pytest.raises(ConfigError, match=r"`factory` must look like package\.module:function, but got 'pickle:"):
            api.load_study(tmp_path / "study.toml")


def test_parquet_and_images(bait: bytes, tmp_path: Path) -> None:
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    spec = DataSpec(source="parquet", train=str(tmp_path / "train.parquet"), validation="last:1")
    (tmp_path / "train.parquet").write_bytes(bait)
    refused(lambda: source_of(spec).read(spec, "train"))
    pyarrow.parquet.write_table(pyarrow.table({"img": [bait, bait], "label": [0, 1]}), tmp_path / "train.parquet")
    refused(lambda: source_of(spec).read(spec, "train"))
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "bait.png").write_bytes(bait)
    folder = DataSpec(source="image_folder", train=str(tmp_path / "images"), validation="last:1", image_size=8)
    refused(lambda: source_of(folder).read(folder, "train"))
    array = io.BytesIO()
    np.save(array, np.array([Opens(tmp_path / "mark")], dtype=object), allow_pickle=True)
    (tmp_path / "images" / "a" / "bait.png").write_bytes(array.getvalue())
    refused(lambda: source_of(folder).read(folder, "train"))


CELLS = [
    ("trial_user_attributes", "value_json"),
    ("trial_system_attributes", "value_json"),
    ("trial_params", "distribution_json"),
    ("autoprune_studies", "identity"),
    ("autoprune_studies", "objectives"),
    ("autoprune_revisions", "config"),
]


@pytest.mark.parametrize(("table", "column"), CELLS)
def test_blobs_in_a_database(table: str, column: str, bait: bytes, finished: Any) -> None:
    with closing(sqlite3.connect(finished.database)) as connection, connection:
        assert connection.execute(f"UPDATE {table} SET {column} = ?", (bait,)).rowcount
    # However a damaged database is told of: what counts is that nothing of it was run, which `bait` looks for.
    with contextlib.suppress(Exception):
        api.status("digits", storage=finished.url)
    with contextlib.suppress(Exception):
        api.open_study("digits", finished.url).trials()


UNPICKLERS = {"pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads"}
OTHERS = {"joblib.load", "marshal.loads", "shelve.open", "yaml.load", "pd.read_pickle", "eval", "exec"}
PLAIN_WITH = {
    "torch.load": {"weights_only": "True"},
    "torch.jit.load": {"no argument makes it": "plain"},
    "torch.export.load": {"no argument makes it": "plain"},
    "np.load": {"allow_pickle": "False"},
}


def test_nothing_else_unpickles() -> None:
    """Whoever adds a reader of pickles, or of code, has to think of this page."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            is_plain = PLAIN_WITH.get(name, {}).items() <= keywords.items()
            is_default = name == "np.load" and "allow_pickle" not in keywords
            if name in UNPICKLERS | OTHERS or not (is_plain or is_default):
                found.add((path.relative_to(PACKAGE).as_posix(), name))
    # What `autoprune.search` was given in Python, by the hash that the database keeps; and the operators of source
    # that we have written ourselves, to see that it is what was meant.
    assert found == {("importing.py", "pickle.loads"), ("engine/files/exports.py", "exec")}


# Names of code


@pytest.fixture
def no_factories(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("AUTOPRUNE_NO_FACTORIES", raising=False)
    allow_own_code(False)
    yield
    allow_own_code(True)


TOLD = "must not be imported, since code of users was ruled out by `--no-factories`"


@pytest.mark.usefixtures("no_factories")
def test_names_are_not_imported(bait: bytes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=TOLD):
        import_named("os.path:join", key="methods", what="class")
    with pytest.raises(ConfigError, match=TOLD):
        call_factory("os:getcwd", key="network.factory")
    (tmp_path / "given").write_bytes(bait)
    with pytest.raises(ConfigError, match=f"'given in Python' {TOLD}"):
        call_factory(f"pickle:{tmp_path}/given#0", key="network.factory")
    allow_own_code(True)
    assert call_factory("os:getcwd", key="network.factory")


HOSTILE = {
    "network": 'factory = "hostile_by_test:network"',
    "data": 'source = "factory"\nfactory = "hostile_by_test:data"',
    "space": 'methods = ["hostile_by_test:Method"]',
    "study": 'name = "digits"\nsampler = "hostile_by_test:Sampler"',
}


@pytest.mark.parametrize("table", [*HOSTILE, "width_rules"])
@pytest.mark.parametrize("command", ["inspect", "launch"])
def test_a_hostile_study_file(
    command: str, table: str, write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from autoprune.cli.main import main

    if command == "inspect" and table not in ("network", "data"):
        pytest.skip("inspect looks at network and data alone")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOPRUNE_NO_FACTORIES", "")
    (tmp_path / "hostile_by_test.py").write_text("from pathlib import Path\nPath('mark').touch()\n")
    tables = {table: HOSTILE[table]} if table in HOSTILE else {"space": 'width_rules = ["hostile_by_test:Rule"]'}
    path = write_study(tmp_path, **tables)
    assert main([command, str(path), "--no-factories"]) == 2
    assert TOLD in capsys.readouterr().err
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "autoprune.db").exists()


# Paths


def test_a_database_cannot_name_any_file_as_a_network(tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.real_trials import run_study

    folder = tmp_path_factory.mktemp("elsewhere")
    study = run_study(folder, [{}], network='architecture = "resnet_digits"')
    whole = Path(study.results[0].weights)
    api.export_trial("tiny", 0, folder / "out" / "whole.safetensors", storage=study.url)
    elsewhere = folder / "stolen.safetensors"
    for file in (whole, whole.with_suffix(".json")):
        elsewhere.with_suffix(file.suffix).write_bytes(file.read_bytes())
    link = whole.with_name("00009.safetensors")
    link.symlink_to(elsewhere)
    link.with_suffix(".json").write_bytes(whole.with_suffix(".json").read_bytes())
    for place in (elsewhere, whole.parent / ".." / ".." / ".." / "stolen.safetensors", link):
        with closing(sqlite3.connect(folder / "autoprune.db")) as connection, connection:
            statement = "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'weights'"
            assert connection.execute(statement, (json.dumps(str(place)),)).rowcount == 1
        for read in (
            lambda: api.export_trial("tiny", 0, folder / "out" / "stolen.safetensors", storage=study.url),
            lambda: api.measure_latency("tiny", 0, batches=[1], device="cpu", storage=study.url),
        ):
            with pytest.raises(AutopruneError, match="the networks of study 'tiny' must lie in"):
                read()
    assert not (folder / "out" / "stolen.safetensors").exists()
