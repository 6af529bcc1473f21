"""autoprune finds the best widths for a convolutional network.

::

    import autoprune

    autoprune.launch("study.toml", time_limit_s=1200)
    autoprune.open_study("digits").front(where="macs_ratio <= 0.5")
"""

from autoprune.api import (
    Evaluated,
    Outcome,
    Progress,
    Removed,
    Study,
    clean,
    evaluate,
    export_trial,
    inspect,
    launch,
    load_model,
    measure_latency,
    open_study,
    resume,
    status,
    stop,
)
from autoprune.errors import AutopruneError

__all__ = [
    "AutopruneError",
    "Evaluated",
    "Outcome",
    "Progress",
    "Removed",
    "Study",
    "clean",
    "evaluate",
    "export_trial",
    "inspect",
    "launch",
    "load_model",
    "measure_latency",
    "open_study",
    "resume",
    "status",
    "stop",
]
