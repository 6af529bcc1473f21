"""Merging is one of two ways to make up for removed channels."""

import pytest

from autoprune.config.spec import EngineSpec
from autoprune.errors import ConfigError


def test_readers_are_refitted_in_one_way():
    assert not EngineSpec().merge
    with pytest.raises(ConfigError, match=r"`merge` and `compensate` both refit .* Drop one of them\.$"):
        EngineSpec(merge=True, compensate=True)
