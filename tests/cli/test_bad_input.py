"""Whatever is wrong is told in one line with exit code 2, and nothing is made, lost or changed."""

from __future__ import annotations

import io
import os
import pickle
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.digits_task import TABLES

Refused = Callable[..., None]
Write = Callable[..., Path]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The current folder of the commands that `refused` runs."""
    return tmp_path / "here"


# The command line itself


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            [],
            "a command must be given, one of init, inspect, launch, resume, status, stop, ",
        ),
        (
            ["lanch", "a.toml"],
            "there is no command 'lanch'; did you mean 'launch'? Valid: ",
        ),
        (["launch"], "the following arguments are required: STUDY.toml. `autoprune launch --help` tells more."),
        (
            ["launch", "a.toml", "b.toml"],
            "there is one argument too many: 'b.toml'. `autoprune launch --help` tells more.",
        ),
        (
            ["launch", "a.toml", "--trails", "3"],
            "there is no flag '--trails'; did you mean '--trials'? Valid: --address, ",
        ),
        (["launch", "a.toml", "--trails=3"], "there is no flag '--trails'; did you mean '--trials'?"),
        (["launch", "a.toml", "--dry"], "there is no flag '--dry'; did you mean '--dry-run'?"),
        (["launch", "a.toml", "--trials"], "argument --trials: expected one argument."),
        (
            ["launch", "a.toml", "--trials", "0"],
            "argument --trials: must be a whole number of at least 1, but got '0'.",
        ),
        (
            ["launch", "a.toml", "--trials", "many"],
            "argument --trials: must be a whole number of at least 1, but got 'many'.",
        ),
        (
            ["launch", "a.toml", "--concurrency", "-2"],
            "argument --concurrency: must be a whole number of at least 1, but got",
        ),
        (
            ["launch", "a.toml", "--time-limit", "5x"],
            "argument --time-limit: must be a length of time such as 45s, 20m or ",
        ),
        (
            ["resume", "a", "--time-limit", "0"],
            "argument --time-limit: must be a length of time such as 45s, 20m or 1h30m, ",
        ),
        (
            ["launch", "a.toml", "--address", "ray://h:1"],
            "argument --address: must be auto or HOST:PORT of a running Ray ",
        ),
        (
            ["resume", "a", "--logger", "tensorbord"],
            "argument --logger: there is no logger 'tensorbord'; did you mean 'tensorboard'? Valid: mlflow, none, ",
        ),
        (["show", "digits", "last"], "argument TRIAL: must be a whole number of at least 0, but got 'last'."),
        (["show", "digits"], "the following arguments are required: TRIAL."),
        (["pareto", "digits", "--spacing", "wide"], "argument --spacing: invalid float value: 'wide'."),
        (
            ["pareto", "digits", "--format", "xml"],
            "argument --format: there is no format 'xml'. Valid: csv, json, parquet, table.",
        ),
        (
            ["list", "method"],
            "argument WHAT: there is no list 'method'; did you mean 'methods'? Valid: architectures, ",
        ),
    ],
)
def test_arguments(arguments: list[str], told: str, refused: Refused) -> None:
    refused(*arguments, told=told)


# The study file. `test_config` has the details; here a few go through the commands.


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        (
            {"study": 'name = "s"\nn_trials = 0'},
            "study.toml: [study]: `n_trials` must be in [1, 1000000], but got n_trials=0.",
        ),
        (
            {"study": 'name = "s"\nobjectives = ["accuracy", "flops"]'},
            (
                "study.toml: [study]: `objectives`: there is no "
                "objective 'flops'. Valid: accuracy, latency_ms, macs_ratio, "
            ),
        ),
        (
            {"study": 'name = "s"\ntrials = 3'},
            "study.toml: [study]: there is no key 'trials'; did you mean 'n_trials'?",
        ),
        (
            {"space": 'methods = ["sliming"]'},
            "study.toml: [space] `methods`: there is no method 'sliming'; did you mean 'slimming'?",
        ),
        (
            {"space": "macs_target = { low = 0.2, high = 1.4 }"},
            "study.toml: [space]: `macs_target` must lie in (0, 1], but got 1.4. Give a share of the dense MACs.",
        ),
        (
            {"space": 'methods = ["slimming"]\n[method.slimming]\nstrength = { low = 0.1, high = 5 }'},
            "study.toml: space 'inline': [method.slimming]: `strength` must be in (0, 1], but got strength=5.0.",
        ),
        (
            {"space": '[method.slimming]\nstrength = ["strong"]'},
            "space 'inline': [method.slimming]: `strength` must be a number, but got 'strong' (a text).",
        ),
        (
            {"space": "[method.slimming]\nlambda = 0.1"},
            "study.toml: [method.slimming]: there is no hyper-parameter 'lambda'.",
        ),
        (
            {"network": 'architecture = "resnet21"'},
            (
                "[network] `architecture`: there is no architecture 'resnet21'; did you "
                "mean 'resnet20'? Valid: densenet40, "
            ),
        ),
        (
            {"network": 'architecture = "torchvision/resnet19"'},
            "[network] `architecture`: there is no torchvision network 'resnet19'; did you mean 'resnet1",
        ),
        (
            {"network": 'architecture = "resnet_digits"\nexclude = ["layer9"]'},
            "there is no layer or channel group to exclude 'layer9'; did you mean 'layer",
        ),
        (
            {"network": 'architecture = "resnet_digits"\nweights = "gone.safetensors"'},
            "[network] `weights`: there is no file ",
        ),
        (
            {"network": 'architecture = "vgg16"'},
            "the network must accept the data's images of shape (1, 8, 8), but failed on them: ",
        ),
        (
            {
                "network": 'architecture = "resnet_digits"\nmin_width = 64',
                "space": "macs_target = { low = 0.1, high = 0.4 }",
            },
            "`macs_target` must reach 1.0000, the MACs ratio of the minimum widths, but ends at 0.4. Raise it, lower ",
        ),
        (
            {"data": 'source = "digits"\nvalidation = "random:1.5"'},
            'study.toml: [data]: `validation` must be "last:N", N ',
        ),
        (
            {"data": 'source = "digits"\nvalidation = "last:1437"'},
            "[data] `validation` must leave images on both sides, but 'last:1437' holds out 1437 of 1437 images.",
        ),
        (
            {"data": 'source = "digits"\nimage_size = 32'},
            "study.toml: [data]: `image_size` has no meaning for `source` = ",
        ),
        (
            {"data": 'source = "digits"\nmean = [0.5, 0.5]\nstd = [1.0, 1.0]'},
            "[data] `mean` and `std` must both hold 1 ",
        ),
        (
            {"data": 'source = "torchvision"\nname = "CIFAR11"\ntrain = "x"'},
            "[data] `name`: there is no torchvision data set 'CIFAR11'; did you mean 'CIFAR10",
        ),
        ({"engine": 'artifacts = "study.toml"'}, "[engine] `artifacts` must be a folder that can be written, but "),
    ],
)
def test_study_files(tables: dict[str, str], told: str, write_study: Write, refused: Refused, tmp_path: Path) -> None:
    refused("launch", write_study(tmp_path, **tables), "--dry-run", told=told)


@pytest.mark.parametrize("command", [("launch",), ("launch", "--dry-run"), ("inspect",)])
def test_every_command_that_takes_a_file(
    command: tuple[str, ...], write_study: Write, refused: Refused, here: Path
) -> None:
    name, *flags = command
    refused(name, "gone.toml", *flags, told="gone.toml: there is no such file. Check the path.")
    refused(name, ".", *flags, told=".: this is a folder, but a TOML file is needed.")
    path = write_study(here, network='architecture = "resnet21"')
    refused(name, path, *flags, told="there is no architecture 'resnet21'; did you mean 'resnet20'?")
    path.write_text("[study")
    refused(name, path, *flags, told="this is not valid TOML: ")


def test_a_logger_that_is_not_installed(
    write_study: Write, refused: Refused, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # As Python has it for what can't be imported.
    told = "the logger 'wandb' needs the package wandb, which is not installed. `pip install 'autoprune[wandb]'` brings"
    for flags in ((), ("--dry-run",)):
        refused("launch", write_study(here), "--logger", "wandb", *flags, told=told)
        refused("launch", write_study(here, loggers='use = ["wandb"]'), *flags, told=told)


def test_a_number_of_trials_beyond_all_bounds(write_study: Write, refused: Refused, here: Path) -> None:
    told = "arguments: `n_trials` must be in [1, 1000000], but got n_trials=9999999999."
    refused("launch", write_study(here), "--trials", 9999999999, "--dry-run", told=told)


# Data


def parquet(path: Path, *, n: int = 40, size: int = 8, seed: int = 0, **columns: list[Any]) -> Path:
    """A small data set in the layout of Hugging Face, or one of other columns."""
    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    if not columns:
        images = []
        for pixels in np.random.default_rng(seed).integers(0, 256, (n, size, size), dtype=np.uint8):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            images.append({"bytes": file.getvalue(), "path": None})
        columns = {"img": images, "label": [i % 10 for i in range(n)]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_a_good_parquet_file_passes(write_study: Write, run: Callable[..., Any], here: Path) -> None:
    # Else the refusals below might come from something else.
    parquet(here / "train.parquet")
    answer = run("inspect", write_study(here, data='source = "parquet"\ntrain = "train.parquet"'))
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(
        "resnet_digits on 1 x 8 x 8 images: 763,520 MACs (1,527,040 FLOPs), 77,754 parameters\n"
    )


def test_parquet_files(write_study: Write, refused: Refused, here: Path) -> None:
    def told(data: str, sentence: str) -> None:
        refused("inspect", write_study(here, data=f'source = "parquet"\n{data}'), told=sentence)

    parquet(here / "train.parquet")
    parquet(here / "columns.parquet", image=[b"x"], y=[1])
    parquet(here / "numbers.parquet", img=[1.5], label=[1])
    parquet(here / "large.parquet", n=4, size=16)
    (here / "text.parquet").write_text("no parquet")
    (here / "copy.parquet").write_bytes((here / "train.parquet").read_bytes())
    told('train = "gone.parquet"', f"[data] `train`: there is nothing at {here}/gone.parquet. Check the path.")
    told(
        'train = "columns.parquet"',
        "columns.parquet: a column `img` must be there, but the file has image, y. Set `image_column` and "
        "`label_column` in [data].",
    )
    told('train = "numbers.parquet"', "the column `img` must hold encoded images, but holds double.")
    told('train = "text.parquet"', "text.parquet: this is not a readable Parquet file: ")
    told('train = "train.parquet"\ntest = "train.parquet"', "`train` and `test` must be two data sets, but both are ")
    told('train = "train.parquet"\ntest = "copy.parquet"', "[data] `train` and `test` hold the same data.")
    told(
        'train = "train.parquet"\nvalidation = "copy.parquet"',
        "[data] `validation` holds the same data as the training",
    )
    told('train = "train.parquet"\nvalidation = "gone.parquet"', "[data] `validation`: there is nothing at ")
    told(
        'train = "train.parquet"\nvalidation = "large.parquet"',
        "[data] `validation` must be like the training set, images of shape (1, 8, 8) with labels below 10, but holds ",
    )


def test_labels_that_number_no_classes(write_study: Write, refused: Refused, here: Path) -> None:
    import pyarrow.parquet

    pictures = pyarrow.parquet.read_table(parquet(here / "train.parquet", n=20))["img"].to_pylist()
    for name, labels, told in [
        ("one", [0] * 20, "among 20 training images the largest label is 0. Check which column or folder"),
        ("far", [0] * 19 + [10**9], "among 20 training images the largest label is 1000000000."),
        ("text", ["cat"] * 20, "labels must be whole numbers >= 0, one per image, but got object"),
        ("below", [-1] * 20, "labels must be whole numbers >= 0, one per image"),
    ]:
        parquet(here / f"{name}.parquet", img=pictures, label=labels)
        path = write_study(here, data=f'source = "parquet"\ntrain = "{name}.parquet"')
        refused("inspect", path, told=told)


def test_two_images_are_enough(write_study: Write, run: Callable[..., Any], here: Path) -> None:
    parquet(here / "two.parquet", n=2)
    path = write_study(here, data='source = "parquet"\ntrain = "two.parquet"\nvalidation = "last:1"')
    assert run("inspect", path).code == 0


# Factories


FACTORY = """
import torch

def raises():
    raise OSError("disk on fire\\nand a second line")

def exits():
    raise SystemExit(3)

def nothing():
    return None

def network():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

def narrow():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))

def damaged():
    model = network()
    torch.nn.init.constant_(model[1].weight, float("nan"))
    return model

def one():
    return {"train": 3}

number = 3
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("own_by_test", "`network.factory` must look like package.module:function, but got 'own_by_test'."),
        ("a b:c", "`network.factory` must look like package.module:function, but got 'a b:c'."),
        (
            "no_such_module:f",
            ("`network.factory` = 'no_such_module:f' can't be imported: there is no module 'no_such_module'"),
        ),
        ("own_by_test.inner:f", "can't be imported: there is no module 'own_by_test.inner'. Searched "),
        (
            "own_by_test:netwrk",
            "in own_by_test there is no function 'netwrk'; did you mean 'network'? Valid: damaged, ",
        ),
        ("own_by_test:number", "`network.factory` = 'own_by_test:number' must be a function, but it is a int."),
        (
            "own_by_test:raises",
            "`network.factory` = 'own_by_test:raises' raised OSError: disk on fire. Fix the function.",
        ),
        ("own_by_test:exits", "`network.factory` = 'own_by_test:exits' raised SystemExit: 3. Fix the function."),
        (
            "own_by_test:nothing",
            ("`network.factory` = 'own_by_test:nothing' must return a torch.nn.Module, but returned NoneType."),
        ),
        (
            "own_by_test:narrow",
            (
                "the network must answer images of shape (1, 8, 8) with logits of shape (N, 10) or wider, "
                "but gave (2, 3)."
            ),
        ),
        (
            "own_by_test:damaged",
            (
                "the network must answer images of shape (1, 8, 8) with finite numbers, but does not: they are lost "
                "in '1' (Linear). Its weights are damaged, "
            ),
        ),
        (
            "own_by_test:network",
            "the network must have a channel group that can be pruned, but there is none. `autoprune inspect` lists ",
        ),
        (
            "broken_by_test:f",
            (
                "can't be imported: its module raised ModuleNotFoundError: No module named 'not_installed'. Fix "
                "it, or install what it needs."
            ),
        ),
        ("garbled_by_test:f", "can't be imported: its module raised SyntaxError: "),
    ],
)
def test_network_factories(name: str, told: str, write_study: Write, refused: Refused, here: Path) -> None:
    (here / "own_by_test.py").write_text(FACTORY)
    (here / "broken_by_test.py").write_text("import not_installed\n")
    (here / "garbled_by_test.py").write_text("def f(:\n")
    path = write_study(here, network=f'factory = "{name}"')
    try:
        refused("launch", path, "--dry-run", told=told)
    finally:
        sys.path.remove(str(here)) if str(here) in sys.path else None
        for module in ("own_by_test", "broken_by_test", "garbled_by_test"):
            sys.modules.pop(module, None)


def test_data_factories(write_study: Write, refused: Refused, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(here))
    (here / "data_by_test.py").write_text(FACTORY)

    def told(name: str, sentence: str) -> None:
        refused(
            "inspect", write_study(here, data=f'source = "factory"\nfactory = "data_by_test:{name}"'), told=sentence
        )

    told("raises", "`data.factory` = 'data_by_test:raises' raised OSError: disk on fire. Fix the function.")
    told(
        "nothing", "the data factory 'data_by_test:nothing' must return a mapping with 'train': (images, labels), but "
    )
    told("one", "the data factory 'data_by_test:one' must return 'train' as (images, labels).")


# Weights


class _Opens:
    """What a malicious pickle does: it runs something when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_pickle_is_never_run(write_study: Write, refused: Refused, here: Path, tmp_path: Path) -> None:
    import torch

    target = tmp_path / "owned"
    (here / "plain.safetensors").write_bytes(pickle.dumps(_Opens(target)))
    torch.save({"conv1.weight": _Opens(target)}, here / "zipped.pt")
    torch.save({"conv1.weight": _Opens(target)}, here / "legacy.pt", _use_new_zipfile_serialization=False)
    told = "must hold plain tensors only, but it is a pickle of other objects ("
    for name in ("plain.safetensors", "zipped.pt", "legacy.pt"):
        path = write_study(here, network=f'architecture = "resnet_digits"\nweights = "{name}"')
        refused("inspect", path, told=f"weights: {here}/{name} {told}")
    assert not target.exists()
    pickle.loads((here / "plain.safetensors").read_bytes())
    assert target.exists()  # The bait is real: whoever loads it runs it.


def test_weights_that_do_not_fit(write_study: Write, refused: Refused, here: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from autoprune import architectures

    fits = architectures.build("resnet_digits", n_classes=10, in_channels=1).state_dict()
    lacking = {name: tensor for name, tensor in fits.items() if name != "conv1.weight"}
    save_file(lacking, here / "lacking.safetensors")
    save_file({**fits, "more": torch.zeros(1)}, here / "more.safetensors")
    save_file({**fits, "conv1.weight": torch.zeros(3, 3)}, here / "shape.safetensors")
    torch.save({"generator": fits}, here / "nested.pt")
    (here / "empty.pt").touch()
    for name, told in {
        "lacking.safetensors": "must fit the network, but lacks conv1.weight. Check architecture and n_classes.",
        "more.safetensors": "must fit the network, but has unknown more.",
        "shape.safetensors": "must fit the network, but conv1.weight is (3, 3) instead of (16, 1, 3, 3).",
        "nested.pt": "must hold a flat state_dict, but its entry 'generator' is a OrderedDict. If those ",
        "empty.pt": "must be a safetensors file, or a .pt file of plain tensors, but it is neither (",
    }.items():
        path = write_study(here, network=f'architecture = "resnet_digits"\nweights = "{name}"')
        refused("inspect", path, told=f"{name} {told}")


# Databases


READING = [
    ("pareto", "digits"),
    ("status", "digits"),
    ("show", "digits", "0"),
    ("stop", "digits"),
    ("resume", "digits"),
    ("evaluate", "digits"),
    ("clean", "digits"),
    ("list", "studies"),
]


@pytest.mark.parametrize("command", READING, ids=lambda command: command[0])
def test_commands_that_read_make_no_database(command: tuple[str, ...], refused: Refused, here: Path) -> None:
    told = (
        f"the database must exist, but there is no {here}/autoprune.db. `autoprune launch` makes one; `--storage` or "
    )
    refused(*command, told=told)
    refused(
        *command,
        "--storage",
        "sqlite:///no/folder/x.db",
        told=f"must exist, but there is no {here}/no/folder. Make it.",
    )
    refused(*command, "--storage", "", told="`storage` must be a database URL, but it can't be read as one.")
    refused(
        *command, "--storage", "autoprune.db", told="`storage` must be a database URL, but it can't be read as one."
    )
    refused(
        *command,
        "--storage",
        "mysql://a/b",
        told="`storage` must be a SQLite file or a PostgreSQL server, but got 'mys",
    )
    refused(
        *command,
        "--storage",
        f"sqlite:///{here}",
        told=f"the database sqlite:///{here} must open, but: Is a directory.",
    )


def test_the_database_of_the_environment(refused: Refused, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPRUNE_STORAGE", "sqlite:///other.db")
    refused("status", "digits", told=f"the database must exist, but there is no {here}/other.db.")
    refused("status", "digits", "--storage", "sqlite:///x.db", told=f"there is no {here}/x.db.")


@pytest.mark.ray
@pytest.mark.parametrize("command", [*READING, ("launch", "study.toml")], ids=lambda command: command[0])
def test_databases_that_are_not_ours(
    command: tuple[str, ...], refused: Refused, write_study: Write, finished: Any, here: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    if command[0] == "launch":
        request.getfixturevalue("cluster")
    write_study(here)
    (here / "text.db").write_text("no database, but a text that is long enough to be one")
    with sqlite3.connect(here / "random.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
        connection.execute("INSERT INTO mine VALUES (1)")
    connection.close()
    _optuna_only(here / "optuna.db")
    _set_version(finished.database, 99)
    for name, told in {
        "text.db": f"the database must be a SQLite file, but {here}/text.db is something else. Name another.",
        "random.db": f"the database must be autoprune's, but sqlite:///{here}/random.db has no autoprune tables. Name ",
        "optuna.db": f"the database must be autoprune's, but sqlite:///{here}/optuna.db has no autoprune tables. Name ",
        str(
            finished.database
        ): "has schema version 99, but this autoprune knows versions up to 2: install a newer autoprune.",
    }.items():
        refused(*command, "--storage", f"sqlite:///{name}", told=told)


def _optuna_only(path: Path) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    optuna.create_study(storage=storage, study_name="digits")
    storage.engine.dispose()


def _set_version(path: Path, version: int) -> None:
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute("UPDATE autoprune_schema SET version = ?", (version,)).rowcount == 1
    connection.close()


@pytest.mark.ray
def test_a_database_in_a_folder_that_is_missing(refused: Refused, write_study: Write, here: Path, cluster: Any) -> None:
    told = f"the folder of the database must exist, but there is no {here}/no. Make it."
    refused("launch", write_study(here), "--storage", "sqlite:///no/x.db", told=told)


# Studies and trials


@pytest.mark.parametrize("command", READING[:-1], ids=lambda command: command[0])
def test_an_unknown_study(command: tuple[str, ...], refused: Refused, finished: Any) -> None:
    name, _, *more = command
    told = f"in {finished.url} there is no study 'digitz'; did you mean 'digits'? Valid: digits."
    refused(name, "digitz", *more, "--storage", finished.url, told=told)


@pytest.mark.ray
def test_a_study_of_that_name_that_is_another(
    refused: Refused, write_study: Write, finished: Any, here: Path, cluster: Any
) -> None:
    for tables, told in [
        ({"network": 'architecture = "resnet20"'}, '`network` is "resnet_digits" there and "resnet20" here'),
        ({"data": 'source = "digits"\nvalidation = "last:100"'}, "`split` is "),
        (
            {"study": 'name = "digits"\nreference_point = { accuracy = 0.4, macs_ratio = 1.0 }'},
            "`reference point.accuracy` is 0.5 there and 0.4 here",
        ),
        (
            {"study": 'name = "digits"\nobjectives = ["accuracy", "params_ratio"]'},
            '`objectives` is ["accuracy: maximize", "macs_ratio: minimize"] there and ',
        ),
        (
            {"study": 'name = "digits"\nreference_point = { rmse = 0.5, macs_ratio = 1.0 }', **TABLES},
            'there and ["rmse: minimize", "macs_ratio: minimize"] here',
        ),
    ]:
        first = "the study 'digits' must stay the study that it was, but "
        refused("launch", write_study(here, **tables), "--storage", finished.url, told=(first, told))

    connection = sqlite3.connect(finished.database)
    kept = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in KEPT]
    connection.close()
    assert kept == [1, 1, 7, 1]


KEPT = ("autoprune_studies", "autoprune_revisions", "trials", "autoprune_drivers")


def test_an_unknown_trial(refused: Refused, finished: Any) -> None:
    refused("show", "digits", 7, "--storage", finished.url, told="study 'digits' has no trial 7; it has trials 0 to 6.")
    refused("show", "digits", 10**17, "--storage", finished.url, told=f"has no trial {10**17}; it has trials 0 to 6.")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--where", ""], "`where` must be a condition, but '' can't be read as one."),
        (["--where", "macs_ratio <"], "`where` must be a condition, but 'macs_ratio <' can't be read as one."),
        (["--where", "macs_ratio"], "`where` must be made of comparisons, but 'macs_ratio' has"),
        (
            ["--where", "macs <= 0.5 or accurcy > 1"],
            "in `where`, there is no column 'accurcy'; did you mean 'accuracy'?",
        ),
        (
            ["--where", "method == 3"],
            "`where` must compare like with like, but ",
        ),
        (["--where", "__import__('os').system('touch owned')"], "`where` must be made of comparisons, but "),
        (["--where", "macs_ratio <= open('owned', 'w')"], "`where` must be made of comparisons, but "),
        (["--where", "(" * 1500 + "macs_ratio < 1" + ")" * 400], "`where` must be a condition, but "),
        (["--sort", "acuracy"], "in `sort`, there is no column 'acuracy'; did you mean 'accuracy'?"),
        (["--spacing", "-0.1"], "`spacing` must be in [0, 1], a distance in macs_ratio, but got spacing=-0.1."),
        (["--spacing", "nan"], "`spacing` must be in [0, 1], a distance in macs_ratio, but got spacing=nan."),
        (["--plot", "front.gif"], "`--plot` must end in .png, .svg, .pdf, but got 'front.gif'."),
        (["--plot", "front"], "`--plot` must end in .png, .svg, .pdf, but got 'front'."),
        (
            ["--plot", "no/front.png"],
            "`--plot` must lead to a folder that exists, but got 'no/front.png'. Make the folder ",
        ),
    ],
)
def test_questions_about_the_front(flags: list[str], told: str, refused: Refused, finished: Any) -> None:
    refused("pareto", "digits", *flags, "--storage", finished.url, told=told)


def test_a_configuration_of_another_version(refused: Refused, finished: Any) -> None:
    connection = sqlite3.connect(finished.database)
    with connection:
        connection.execute("""UPDATE autoprune_revisions SET config = '{"config": {"colour": "red"}}'""")
    told = "the configuration of study 'digits' must be one that this autoprune wrote, but [stored configuration"
    refused("pareto", "digits", "--storage", finished.url, told=told)
    with connection:
        connection.execute("UPDATE autoprune_revisions SET config = '{}'")
    connection.close()
    told = "the configuration of study 'digits' must be one that this autoprune wrote, but it lacks 'config'. Use "
    refused("status", "digits", "--storage", finished.url, told=told)


# Real processes


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lanch"], "autoprune: there is no command 'lanch'; did you mean 'launch'?"),
        (["pareto", "digits"], "autoprune: the database must exist, but there is no "),
        (
            ["launch", "wrong.toml"],
            "autoprune: [network] `architecture`: there is no architecture 'resnet21'; did you mean ",
        ),
        (
            ["inspect", "small.toml"],
            "autoprune: the network must accept the data's images of shape (1, 8, 8), but failed ",
        ),
    ],
)
def test_a_real_process(arguments: list[str], told: str, write_study: Write, tmp_path: Path) -> None:
    write_study(tmp_path, "wrong.toml", network='architecture = "resnet21"')
    write_study(tmp_path, "small.toml", network='architecture = "vgg16"')
    before = sorted(tmp_path.iterdir())
    environment = {key: value for key, value in os.environ.items() if key != "AUTOPRUNE_STORAGE"}
    command = [sys.executable, "-m", "autoprune", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_arguments_that_are_no_text(refused: Refused) -> None:
    refused("status", "dig\udcffits", told=r"arguments must be text in UTF-8, but 'dig\udcffits' is not.")


def test_names_that_would_move_the_cursor_are_told_by_their_escapes(refused: Refused, finished: Any) -> None:
    refused("pareto", "digits\x1b[2J\n", "--storage", finished.url, told="there is no study 'digits\\x1b[2J\\n'")
    refused("export", "digits", "0", "--to", "a\x1b]0;title\x07.py\n.x", told=r"a\x1b]0;title\x07.py\n.x")
