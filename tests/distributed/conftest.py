"""What tests of the driver and of what it tells share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprune.search.storage import Database, StudyHandle


@pytest.fixture
def study(tmp_path: Path) -> Iterator[StudyHandle]:
    """An empty study of accuracy and MACs."""
    db = Database.open(f"sqlite:///{tmp_path}/study.db", create=True)
    yield StudyHandle.create_or_join(
        db,
        name="s",
        identity={},
        config={},
        directions=["maximize", "minimize"],
        objectives=["accuracy", "macs_ratio"],
    )
    db.close()
