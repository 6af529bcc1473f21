"""Scores that rank channels, one file each; every entry of `IMPORTANCES` is a method that ranks the dense network."""

from autoprune.engine.contracts import Importance
from autoprune.importances._damage import Damage
from autoprune.importances._filter_norm import FilterNorm
from autoprune.importances._fisher import Fisher
from autoprune.importances._group_norm import GroupNorm
from autoprune.importances._noise_out import NoiseOut
from autoprune.importances._normalise import NORMALISATIONS, normalise
from autoprune.importances._obs import OBS
from autoprune.importances._random import Random
from autoprune.importances._scale import ScaleMagnitude, require_scales
from autoprune.importances._taylor import Taylor

__all__ = [
    "IMPORTANCES",
    "NORMALISATIONS",
    "OBS",
    "Damage",
    "FilterNorm",
    "Fisher",
    "GroupNorm",
    "NoiseOut",
    "Random",
    "ScaleMagnitude",
    "Taylor",
    "normalise",
    "require_scales",
]

IMPORTANCES: dict[str, type[Importance]] = {
    "group_norm": GroupNorm,
    "filter_norm": FilterNorm,
    "scale": ScaleMagnitude,
    "taylor": Taylor,
    "damage": Damage,
    "fisher": Fisher,
    "obs": OBS,
    "noise_out": NoiseOut,
    "random": Random,
}
