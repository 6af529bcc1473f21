"""Networks as Python source: a file that needs nothing but torch."""

from autoprune.engine.source.writing import source_of

__all__ = ["source_of"]
