"""Layers that learn which channels can go, then fold into the convolution before them."""

from autoprune.compactors._pointwise import Pointwise
from autoprune.compactors._whitening import Gate, Whitening

__all__ = ["Gate", "Pointwise", "Whitening"]
