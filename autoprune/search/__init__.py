"""The search half: the database that remembers trials, proposals, and the Pareto front; knows no torch and no ray."""
