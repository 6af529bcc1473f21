"""Study files and search spaces: what is read, and what is refused in which words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune import methods
from autoprune.config import (
    DataSpec,
    Metric,
    NetworkSpec,
    Range,
    ResourcesConfig,
    SearchConfig,
    SettingSpec,
    SpaceConfig,
    StudyConfig,
    TrainSpec,
    load_setting,
    load_study,
    read_stored,
)
from autoprune.errors import ConfigError
from autoprune.widths import WIDTH_RULES

REPOSITORY = Path(__file__).parents[2]
CATALOGUE: Mapping[str, Mapping[str, Range]] = {
    "plain": {},
    "soft": {"strength": Range(low=1e-4, high=1e-2, scale="log", points=3), "knee": Range(low=1.0, high=3.0)},
}
HEAD = '[study]\nname = "s"\nspace = "own.toml"\n'
REST = '[network]\narchitecture = "resnet20"\n[data]\nsource = "digits"\n'
SPACE = '[space]\nmethods = ["*"]\n'


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StudyConfig]:
    """Read a study file made of text, and a space file beside it."""
    monkeypatch.chdir(tmp_path)

    def load_text(text: str, *, space: str = SPACE) -> StudyConfig:
        (tmp_path / "study.toml").write_text(text, encoding="utf-8")
        (tmp_path / "own.toml").write_text(space, encoding="utf-8")
        return load_study(Path("study.toml"), CATALOGUE)

    return load_text


Load = Callable[..., StudyConfig]


def refused(told: str) -> Any:
    return pytest.raises(ConfigError, match=f"^{re.escape(told)}")


# What is read


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("studies/*/study.toml")), ids=lambda path: path.parent.name)
def test_every_shipped_study_loads(path: Path) -> None:
    config = load_study(path, methods.catalogue())
    assert config.study.name == path.parent.name
    assert config.study.n_trials >= 1
    assert read_stored(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "path", sorted(REPOSITORY.glob("studies/*/*.toml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_files_beside_a_study_load_and_are_named_after_it(path: Path) -> None:
    assert load_study(path, methods.catalogue()).study.name.startswith(path.parent.name)


def test_the_setting_of_a_file_whose_space_is_missing(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('[study]\nname = "s"\nseed = 3\n' + REST.replace("architecture", "factory"))
    setting = load_setting(tmp_path / "study.toml")
    assert (setting.seed, setting.network) == (3, NetworkSpec(factory="resnet20"))


def test_the_shipped_digits_study() -> None:
    config = load_study(REPOSITORY / "studies/digits/study.toml", methods.catalogue())
    assert (config.study.n_trials, config.study.seed, config.space.name) == (28, 0, "inline")
    assert config.setting.data == DataSpec(source="digits", validation="random:0.4")
    assert (config.setting.dense.epochs, config.setting.sparsify.epochs, config.setting.finetune.epochs) == (15, 5, 6)
    assert config.space.methods["slimming"]["strength"].grid == (1e-4, 1e-3, 1e-2)
    assert config.space.macs_target.grid is not None
    assert len(config.space.macs_target.grid) == 13
    assert config.space.macs_target.grid[-1] == 0.9


def test_defaults(load: Load, tmp_path: Path) -> None:
    config = load(HEAD + REST)
    assert config.study == SearchConfig(name="s")
    assert (config.study.n_trials, config.study.objectives) == (30, ("accuracy", "macs_ratio"))
    assert config.study.directions == ("maximize", "minimize")
    assert config.resources == ResourcesConfig()
    assert config.setting.artifacts == str(tmp_path / "autoprune_artifacts")
    assert config.setting.dense == TrainSpec()
    assert config.space.methods == CATALOGUE  # methods = ["*"]
    assert config.space.width_rules == tuple(name for name, rule in WIDTH_RULES.items() if rule.is_default)
    assert config.space.name == "own"


def test_paths_start_at_the_study_file(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    data = '[data]\nsource = "parquet"\ntrain = "../a.parquet"\ntest = "/x/b.parquet"\nvalidation = "v.parquet"\n'
    engine = '[engine]\nartifacts = "out"\n'
    network = '[network]\nfactory = "m:f"\nweights = "w.safetensors"\n'
    (folder / "study.toml").write_text(f'[study]\nname = "s"\n{SPACE}{network}{data}{engine}')
    setting = load_study(folder / "study.toml", CATALOGUE).setting
    assert (setting.data.train, setting.data.test) == (str(tmp_path / "a.parquet"), "/x/b.parquet")
    assert (setting.data.validation, setting.artifacts) == (str(folder / "v.parquet"), str(folder / "out"))
    assert (setting.network.weights, setting.network.factory) == (str(folder / "w.safetensors"), "m:f")


def test_a_byte_order_mark_is_no_matter(load: Load) -> None:
    assert load("\ufeff" + HEAD + REST).study.name == "s"


def test_a_method_table_sets_ranges(load: Load) -> None:
    space = '[space]\nmethods = ["soft"]\n[method.soft]\nknee = { low = 2, high = 4, step = 1 }\nstrength = 0.5\n'
    found = load(HEAD + REST, space=space).space
    assert found.methods["soft"]["knee"].grid == (2.0, 3.0, 4.0)
    assert found.methods["soft"]["strength"].grid == (0.5,)  # a number alone is fixed
    listed = load(HEAD + REST, space="[method.soft]\nstrength = [0.1, 0.3]\n").space
    assert listed.methods["soft"]["strength"].grid == (0.1, 0.3)
    assert listed.methods["soft"]["knee"] == CATALOGUE["soft"]["knee"]  # untouched
    assert set(listed.methods) == {"plain", "soft"}


def test_the_space_may_stand_in_the_study_file(load: Load) -> None:
    text = f'[study]\nname = "s"\n{REST}[space]\nmethods = ["plain"]\nmacs_target = {{ low = 0.1, high = 0.5 }}\n'
    space = load(text).space
    assert (space.name, list(space.methods), space.macs_target) == ("inline", ["plain"], Range(low=0.1, high=0.5))


# What is refused


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "study.toml: the table [study] must be given, but is missing."),
        (HEAD, "study.toml: the table [network] must be given, but is missing."),
        ("study = 3\n", "study.toml: [study] must be a table, but got 3."),
        (
            HEAD + REST + "[trian]\n",
            "study.toml: there is no table 'trian'; did you mean 'train'? Valid: constraints, data, engine, ",
        ),
        (
            HEAD + REST + "[constraints]\npeak_activation_ratio = 1.5\n",
            (
                "study.toml: [constraints]: `peak_activation_ratio` must be in (0, 1], but got "
                "peak_activation_ratio=1.5. Give a share of the dense network's peak activation memory."
            ),
        ),
        (HEAD + "n_trails = 3\n" + REST, "study.toml: [study]: there is no key 'n_trails'; did you mean 'n_trials'?"),
        (
            HEAD + "n_trials = 0\n" + REST,
            (
                "study.toml: [study]: `n_trials` must be in [1, 1000000], but got n_trials=0. "
                "Give the number of trials that must finish."
            ),
        ),
        (
            HEAD + "n_trials = true\n" + REST,
            "study.toml: [study]: `n_trials` must be a whole number, but got True (true ",
        ),
        (
            HEAD + 'n_trials = "many"\n' + REST,
            "study.toml: [study]: `n_trials` must be a whole number, but got 'many' (a",
        ),
        (
            HEAD + "n_trials = 1.5\n" + REST,
            "study.toml: [study]: `n_trials` must be a whole number, but got 1.5 (a number)",
        ),
        (HEAD + "seed = -1\n" + REST, "study.toml: [study]: `seed` must be at least 0, but got seed=-1."),
        (
            HEAD + 'trial_time_limit = "soon"\n' + REST,
            "study.toml: [study]: `trial_time_limit` must be a length of time such as 45s, 20m or 1h30m, ",
        ),
        (HEAD + "lease_s = inf\n" + REST, "study.toml: [study]: `lease_s` must be at least 0.1, but got lease_s=inf."),
        (
            HEAD + 'sampler = "tpa"\n' + REST,
            "study.toml: [study]: `sampler`: there is no choice 'tpa'; did you mean 'tpe'?",
        ),
        (HEAD + REST + "[train.dence]\n", "study.toml: [train]: there is no key 'dence'; did you mean 'dense'?"),
        (
            HEAD + REST + "[train]\ndense = 3\n",
            "study.toml: [train]: `dense` must be a table, but got 3 (a whole number).",
        ),
        (
            HEAD + REST + "[train.dense]\nepoch = 3\n",
            "study.toml: [train.dense]: there is no key 'epoch'; did you mean ",
        ),
        (
            HEAD + REST + "[train.dense]\nepochs = -3\n",
            "study.toml: [train.dense]: `epochs` must be in [0, 100000], but ",
        ),
        (
            HEAD + REST + '[train.finetune]\nbatch = "8"\n',
            "study.toml: [train.finetune]: `batch` must be a whole number, ",
        ),
        (
            HEAD + REST + "[engine]\nrungs = [1.5]\n",
            "study.toml: [engine]: `rungs` must be rising shares of the fine-tune",
        ),
        (
            HEAD + REST + "[engine]\nrungs = 0.5\n",
            "study.toml: [engine]: `rungs` must be a list, each entry a number, but ",
        ),
        (
            HEAD + REST + '[engine]\nprecision = "fp8"\n',
            "study.toml: [engine]: `precision`: there is no choice 'fp8'. ",
        ),
        (
            HEAD + REST + "[engine]\nthreads = 0\n",
            "study.toml: [engine]: `threads` must be in [1, 4096], but got threads=0.",
        ),
        (
            HEAD + REST + '[engine]\nartifacts = "~nobody_here/x"\n',
            "study.toml: [engine] `artifacts` must be a path, but ",
        ),
        (
            HEAD + REST + "[resources]\ncpus = 2\n",
            "study.toml: [resources]: there is no key 'cpus'; did you mean 'cpu'?",
        ),
        (
            HEAD + REST + "[resources]\ncpu = 0\n",
            "study.toml: [resources]: `cpu` must be greater than 0, but got cpu=0.0.",
        ),
        (
            HEAD + REST + "[resources]\ngpu = 2.5\n",
            "study.toml: [resources]: `gpu` must be a share of one GPU or a whole number of them, but got gpu=2.5.",
        ),
        (
            HEAD + REST + "[resources]\nconcurrency = 0\n",
            "study.toml: [resources]: `concurrency` must be at least 1, but ",
        ),
        (
            HEAD + '[network]\n[data]\nsource = "digits"\n',
            "study.toml: [network]: a network is named by `architecture` or",
        ),
        (
            HEAD + '[network]\narchitecture = 3\n[data]\nsource = "digits"\n',
            "study.toml: [network]: `architecture` must be",
        ),
        (
            HEAD + '[network]\narchitecture = "a"\n[data]\n',
            "study.toml: [data]: the key `source` must be given (a text), but ",
        ),
        (
            HEAD + '[network]\narchitecture = "a"\nexclude = "x"\n[data]\nsource = "digits"\n',
            "study.toml: [network]: `exclude` must be a list, each entry a text, but got 'x' (a text).",
        ),
        (
            HEAD + '[network]\narchitecture = "a"\n[data]\nsource = "parquet"\ntrain = 3\n',
            "study.toml: [data]: `train` must be a text, but got 3 (a whole number).",
        ),
        (
            HEAD + '[network]\narchitecture = "a"\n[data]\nsource = "parquet"\ntrain = "x\\u0000"\n',
            "study.toml: [data] `train` must be a path, but got 'x\\x00': ",
        ),
    ],
)
def test_a_study_file_that_does_not_hold(text: str, told: str, load: Load) -> None:
    with refused(told):
        load(text)


@pytest.mark.parametrize(
    "name", ["", "  ", " a", "a ", ".", "..", ".hidden", "-rf", "a/b", "a\\\\b", "a\\nb", "x" * 201]
)
def test_a_name_that_could_be_no_folder_or_argument(name: str, load: Load) -> None:
    with refused(
        "study.toml: [study]: `name` must be 1 to 200 bytes of printable letters without slashes, not starting "
    ):
        load(f'[study]\nname = "{name}"\nspace = "own.toml"\n{REST}')


@pytest.mark.parametrize("name", ["digits", "a b", "é", "ResNet-20.v2", "x" * 200, "研究"])
def test_a_name_that_can(name: str, load: Load) -> None:
    assert load(f'[study]\nname = "{name}"\nspace = "own.toml"\n{REST}').study.name == name


def test_a_name_must_be_given(load: Load) -> None:
    with refused("study.toml: [study]: the key `name` must be given (a text), but is missing."):
        load(f'[study]\nspace = "own.toml"\n{REST}')


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            '["accuracy", "flops"]',
            "`objectives`: there is no objective 'flops'. Valid: accuracy, latency_ms, macs_ratio, params_ratio.",
        ),
        ('["accuracy", "mac_ratio"]', "`objectives`: there is no objective 'mac_ratio'; did you mean 'macs_ratio'?"),
        ('["accuracy"]', "`objectives` must be accuracy and at least one cost, each once, but got ['accuracy']. Use "),
        ('["macs_ratio", "params_ratio"]', "`objectives` must be accuracy and at least one cost, each once, but got "),
        ('["accuracy", "macs_ratio", "macs_ratio"]', "`objectives` must be accuracy and at least one cost, each once"),
        ("[]", "`objectives` must be accuracy and at least one cost, each once, but got []."),
        ('"accuracy"', "`objectives` must be a list, each entry a text, but got 'accuracy' (a text)."),
    ],
)
def test_objectives_that_are_none(line: str, told: str, load: Load) -> None:
    with refused(f"study.toml: [study]: {told}"):
        load(f"{HEAD}objectives = {line}\n{REST}")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{ accuracy = 0.7 }", "`reference_point` must name every objective, but lacks macs_ratio."),
        (
            "{ accuracy = 0.7, macs = 1.0 }",
            "`reference_point`: there is no objective 'macs'; did you mean 'macs_ratio'?",
        ),
        (
            "{ accuracy = 1.0, macs_ratio = 1.0 }",
            "`reference_point` must be worse than the ideal, with accuracy in [0, 1), but got accuracy=1.0.",
        ),
        (
            "{ accuracy = 70, macs_ratio = 1.0 }",
            "`reference_point` must be worse than the ideal, with accuracy in [0, 1), ",
        ),
        (
            "{ accuracy = -0.1, macs_ratio = 1.0 }",
            "`reference_point` must be worse than the ideal, with accuracy in [0, 1)",
        ),
        (
            "{ accuracy = 0.5, macs_ratio = 0.0 }",
            "`reference_point` must be worse than the ideal, with macs_ratio greater than 0, but got macs_ratio=0.0.",
        ),
        (
            "{ accuracy = nan, macs_ratio = 1.0 }",
            "`reference_point` must be worse than the ideal, with accuracy in [0, 1), ",
        ),
        (
            "{ accuracy = 0.5, macs_ratio = inf }",
            "`reference_point` must be worse than the ideal, with macs_ratio greater ",
        ),
        ("[0.5, 1.0]", "`reference_point` must be a table, each entry a number, but got [0.5, 1.0] (a list)."),
        (
            '{ accuracy = "a", macs_ratio = 1.0 }',
            "`reference_point` must be a table, each entry a number, but got {'accuracy': 'a', ",
        ),
    ],
)
def test_reference_points_that_are_none(line: str, told: str, load: Load) -> None:
    with refused(f"study.toml: [study]: {told}"):
        load(f"{HEAD}reference_point = {line}\n{REST}")


# What networks are scored by

LESS = 'direction = "minimize"\n'
RMSE = 'metric = "rmse"\n' + LESS
POINT = "reference_point = { rmse = 2.0, macs_ratio = 1.0 }\n"


OWN = '[network]\nfactory = "a:b"\n[task]\nfactory = "a:c"\nmetric = "{}"\ndirection = "{}"\n'


def test_a_metric_must_be_that_of_what_networks_are_for(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"must be those of \[task\], accuracy and maximize, but are rmse"):
        load(HEAD + RMSE + POINT + REST)


def test_a_study_that_names_no_metric_maximises_accuracy(load: Load) -> None:
    study = load(HEAD + REST).study
    assert study.score_metric == Metric("accuracy", "maximize", 0.0)
    assert study.reference_point == {"accuracy": 0.0, "macs_ratio": 1.0, "params_ratio": 1.0}
    spelt = HEAD + 'metric = "accuracy"\ndirection = "maximize"\nobjectives = ["accuracy", "macs_ratio"]\n'
    assert load(spelt + REST).study == study == SearchConfig(name="s")


def test_a_metric_to_be_minimised(load: Load) -> None:
    config = load(HEAD + POINT + OWN.format("rmse", "minimize"))
    assert config.study.objectives == ("rmse", "macs_ratio")
    assert config.study.directions == ("minimize", "minimize")
    assert config.study.score_metric == Metric("rmse", "minimize", 2.0)
    assert config.study.reference_point == {"rmse": 2.0, "macs_ratio": 1.0}
    assert read_stored(json.loads(json.dumps(config.to_dict()))) == config


def test_another_metric_to_be_maximised(load: Load) -> None:
    study = load(HEAD + 'objectives = ["params_ratio", "miou"]\n' + OWN.format("miou", "maximize")).study
    assert study.directions == ("minimize", "maximize")
    assert study.reference_point == {"miou": 0.0, "macs_ratio": 1.0, "params_ratio": 1.0}
    worse = load(HEAD + "reference_point = { r2 = -2.0, macs_ratio = 1.0 }\n" + OWN.format("r2", "maximize")).study
    assert worse.score_metric == Metric("r2", "maximize", -2.0)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('metric = "RMSE"\n', "`metric` must be a name of lower-case letters, digits and underscores that begins with"),
        (
            'metric = "macs_ratio"\n',
            "`metric` must be a name that nothing else about a trial has, but got 'macs_",
        ),
        ('metric = "wall_s"\n', "`metric` must be a name that nothing else about a trial has, but got 'wall_s'."),
        ("metric = 3\n", "`metric` must be a text, but got 3 (a whole number)."),
        ('direction = "down"\n', "`direction`: there is no choice 'down'. Valid: maximize, minimize."),
        (
            RMSE,
            (
                '`reference_point` must be given with `direction` = "minimize", but is missing. Give the rmse of a '
                "useless network, such as the standard deviation of the targets for rmse: "
                "reference_point = { rmse = ..., macs_ratio = 1.0 }."
            ),
        ),
        (
            RMSE + "reference_point = { macs_ratio = 1.0 }\n",
            "`reference_point` must name every objective, but lacks rmse.",
        ),
        (
            RMSE + "reference_point = { rmse = 0.0, macs_ratio = 1.0 }\n",
            "`reference_point` must be worse than the ideal, with rmse greater than 0, but got rmse=0.0.",
        ),
        (
            RMSE + "reference_point = { accuracy = 0.0, macs_ratio = 1.0 }\n",
            "`reference_point`: there is no objective 'accuracy'. Valid: latency_ms, macs_ratio, params_ratio, rmse.",
        ),
        (
            RMSE + POINT + 'objectives = ["accuracy", "macs_ratio"]\n',
            "`objectives`: there is no objective 'accuracy'. Valid: latency_ms, macs_ratio, params_ratio, rmse.",
        ),
        (
            RMSE + POINT + 'objectives = ["macs_ratio", "params_ratio"]\n',
            (
                "`objectives` must be rmse and at least one cost, each once, but got ['macs_ratio', 'params_ratio']. "
                'Use ["rmse", "macs_ratio"].'
            ),
        ),
        (RMSE + POINT + "objectives = []\n", "`objectives` must be rmse and at least one cost, each once, but got []."),
        (
            'metric = "miou"\nreference_point = { miou = 1.0, macs_ratio = 1.0 }\n',
            "`reference_point` must be worse than the ideal, with miou in [0, 1), but got miou=1.0.",
        ),
    ],
)
def test_what_can_not_be_scored_by(lines: str, told: str, load: Load) -> None:
    with refused(f"study.toml: [study]: {told}"):
        load(HEAD + lines + REST)


def test_a_study_from_before_there_were_metrics_maximises_accuracy(load: Load) -> None:
    config = load(HEAD + "reference_point = { accuracy = 0.7, macs_ratio = 1.0 }\n" + REST)
    stored = json.loads(json.dumps(config.to_dict()))
    del stored["study"]["metric"], stored["study"]["direction"]
    assert read_stored(stored) == config
    assert read_stored(stored).study.score_metric == Metric("accuracy", "maximize", 0.7)


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ("[spice]\n", "there is no table 'spice'; did you mean 'space'? Valid: method, space."),
        ("space = 3\n", "[space] must be a table, but got 3."),
        ("method = 3\n", "[method] must be a table, but got 3."),
        ("[method]\nsoft = 3\n", "[method.soft] must be a table, but got 3."),
        ("[space]\nmetods = []\n", "[space]: there is no key 'metods'; did you mean 'methods'?"),
        ("[space]\nmethods = []\n", "[space]: `methods` must name at least one method, but is empty."),
        ('[space]\nmethods = "*"\n', "[space]: `methods` must be a list, each entry a text, but got '*' (a text)."),
        (
            '[space]\nmethods = ["plane"]\n',
            "[space] `methods`: there is no method 'plane'; did you mean 'plain'? Valid: *, ",
        ),
        ('[space]\nmethods = ["*", "soft"]\n', "[space] `methods`: there is no method '*'"),
        (
            "[method.sofd]\nstrength = 1\n",
            "[method.sofd]: there is no method 'sofd'; did you mean 'soft'? Valid: plain, soft.",
        ),
        (
            '[space]\nmethods = ["plain"]\n[method.soft]\nstrength = 1\n',
            "[method.soft] is given, but `methods` of [space] names only plain. Add 'soft' there, or drop the table.",
        ),
        (
            "[method.soft]\nstrenght = 1\n",
            "[method.soft]: there is no hyper-parameter 'strenght'; did you mean 'strength'?",
        ),
        ("[method.plain]\nstrength = 1\n", "[method.plain]: there is no hyper-parameter 'strength'. Valid: none."),
        (
            "[method.soft]\nstrength = { low = 1 }\n",
            "[method.soft.strength]: a range must have `low` and `high`, or a list",
        ),
        (
            "[method.soft]\nstrength = { low = 2, high = 1 }\n",
            "[method.soft.strength]: `low` must not exceed `high`, but ",
        ),
        (
            "[method.soft]\nstrength = { lo = 2, high = 1 }\n",
            "[method.soft.strength]: there is no key 'lo'; did you mean ",
        ),
        (
            '[method.soft]\nstrength = { low = "a", high = 1 }\n',
            "[method.soft.strength]: `low` must be a number, but got ",
        ),
        (
            "[method.soft]\nstrength = []\n",
            "[method.soft.strength]: a range is either a non-empty list `values` or an ",
        ),
        (
            '[method.soft]\nstrength = { low = 0, high = 1, scale = "log" }\n',
            "[method.soft.strength]: `low` must be > 0 on",
        ),
        (
            '[space]\nwidth_rules = ["unifrom"]\n',
            "[space]: `width_rules`: there is no width rule 'unifrom'; did you mean ",
        ),
        (
            "[space]\nwidth_rules = []\n",
            "[space]: `width_rules` must name at least one of uniform, global, per_group, per_stage, aofp, learned, ",
        ),
        (
            '[space]\nwidth_rules = ["global", "global"]\n',
            "[space]: `width_rules` must name at least one of uniform, global",
        ),
        (
            "[space]\nmacs_target = { low = 0.2, high = 1.4 }\n",
            "[space]: `macs_target` must lie in (0, 1], but got 1.4. Give a share of the dense MACs.",
        ),
        ("[space]\nmacs_target = { low = 0.0, high = 1 }\n", "[space]: `macs_target` must lie in (0, 1], but got 0.0."),
        ("[space]\nmacs_target = { values = [0.5, 50] }\n", "[space]: `macs_target` must lie in (0, 1], but got 50.0."),
        (
            '[space]\nmacs_target = { values = ["half"] }\n',
            "[space]: `macs_target` must lie in (0, 1], but got 'half'.",
        ),
        ("[space]\nmacs_target = { values = [true] }\n", "[space]: `macs_target` must lie in (0, 1], but got True."),
        (
            "[space]\nmacs_target = { low = 0.2, high = 0.9, step = 1e-9 }\n",
            "[space.macs_target]: `step` must leave at most ",
        ),
        ("[space]\nmacs_target = 0.5\n", "[space]: `macs_target` must be a table, but got 0.5 (a number)."),
        ("[space\n", "this is not valid TOML: "),
    ],
)
def test_a_space_file_that_does_not_hold(space: str, told: str, load: Load, tmp_path: Path) -> None:
    with refused(f"{tmp_path}/own.toml: {told}"):
        load(HEAD + REST, space=space)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '[study]\nname = "s"\nspace = 3\n' + REST,
            "study.toml: [study] `space` must name a search space (any, densenet_cifar, mobilenet_cifar, ",
        ),
        (
            '[study]\nname = "s"\nspace = "resnet_cifer"\n' + REST,
            "study.toml: [study] `space`: there is no search space 'resnet_cifer'; did you mean 'resnet_cifar'? Val",
        ),
        ('[study]\nname = "s"\nspace = "gone.toml"\n' + REST, "study.toml: [study] `space`: there is no file "),
        (
            HEAD + REST + SPACE,
            "study.toml: the space is given twice, by [study] `space` and by the table [space]. Drop one.",
        ),
        (
            HEAD + REST + "[method.soft]\nstrength = 1\n",
            "study.toml: the space is given twice, by [study] `space` and by the table [method]. Drop one.",
        ),
    ],
)
def test_a_space_that_is_not_given_once(text: str, told: str, load: Load) -> None:
    with refused(told):
        load(text)


def test_files_that_can_not_be_read(load: Load, tmp_path: Path) -> None:
    load(HEAD + REST)
    with refused("gone.toml: there is no such file. Check the path."):
        load_study(Path("gone.toml"), CATALOGUE)
    with refused(f"{tmp_path}: this is a folder, but a TOML file is needed."):
        load_study(tmp_path, CATALOGUE)
    with refused("study.toml/x.toml: this file can't be read: Not a directory."):
        load_study(Path("study.toml/x.toml"), CATALOGUE)
    with refused("a\0.toml: this file can't be read: embedded null byte."):
        load_study(Path("a\0.toml"), CATALOGUE)
    with refused("/dev/zero: a TOML file must be smaller than 16 MiB. Check the path."):
        load_study(Path("/dev/zero"), CATALOGUE)
    Path("binary.toml").write_bytes(b"\xff\xfe\x00name")
    with refused("binary.toml: this is not a text in UTF-8, but a TOML file is needed."):
        load_study(Path("binary.toml"), CATALOGUE)
    with refused(
        "study.toml: this is not valid TOML: Expected '=' after a key in a key/value pair (at line 1, column 3)."
    ):
        load("a b\n")
    with refused("study.toml: this is not valid TOML: "):
        load("a = " + "[" * 100_000)
    with refused("study.toml: this is not valid TOML: "):
        load("a = " + "1" * 5_000)


# What the database keeps


def _some_configs() -> st.SearchStrategy[StudyConfig]:
    ranges = st.builds(
        lambda low, width, points: Range(low=low, high=low + width, points=points),
        st.floats(1e-3, 10), st.floats(0, 10), st.none() | st.integers(2, 9),
    ) | st.lists(st.floats(0, 1) | st.text(max_size=3) | st.just(False), min_size=1, unique_by=str).filter(
        lambda values: len(set(values)) == len(values)
    ).map(lambda values: Range(values=tuple(values)))  # fmt: skip
    targets = st.floats(0.01, 0.5).map(lambda low: Range(low=low, high=2 * low, step=0.1))
    spaces = st.builds(
        SpaceConfig,
        name=st.text(max_size=5),
        methods=st.dictionaries(
            st.text(max_size=5), st.dictionaries(st.text(max_size=5), ranges), min_size=1, max_size=2
        ),
        width_rules=st.sampled_from([("uniform",), ("global", "uniform")]),
        macs_target=targets,
    )
    studies = st.builds(
        SearchConfig,
        name=st.text(alphabet="abcé 1", min_size=1).filter(lambda name: name == name.strip()),
        n_trials=st.integers(1, 10**6),
        seed=st.integers(0, 10**30),
        objectives=st.sampled_from(
            [("accuracy", "macs_ratio"), ("params_ratio", "accuracy"), ("accuracy", "macs_ratio", "params_ratio")]
        ),
        lease_s=st.floats(0.1, 1e6),
        trial_time_limit=st.none() | st.sampled_from(["45s", "1h30m"]),
    )
    trains = st.builds(TrainSpec, epochs=st.floats(0, 100), learning_rate=st.floats(1e-9, 100))
    settings = st.builds(
        SettingSpec,
        network=st.builds(NetworkSpec, factory=st.text(), exclude=st.lists(st.text(max_size=4)).map(tuple)),
        data=st.builds(DataSpec, source=st.just("digits"), mean=st.none() | st.tuples(st.floats(-1, 1))),
        dense=trains, sparsify=trains, finetune=trains,
        artifacts=st.text(), threads=st.none() | st.integers(1, 99),
    )  # fmt: skip
    resources = st.builds(ResourcesConfig, concurrency=st.none() | st.integers(1, 99), cpu=st.floats(0.1, 64))
    return st.builds(StudyConfig, study=studies, setting=settings, space=spaces, resources=resources)


@given(config=_some_configs())
def test_a_configuration_survives_the_database(config: StudyConfig) -> None:
    again = read_stored(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.to_dict() == config.to_dict()
    assert hash(again.setting) == hash(config.setting)


def test_a_stored_configuration_of_another_version(load: Load) -> None:
    data = load(HEAD + REST).to_dict()
    data["setting"]["colour"] = "red"
    with refused("[stored configuration.setting]: there is no key 'colour'. Valid: "):
        read_stored(data)
    with refused("[stored configuration]: the key `study` must be given (a table), but is missing."):
        read_stored({})


# The recipe


def test_what_is_searched_of_the_recipe(load: Load) -> None:
    space = SPACE + "[space.finetune]\nlearning_rate = { low = 0.01, high = 0.1 }\ndistill = { weight = [0.5, 0.9] }\n"
    config = load(HEAD + REST + "[train.finetune]\ndistill = {}\n", space=space)
    assert config.space.finetune == {
        "learning_rate": Range(low=0.01, high=0.1), "distill.weight": Range(values=(0.5, 0.9)),
    }  # fmt: skip
    assert read_stored(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("momentum = [0.9]", "own.toml: [space]: `finetune`: there is no searched part of the recipe 'momentum'"),
        ('learning_rate = ["high"]', "own.toml: [space]: `finetune.learning_rate` must hold numbers, but got ['high']"),
        ("learning_rate = [0.1, 200]", "study.toml: [space] `finetune.learning_rate`: `learning_rate` must be in"),
        ("distill.weight = [0.5]", "study.toml: [space] `finetune.distill.weight`: `distill.weight` can be"),
        ("distill = 0.5", "own.toml: [space.finetune.distill] must be a table, but got 0.5"),
    ],
)  # fmt: skip
def test_what_can_not_be_searched_of_the_recipe(load: Load, table: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        load(HEAD + REST, space=SPACE + f"[space.finetune]\n{table}\n")


def test_a_study_from_before_there_was_a_stopper_goes_on_without_one(load: Load) -> None:
    stored = load(HEAD + REST).to_dict()
    assert read_stored(stored).study.stopper
    del stored["study"]["stopper"]
    assert not read_stored(stored).study.stopper
