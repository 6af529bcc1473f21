"""Tree-structured Parzen estimator over all parameters together."""

from __future__ import annotations

import threading
import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler

__all__ = ["tpe"]

_FILTERS = threading.Lock()  # Warning filters belong to the process; two threads would restore each other's.


def tpe(seed: int) -> BaseSampler:
    """Multivariate, grouped TPE that counts running trials as poor ones.

    Optuna's own default for two objectives samples each parameter alone, as if a strength had nothing to
    do with its method; grouping models each branch of the conditional space together.

    References:
        Bergstra et al. (2011), NeurIPS 24; Watanabe (2023), arXiv 2304.11127.
    """
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=10)
