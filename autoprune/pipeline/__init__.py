"""One trial, from a spec to a pruned and fine-tuned network on disk; here names become torch objects."""

from autoprune.pipeline.calibration import calibrate
from autoprune.pipeline.evaluation import Link, open_test, score
from autoprune.pipeline.saved import layout_of, load_beside_dense, load_model, read_record
from autoprune.pipeline.trial import run_trial
from autoprune.pipeline.workbench import Workbench, open_workbench
from autoprune.pipeline.worker import enter_worker, phase_folder

__all__ = [
    "Link",
    "Workbench",
    "calibrate",
    "enter_worker",
    "layout_of",
    "load_beside_dense",
    "load_model",
    "open_test",
    "open_workbench",
    "phase_folder",
    "read_record",
    "run_trial",
    "score",
]
