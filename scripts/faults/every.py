"""All kinds of faults."""

from __future__ import annotations

from faults import of_databases, of_files, of_processes, of_trials

__all__ = ["KINDS"]

KINDS = (*of_processes.KINDS, *of_databases.KINDS, *of_files.KINDS, *of_trials.KINDS)
