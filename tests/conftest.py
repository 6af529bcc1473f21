"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# Several suites run on few cores: an example may take long without anything being wrong.
settings.register_profile("autoprune", deadline=None, max_examples=50)
settings.load_profile("autoprune")
