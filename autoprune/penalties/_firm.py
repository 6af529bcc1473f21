"""Firm shrinkage: the minimax concave penalty under the name and the parameters of weakly convex penalties."""

from __future__ import annotations

from autoprune.errors import ConfigError
from autoprune.penalties._mcp import MCP

__all__ = ["firm"]


def firm(strength: float, *, curvature: float) -> MCP:
    """The penalty whose proximal step is firm shrinkage: MCP, so it is no entry of ``PENALTIES`` of its own.

    ``P(x) = strength * (|x| - curvature * x**2)`` for ``|x| <= 1 / (2 curvature)``, constant beyond.

    Args:
        strength: b, the slope at zero, > 0.
        curvature: ζ, > 0; the knee lies at ``1 / (2 curvature)``.

    Returns:
        MCP with that knee, which is ``MCP(λ = b, a = 1 / (2ζb))`` in the words of the papers.

    Raises:
        ConfigError: A value out of range.

    Example:
        >>> firm(0.25, curvature=0.5)
        MCP(strength=0.25, knee=1.0)

    References:
        Shen and Gu (2018), Nonconvex sparse logistic regression with weakly convex regularization, arXiv 1708.02059.
    """
    if not curvature > 0:
        raise ConfigError(f"`curvature` must be greater than 0, but got curvature={curvature}. With 0 it is L1.")
    return MCP(strength, 1 / (2 * curvature))
