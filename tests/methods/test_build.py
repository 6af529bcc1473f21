"""From a name and hyper-parameters to a method."""

from dataclasses import dataclass

import pytest

from autoprune import methods
from autoprune.config import option
from autoprune.errors import ConfigError
from autoprune.importances import GroupNorm
from autoprune.methods import NamedMethod, Ranking


@dataclass(frozen=True)
class Rounds(Ranking):
    """A method with a whole number, a number and a truth value."""

    rounds: int = option(2, low=1, high=9)
    share: float = option(0.5)
    paired: bool = option(False)


@pytest.fixture(autouse=True)
def _rounds(monkeypatch):
    monkeypatch.setitem(methods.METHODS, "rounds", NamedMethod("rounds", Rounds, GroupNorm))


def test_a_whole_float_does_for_a_whole_number():
    built = methods.build("rounds", {"rounds": 3.0, "share": 1.0, "paired": True})
    assert built == Rounds(GroupNorm(), rounds=3, share=1.0, paired=True)
    assert (type(built.rounds), type(built.share)) == (int, float)


@pytest.mark.parametrize("value", [2.5, True, "3", float("nan")])
def test_nothing_else_does(value):
    with pytest.raises(ConfigError, match="`rounds` must be a whole number, but got"):
        methods.build("rounds", {"rounds": value})
