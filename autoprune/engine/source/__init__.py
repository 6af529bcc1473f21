"""Networks as Python source: a file that needs nothing but torch."""

from autoprune.engine.source.writing import Source, source_of

__all__ = ["Source", "source_of"]
