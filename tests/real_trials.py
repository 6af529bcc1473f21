"""Real trials of seconds, in a database made through the search API; and networks that exporting has to bear."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.api import _planning
from autoprune.config import TrialResult, TrialSpec
from autoprune.engine.files import PhaseStore
from autoprune.pipeline import open_workbench, run_trial
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle, Proposal

STUDY = """
[study]
name = "tiny"
n_trials = 9

[space]
methods = ["magnitude"]

[network]
{network}

[data]
source = "digits"
validation = "random:0.25"

[train.dense]
epochs = 0.2

[train.finetune]
epochs = 0.05

[engine]
precision = "float32"
artifacts = "{folder}/artifacts"
recalibration_images = 64
"""


class ConcatDepthwise(nn.Module):
    """A branch with a depthwise convolution, concatenated with its input; a residual sum; squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU6())
        self.mix = nn.Conv2d(32, 24, 1)
        self.again = nn.Conv2d(24, 24, 3, padding=1)
        self.squeeze = nn.Conv2d(24, 8, 1)
        self.excite = nn.Conv2d(8, 24, 1)
        self.head = nn.Linear(24 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.mix(torch.cat([x, self.depthwise(x)], dim=1))
        x = x + torch.relu(self.again(x))
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = nn.functional.adaptive_avg_pool2d(x, 2)
        return self.head(x.flatten(1))


def concat_depthwise() -> nn.Module:
    """What a study file's `factory` names."""
    return ConcatDepthwise()


@dataclass(frozen=True)
class RealStudy:
    """A database with trials that were run."""

    url: str
    results: tuple[TrialResult, ...]
    specs: tuple[TrialSpec, ...]


def run_study(
    folder: Path,
    points: Sequence[Mapping[str, Any]],
    *,
    network: str,
    study_file: str = STUDY,
    accuracies: Sequence[float] = (),
) -> RealStudy:
    """Run one trial for each point and tell the database; one more trial is left running.

    Args:
        folder: Where database and artifacts go.
        points: What is not as in the stock point.
        network: The table of the study file.
        study_file: The study file, to be filled in.
        accuracies: What the database is told in place of what was reached, so that its front is known beforehand.
    """
    file, url = folder / "study.toml", f"sqlite:///{folder / 'autoprune.db'}"
    file.write_text(study_file.format(network=network, folder=folder))
    config = _planning.load_config(file)
    workbench = open_workbench(config.setting)
    db = Database.open(url, create=True)
    study = StudyHandle.create_or_join(
        db,
        name=config.study.name,
        identity=_planning.identity_of(config, workbench),
        config={"config": config.to_dict(), "cost": workbench.traced.cost.to_dict()},
        directions=config.study.directions,
        objectives=config.study.objectives,
    )
    lifecycle = Lifecycle(study, owner="here:1:abc", n_trials=config.study.n_trials, grace_s=10**9)
    phases = PhaseStore(Path(config.setting.artifacts) / "phases")
    results, specs = [], []
    for index, chosen in enumerate([*points, {}]):
        point = {"method": "magnitude", "width_rule": "uniform", "macs_target": 0.5, **chosen}
        claim = lifecycle.claim(Proposal(params={}, distributions={}, key=str(index), attrs={"point": point}))
        assert isinstance(claim, Claim)
        if index < len(points):
            spec = TrialSpec(setting=config.setting, study="tiny", number=claim.number, **point)
            result = run_trial(spec, lambda report: None, phases)
            if accuracies:
                result = dataclasses.replace(result, score=accuracies[index])
            lifecycle.complete(claim.trial_id, (result.score, result.macs_ratio), result.to_dict())
            results.append(result)
            specs.append(spec)
    db.close()
    return RealStudy(url, tuple(results), tuple(specs))
