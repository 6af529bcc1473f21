"""Networks on disk: weights, phases, exports."""

from autoprune.engine.files.checkpoints import keep_checkpoint, read_checkpoint
from autoprune.engine.files.eight_bits import OnnxNetwork, round_to_int8
from autoprune.engine.files.exports import ENDINGS, export
from autoprune.engine.files.given import load_given
from autoprune.engine.files.phases import Phase, PhaseStore, phase_key, with_state
from autoprune.engine.files.reading import read_tensors
from autoprune.engine.files.weights import keep_weights, load_into, publish, sha256_of

__all__ = [
    "ENDINGS",
    "OnnxNetwork",
    "Phase",
    "PhaseStore",
    "export",
    "keep_checkpoint",
    "keep_weights",
    "load_given",
    "load_into",
    "phase_key",
    "publish",
    "read_checkpoint",
    "read_tensors",
    "round_to_int8",
    "sha256_of",
    "with_state",
]
