"""A user's functions are found where autoprune is started, and every way to miss them is one sentence."""

import hashlib
import importlib
import pickle
import sys
import types

import pytest

from autoprune.errors import ConfigError
from autoprune.importing import call_factory, given_name, told


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module into the current folder; it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)

    def write(name, text):
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return name

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def failing(name, key="network.factory"):
    with pytest.raises(ConfigError, match=f"^`{key}` = '{name}'") as caught:
        call_factory(name, key=key)
    return str(caught.value)


def test_a_function_of_the_current_folder(module):
    module("own_net_a", "def build():\n    return [1, 2]\n")
    assert call_factory("own_net_a:build", key="network.factory") == [1, 2]
    assert call_factory("own_net_a:build", key="network.factory") is not call_factory("own_net_a:build", key="x")


def test_nested_names(module):
    module("own_package.nets.small", "class Small:\n    @staticmethod\n    def build():\n        return 'small'\n")
    assert call_factory("own_package.nets.small:Small.build", key="network.factory") == "small"


def test_the_current_folder_is_searched_once(module):
    module("own_net_b", "def build():\n    return 1\n")
    before = list(sys.path)
    for _ in range(3):
        call_factory("own_net_b:build", key="network.factory")
    assert len(sys.path) <= len(before) + 1


@pytest.mark.parametrize(
    "name", ["own_net", "own_net:", ":build", "own-net:build", "own_net:build()", "", "a:b:c", "a..b:c"]
)
def test_names_of_another_form(name):
    with pytest.raises(ConfigError, match=r"^`data\.factory` must look like package\.module:function, but got "):
        call_factory(name, key="data.factory")


def test_a_module_that_is_not_there(module, tmp_path):
    told = failing("own_nett:build")
    assert told.startswith("`network.factory` = 'own_nett:build' can't be imported: there is no module 'own_nett'.")
    assert str(tmp_path) in told
    assert "PYTHONPATH" in told


def test_a_package_that_lacks_the_module(module):
    module("own_pack.one", "")
    assert "there is no module 'own_pack.two'" in failing("own_pack.two:build")


def test_a_module_that_needs_what_is_not_installed(module):
    module("own_net_c", "import not_installed_anywhere\n")
    told = failing("own_net_c:build")
    assert "its module raised ModuleNotFoundError: No module named 'not_installed_anywhere'" in told
    assert "install what it needs" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("raise RuntimeError('no GPU here.')", "its module raised RuntimeError: no GPU here. Fix it"),
        ("def build(:", "its module raised SyntaxError"),
        ("raise SystemExit(3)", "its module raised SystemExit: 3. Fix it"),
    ],
)
def test_a_module_that_raises(module, text, told):
    name = module(f"own_net_{abs(hash(text))}", text)
    assert told in failing(f"{name}:build")


def test_a_name_that_is_not_in_the_module(module):
    module("own_net_d", "from os.path import join\nx = 1\ndef build():\n    return 1\ndef other():\n    return 2\n")
    assert failing("own_net_d:biuld") == (
        "`network.factory` = 'own_net_d:biuld': in own_net_d there is no function 'biuld'; did you mean 'build'? "
        "Valid: build, other."
    )


def test_what_is_no_function(module):
    module("own_net_e", "build = 5\n")
    assert failing("own_net_e:build", key="data.factory") == (
        "`data.factory` = 'own_net_e:build' must be a function, but it is a int."
    )


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise ValueError('bad\\nmore')", "raised ValueError: bad. Fix the function."),
        ("raise SystemExit", "raised SystemExit. Fix the function."),
        ("1 / 0", "raised ZeroDivisionError: division by zero. Fix the function."),
    ],
)
def test_a_function_that_raises(module, body, told):
    name = module(f"own_net_{abs(hash(body))}", f"def build():\n    {body}\n")
    assert failing(f"{name}:build").endswith(told)


def test_the_cause_stays_chained(module):
    module("own_net_f", "def build():\n    return {}['missing']\n")
    with pytest.raises(ConfigError, match="raised KeyError: 'missing'") as caught:
        call_factory("own_net_f:build", key="network.factory")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_function_that_takes_arguments(module):
    module("own_net_g", "def build(width):\n    return width\n")
    assert "raised TypeError: build() missing 1 required positional argument: 'width'" in failing("own_net_g:build")


def test_a_room_with_the_name_of_a_function_is_called_like_it(module, monkeypatch):
    import autoprune
    import autoprune.search.pareto  # Importing the room puts it where the function was.

    assert isinstance(autoprune.search, types.ModuleType)
    monkeypatch.setattr("autoprune.api.search", lambda *args, **kwargs: (args, kwargs))
    assert autoprune.search("network", "task", n_trials=1) == (("network", "task"), {"n_trials": 1})


def kept(folder, value):
    content = pickle.dumps(value)
    path = folder / "kept.pkl"
    path.write_bytes(content)
    return path, given_name(path, hashlib.sha256(content).hexdigest())


def test_an_object_that_was_given_in_python_is_read_anew_each_time(tmp_path):
    _, name = kept(tmp_path, {"a": [1, 2]})
    first, again = call_factory(name, key="network.factory"), call_factory(name, key="network.factory")
    assert first == again == {"a": [1, 2]}
    assert first is not again
    assert (told(name), told("mine:net"), told(None)) == ("given in Python", "mine:net", None)


def test_only_what_the_study_was_started_with_is_read(tmp_path):
    path, name = kept(tmp_path, [1])
    path.write_bytes(pickle.dumps([2]))
    with pytest.raises(ConfigError, match=r"^`network.factory`: .*kept.pkl must be what the study was started with"):
        call_factory(name, key="network.factory")
    path.unlink()
    with pytest.raises(ConfigError, match=r"was given in Python and kept in .*, but that can't be read"):
        call_factory(name, key="network.factory")


def test_what_needs_a_module_that_is_gone_is_told(module, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    name = module("own_kept", "class Net:\n    pass\n")
    _, given = kept(tmp_path, __import__(name).Net())
    del sys.modules[name]
    (tmp_path / "own_kept.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match="can't be read back: ModuleNotFoundError: No module named 'own_kept'"):
        call_factory(given, key="network.factory")
