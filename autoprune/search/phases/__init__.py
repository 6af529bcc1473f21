"""The phases that trials share: who computes which, where they lie, which may go."""

from autoprune.search.phases.cache import PhaseCache, discard
from autoprune.search.phases.leases import PhaseLeases
from autoprune.search.phases.ledger import PhasePlace, PhaseRows

__all__ = ["PhaseCache", "PhaseLeases", "PhasePlace", "PhaseRows", "discard"]
