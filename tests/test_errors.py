"""The error tree, and the sentence about an unknown name."""

from __future__ import annotations

import inspect

import pytest

from autoprune import errors
from autoprune.errors import AutopruneError, first_line, unknown_name

LEAVES = {
    "ConfigError": ValueError,
    "DataError": ValueError,
    "IdentityError": ValueError,
    "InfeasibleError": ValueError,
    "LeaseLostError": RuntimeError,
    "NetworkError": ValueError,
    "SpaceExhaustedError": LookupError,
    "StorageError": RuntimeError,
    "StudyFailedError": RuntimeError,
    "TrialError": RuntimeError,
    "TrialStoppedError": RuntimeError,
    "WeightsError": ValueError,
}


def test_the_tree_is_complete() -> None:
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert classes == {*LEAVES, "AutopruneError", "OutageError", "WorkerDiedError"}
    assert errors.OutageError.__bases__ == (errors.StorageError,)
    assert errors.WorkerDiedError.__bases__ == (errors.StudyFailedError,)
    assert set(errors.__all__) == classes | {"first_line", "in_one_line", "unknown_name"}


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_each_leaf_is_ours_and_a_builtin(name: str) -> None:
    leaf = getattr(errors, name)
    assert leaf.__bases__ == (AutopruneError, LEAVES[name])
    assert f"{name}({LEAVES[name].__name__})" in str(errors.__doc__)  # the tree that is drawn is the tree that is


@pytest.mark.parametrize(
    ("name", "valid", "told"),
    [
        (
            "sliming",
            ["slimming", "resrep"],
            "there is no method 'sliming'; did you mean 'slimming'? Valid: resrep, slimming.",
        ),
        ("zzz", ["slimming", "resrep"], "there is no method 'zzz'. Valid: resrep, slimming."),
        ("zzz", [], "there is no method 'zzz'. Valid: none."),
        (
            "Slimming",
            ["resrep", "slimming"],
            "there is no method 'Slimming'; did you mean 'slimming'? Valid: resrep, slimming.",
        ),
        (
            "resnet21",
            ["resnet20", "resnet32"],
            "there is no method 'resnet21'; did you mean 'resnet20'? Valid: resnet20, resnet32.",
        ),
        ("mag", ["magnitude", "magnet"], "there is no method 'mag'; did you mean 'magnet'? Valid: magnet, magnitude."),
        ("", ["a"], "there is no method ''. Valid: a."),
        ("b", iter(["c", "a"]), "there is no method 'b'. Valid: a, c."),
    ],
)
def test_unknown_name(name: str, valid: list[str], told: str) -> None:
    assert unknown_name("method", name, valid) == told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("sizes differ.\nsee the manual"), "sizes differ"),
        (RuntimeError("\n  it broke\n"), "it broke"),
        (KeyError(), "KeyError"),
    ],
)
def test_an_exception_is_told_by_its_first_line(error: BaseException, told: str) -> None:
    assert first_line(error) == told
