"""One trial, from a spec to a pruned and fine-tuned network on disk; here names become torch objects."""

from autoprune.pipeline.calibration import calibrate
from autoprune.pipeline.chance import score_by_chance
from autoprune.pipeline.evaluation import Link, score
from autoprune.pipeline.notes import notes_on
from autoprune.pipeline.numerics import numerics_here, time_compiled, time_multiples, time_numerics
from autoprune.pipeline.pruning import Pruned, prune
from autoprune.pipeline.saved import (
    example_of,
    exported_by,
    forward_of,
    layout_of,
    load_beside_dense,
    load_model,
    read_record,
)
from autoprune.pipeline.trial import run_trial
from autoprune.pipeline.workbench import Workbench, open_workbench
from autoprune.pipeline.worker import enter_worker, hand_back, phase_folder

__all__ = [
    "Link",
    "Pruned",
    "Workbench",
    "calibrate",
    "enter_worker",
    "example_of",
    "exported_by",
    "forward_of",
    "hand_back",
    "layout_of",
    "load_beside_dense",
    "load_model",
    "notes_on",
    "numerics_here",
    "open_workbench",
    "phase_folder",
    "prune",
    "read_record",
    "run_trial",
    "score",
    "score_by_chance",
    "time_compiled",
    "time_multiples",
    "time_numerics",
]
