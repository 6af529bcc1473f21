"""Contract tests that anybody can run on a penalty, importance, method, width rule or sampler of their own.

::

    from autoprune.testing import check_penalty

    def test_mine():
        check_penalty(Mine(strength=0.1))

Each function raises AssertionError with one sentence on what does not hold. Ours pass the same ones.
"""

from typing import TYPE_CHECKING

from autoprune.importing import lazy_names

if TYPE_CHECKING:
    from autoprune.testing._methods import check_importance, check_method
    from autoprune.testing._penalties import check_penalty
    from autoprune.testing._samplers import check_sampler
    from autoprune.testing._width_rules import check_width_rule

__all__ = ["check_importance", "check_method", "check_penalty", "check_sampler", "check_width_rule"]

_HOMES = {
    "check_importance": f"{__name__}._methods",
    "check_method": f"{__name__}._methods",
    "check_penalty": f"{__name__}._penalties",
    "check_sampler": f"{__name__}._samplers",
    "check_width_rule": f"{__name__}._width_rules",
}
__getattr__ = lazy_names(__name__, _HOMES)
