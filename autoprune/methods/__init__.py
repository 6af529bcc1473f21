"""Named recipes: what is penalised, by what, when, and how channels are ranked afterwards."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from autoprune.config import Range
from autoprune.engine.contracts import Method
from autoprune.errors import ConfigError, unknown_name
from autoprune.importances import IMPORTANCES
from autoprune.importing import import_named, is_own
from autoprune.methods._aofp import AOFP
from autoprune.methods._bwcp import BWCP
from autoprune.methods._ffr import FFR
from autoprune.methods._granet import GraNet
from autoprune.methods._halo import Halo
from autoprune.methods._implicit import Implicit
from autoprune.methods._named import NamedMethod, named_method, of_class, of_importance, of_penalty
from autoprune.methods._orthoreg import OrthoReg
from autoprune.methods._ranking import Ranking
from autoprune.methods._resrep import ResRep
from autoprune.methods._slimming import Slimming
from autoprune.penalties import PENALTIES

__all__ = [
    "AOFP",
    "BWCP",
    "FFR",
    "METHODS",
    "GraNet",
    "Halo",
    "Implicit",
    "NamedMethod",
    "OrthoReg",
    "Ranking",
    "ResRep",
    "Slimming",
    "build",
    "catalogue",
    "method_named",
    "ranges",
    "stock",
]

# Studies knew these methods before their penalty or importance had a name of its own.
_FIRST_NAMES = {"l1": "slimming", "group_norm": "magnitude"}

_RECIPES: tuple[type[Method], ...] = (Halo, Implicit, ResRep, AOFP, BWCP, FFR, OrthoReg, GraNet)
_ALL = (
    *(of_penalty(kind, _FIRST_NAMES.get(name, f"slimming_{name}")) for name, kind in PENALTIES.items()),
    *(of_class(recipe, recipe.name) for recipe in _RECIPES),
    *(of_importance(kind, _FIRST_NAMES.get(name, name)) for name, kind in IMPORTANCES.items()),
)
METHODS: dict[str, NamedMethod] = {method.name: method for method in _ALL}
"""By name; a penalty or an importance that is added to its own mapping is a method here."""


def method_named(name: str) -> NamedMethod:
    """The method ``name``, or what somebody's own class ``package.module:Class`` makes.

    The class may be a method, a penalty, which makes a method of network slimming, or an importance, by which the dense
    network is ranked.

    Raises:
        ConfigError: There is none of this name, or the class is not what it must be.
    """
    if is_own(name):
        return named_method(import_named(name, key="methods", what="class"), name)
    if name not in METHODS:
        raise ConfigError(unknown_name("method", name, METHODS))
    return METHODS[name]


def stock(fit: Iterable[str], *, n_steps: int) -> list[str]:
    """What ``methods = ["*"]`` means among the methods that fit: the short list, or all where none of it fits.

    Args:
        fit: Names of methods that can prune the network.
        n_steps: Of the study's sparsify phase, in which some of them act only where it is long enough.
    """
    names = list(fit)
    least = {name: method_named(name).least_steps for name in names}
    return [name for name, steps in least.items() if steps is not None and n_steps >= steps] or names


def build(name: str, hyper: Mapping[str, Any]) -> Method:
    """Make the method ``name`` with its hyper-parameters.

    Raises:
        ConfigError: An unknown method or hyper-parameter, or one out of range.
    """
    return method_named(name).build(hyper)


class _Catalogue(Mapping[str, Mapping[str, Range | None]]):
    """The methods that there are, in order; somebody's own can be looked up, too, but is not among those listed."""

    def __getitem__(self, name: str) -> Mapping[str, Range | None]:
        if name not in METHODS and not is_own(name):
            raise KeyError(name)
        return method_named(name).catalogue

    def __iter__(self) -> Iterator[str]:
        return iter(METHODS)

    def __len__(self) -> int:
        return len(METHODS)


def catalogue() -> Mapping[str, Mapping[str, Range | None]]:
    """Every hyper-parameter of every method, from the fields' own metadata.

    Each comes with the range that is searched where a space names none; None stands for one that then stays at its
    default.
    """
    return _Catalogue()


def ranges() -> dict[str, dict[str, Range]]:
    """What of the `catalogue` is searched where a space names nothing."""
    return {
        name: {key: values for key, values in fields.items() if values is not None}
        for name, fields in catalogue().items()
    }
