"""Study files and search-space files: typed tables, checked once at the edge, and the specs that both halves share."""

from autoprune.config.durations import duration_text, seconds_of
from autoprune.config.fields import check, option, read
from autoprune.config.loggers import LOGGERS, LoggersConfig
from autoprune.config.metrics import ACCURACY, COSTS, DIRECTIONS, Metric
from autoprune.config.numerics import (
    AUTO,
    LAYOUTS,
    PRECISIONS,
    Numerics,
    paying_from,
    preferred,
    preferred_multiple,
)
from autoprune.config.recipes import DistillSpec, TrainSpec
from autoprune.config.reports import Completed, Failed, Progressed, Report, Stopped
from autoprune.config.space_files import SHAPE, SpaceConfig, named_space, stock_spaces
from autoprune.config.spec import DataSpec, NetworkSpec, Range, SettingSpec, digest, seed_of
from autoprune.config.study_files import (
    AS_MANY_AS_FIT,
    SAMPLERS,
    ConstraintsConfig,
    ResourcesConfig,
    RetentionConfig,
    SearchConfig,
    StudyConfig,
    load_setting,
    load_study,
    names_its_trials,
    read_stored,
    resolved,
)
from autoprune.config.tasks import TASKS, TaskSpec
from autoprune.config.trials import Ancestor, TrialResult, TrialSpec

__all__ = [
    "ACCURACY",
    "AS_MANY_AS_FIT",
    "AUTO",
    "COSTS",
    "DIRECTIONS",
    "LAYOUTS",
    "LOGGERS",
    "PRECISIONS",
    "SAMPLERS",
    "SHAPE",
    "TASKS",
    "Ancestor",
    "Completed",
    "ConstraintsConfig",
    "DataSpec",
    "DistillSpec",
    "Failed",
    "LoggersConfig",
    "Metric",
    "NetworkSpec",
    "Numerics",
    "Progressed",
    "Range",
    "Report",
    "ResourcesConfig",
    "RetentionConfig",
    "SearchConfig",
    "SettingSpec",
    "SpaceConfig",
    "Stopped",
    "StudyConfig",
    "TaskSpec",
    "TrainSpec",
    "TrialResult",
    "TrialSpec",
    "check",
    "digest",
    "duration_text",
    "load_setting",
    "load_study",
    "named_space",
    "names_its_trials",
    "option",
    "paying_from",
    "preferred",
    "preferred_multiple",
    "read",
    "read_stored",
    "resolved",
    "seconds_of",
    "seed_of",
    "stock_spaces",
]
