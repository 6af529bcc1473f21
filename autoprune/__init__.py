"""autoprune finds the best widths for a convolutional network.

::

    import autoprune

    autoprune.launch("study.toml", time_limit_s=1200)
    with autoprune.open_study("digits") as study:
        study.front(where="macs_ratio <= 0.5")

Names are imported when they are first used: ``import autoprune`` alone is quick.
"""

from typing import TYPE_CHECKING

from autoprune.errors import (
    AutopruneError,
    ConfigError,
    DataError,
    IdentityError,
    InfeasibleError,
    LeaseLostError,
    NetworkError,
    OutageError,
    SpaceExhaustedError,
    StorageError,
    StudyFailedError,
    TrialError,
    TrialStoppedError,
    WeightsError,
    WorkerDiedError,
)
from autoprune.importing import lazy_names

if TYPE_CHECKING:
    from autoprune.api import (
        Evaluated,
        Outcome,
        Progress,
        Pruned,
        Removed,
        Study,
        Task,
        best_trial,
        clean,
        evaluate,
        export_front,
        export_trial,
        group_convolutions,
        inspect,
        launch,
        load_model,
        load_study,
        measure_latency,
        open_study,
        prune,
        resume,
        search,
        status,
        stop,
    )
    from autoprune.config import (
        ConstraintsConfig,
        DataSpec,
        LoggersConfig,
        NetworkSpec,
        Range,
        ResourcesConfig,
        RetentionConfig,
        SearchConfig,
        SettingSpec,
        SpaceConfig,
        StudyConfig,
        TaskSpec,
        TrainSpec,
    )

__all__ = [
    "AutopruneError",
    "ConfigError",
    "ConstraintsConfig",
    "DataError",
    "DataSpec",
    "Evaluated",
    "IdentityError",
    "InfeasibleError",
    "LeaseLostError",
    "LoggersConfig",
    "NetworkError",
    "NetworkSpec",
    "OutageError",
    "Outcome",
    "Progress",
    "Pruned",
    "Range",
    "Removed",
    "ResourcesConfig",
    "RetentionConfig",
    "SearchConfig",
    "SettingSpec",
    "SpaceConfig",
    "SpaceExhaustedError",
    "StorageError",
    "Study",
    "StudyConfig",
    "StudyFailedError",
    "Task",
    "TaskSpec",
    "TrainSpec",
    "TrialError",
    "TrialStoppedError",
    "WeightsError",
    "WorkerDiedError",
    "best_trial",
    "clean",
    "evaluate",
    "export_front",
    "export_trial",
    "group_convolutions",
    "inspect",
    "launch",
    "load_model",
    "load_study",
    "measure_latency",
    "open_study",
    "prune",
    "resume",
    "search",
    "status",
    "stop",
]

_OF_CONFIG = {
    "ConstraintsConfig",
    "DataSpec",
    "LoggersConfig",
    "NetworkSpec",
    "Range",
    "ResourcesConfig",
    "RetentionConfig",
    "SearchConfig",
    "SettingSpec",
    "SpaceConfig",
    "StudyConfig",
    "TaskSpec",
    "TrainSpec",
}
_HOMES = {name: "autoprune.config" if name in _OF_CONFIG else "autoprune.api" for name in __all__}
__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
