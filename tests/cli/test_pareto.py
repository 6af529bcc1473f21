from __future__ import annotations

import json
import random
from pathlib import Path

from autoprune import methods
from autoprune.cli.main import main
from autoprune.config import load_study
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Lifecycle, Proposal

CONFIG = load_study(Path(__file__).parents[2] / "studies" / "digits" / "study.toml", methods.ranges())


def test_json_of_a_condition_equals_a_front_computed_by_brute_force(tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/study.db"
    db = Database.open(url, create=True)
    study = StudyHandle.create_or_join(
        db, name="s", identity={}, config={"config": CONFIG.to_dict()},
        directions=["maximize", "minimize"], objectives=["accuracy", "macs_ratio"],
    )  # fmt: skip
    lifecycle, draw, points = Lifecycle(study, owner="x", n_trials=120), random.Random(0), {}
    for i in range(120):
        claim = lifecycle.claim(Proposal(params={}, distributions={}, key=str(i), attrs={"method": "m"}))
        # Coarse values, so that there are ties in one objective and in both.
        ratio = draw.randrange(1, 41) / 40
        point = (round(0.6 + 0.3 * ratio + 0.02 * draw.randrange(-3, 4), 2), ratio)
        if i % 10 == 9:
            lifecycle.failed(claim.trial_id, "no")
        else:
            lifecycle.complete(claim.trial_id, point, {})
            points[claim.number] = point
    db.close()

    assert main(["pareto", "s", "--where", "macs_ratio <= 0.5", "--format", "json", "--storage", url]) == 0
    told = {row["number"]: (row["accuracy"], row["macs_ratio"]) for row in json.loads(capsys.readouterr().out)}

    cheap = {number: point for number, point in points.items() if point[1] <= 0.5}

    def dominated(a):
        return any(b[0] >= a[0] and b[1] <= a[1] and b != a for b in cheap.values())

    assert told == {number: point for number, point in cheap.items() if not dominated(point)}
    assert 3 < len(told) < len(cheap)
