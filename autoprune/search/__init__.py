"""The search half: the database that remembers trials, proposals, and the Pareto front; knows no torch and no ray."""

from autoprune.importing import called_as

called_as(__name__, "autoprune.api")
