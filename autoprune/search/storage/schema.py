"""The tables in the database: ours, and those of Optuna's that we read.

Ours lie beside Optuna's and start with ``autoprune_``. They carry no foreign keys to Optuna's tables: who deletes a
study with Optuna's own tools must not be stopped by us, and each side may be made first. Times are seconds since 1970
by the database's clock. To change a table is to migrate people's databases: raise ``SCHEMA_VERSION`` and say how in
``migrate``.
"""

from __future__ import annotations

import sqlalchemy as sa
from optuna.trial import TrialState

__all__ = [
    "SCHEMA_VERSION",
    "drivers",
    "evaluations",
    "leases",
    "metadata",
    "migrate",
    "optuna_studies",
    "optuna_trial_attributes",
    "optuna_trial_params",
    "optuna_trial_system_attributes",
    "optuna_trial_values",
    "optuna_trials",
    "phases",
    "revisions",
    "schema",
    "studies",
]

SCHEMA_VERSION = 2

metadata = sa.MetaData()

schema = sa.Table(
    "autoprune_schema",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

studies = sa.Table(
    "autoprune_studies",
    metadata,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),  # the same as Optuna's
    sa.Column("name", sa.String(512), nullable=False, unique=True),
    sa.Column("objectives", sa.Text, nullable=False),  # JSON object: name -> "maximize" or "minimize", in order
    sa.Column("identity", sa.Text, nullable=False),  # JSON object: what else can't change
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("stop_requested_at", sa.Double),
)

revisions = sa.Table(
    "autoprune_revisions",
    metadata,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # 1, 2, ...
    sa.Column("config", sa.Text, nullable=False),  # JSON object: what may change
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

leases = sa.Table(
    "autoprune_leases",
    metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("study_id", sa.Integer, nullable=False, index=True),
    sa.Column("owner", sa.String(255), nullable=False),  # empty: taken away by a reaper
    sa.Column("expires_at", sa.Double, nullable=False),
)

phases = sa.Table(
    "autoprune_phases",
    metadata,
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),  # of the lease while it is being computed
    sa.Column("place", sa.Text),  # null: being computed
    sa.Column("sha256", sa.String(64)),
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("used_at", sa.Double, nullable=False),
)

drivers = sa.Table(
    "autoprune_drivers",
    metadata,
    sa.Column("owner", sa.String(255), primary_key=True),
    sa.Column("study_id", sa.Integer, nullable=False, index=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("left_at", sa.Double),
)

evaluations = sa.Table(
    "autoprune_evaluations",
    metadata,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("trial_number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seed", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("fingerprint", sa.String(64), primary_key=True),  # of the test split
    sa.Column("accuracy", sa.Double, nullable=False),
    sa.Column("n_images", sa.Integer, nullable=False),
    sa.Column("wall_s", sa.Double, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

# Optuna's tables, only the columns that we use. Studies are made through Optuna's storage; trials are written by
# statements of our own, which make one transaction of what Optuna does in a dozen.
optuna_studies = sa.table("studies", sa.column("study_id", sa.Integer))
optuna_trials = sa.table(
    "trials",
    sa.column("trial_id", sa.Integer),
    sa.column("number", sa.Integer),
    sa.column("study_id", sa.Integer),
    sa.column("state", sa.Enum(TrialState)),
    sa.column("datetime_start", sa.DateTime),  # both naive, UTC
    sa.column("datetime_complete", sa.DateTime),
)
optuna_trial_values = sa.table(
    "trial_values",
    sa.column("trial_id", sa.Integer),
    sa.column("objective", sa.Integer),
    sa.column("value", sa.Double),
    sa.column("value_type", sa.Enum("FINITE", "INF_POS", "INF_NEG", name="trialvaluetype")),
)
optuna_trial_params = sa.table(
    "trial_params",
    sa.column("param_id", sa.Integer),
    sa.column("trial_id", sa.Integer),
    sa.column("param_name", sa.String),
    sa.column("param_value", sa.Double),
    sa.column("distribution_json", sa.Text),
)
optuna_trial_attributes = sa.table(
    "trial_user_attributes",
    sa.column("trial_id", sa.Integer),
    sa.column("key", sa.String),
    sa.column("value_json", sa.Text),
)
optuna_trial_system_attributes = sa.table(
    "trial_system_attributes",
    sa.column("trial_id", sa.Integer),
    sa.column("key", sa.String),
    sa.column("value_json", sa.Text),
)


def migrate(connection: sa.Connection, *, version: int, now: float) -> None:
    """Bring tables of an older version to ``SCHEMA_VERSION``, inside a transaction of the caller under the schema lock.

    Version 2 added ``autoprune_evaluations``. A program of version 1 that has the database open goes on undisturbed.

    Args:
        connection: To write through.
        version: What the tables are now.
        now: By the database's clock; each version's row tells since when it holds.
    """
    if version < 2:
        evaluations.create(connection)
    connection.execute(schema.insert().values(version=SCHEMA_VERSION, created_at=now))
