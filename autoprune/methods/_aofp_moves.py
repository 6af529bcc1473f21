"""Which channels to mask next: a search by halves for those that do the least damage together. Knows no network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoprune.cost import CostModel, Limits
from autoprune.widths import Scores

__all__ = ["MaskSearch", "Moves", "lowest_half", "scores_of"]

_NEVER = -1.0  # Stands for a damage that was never measured; damages are >= 0.
_LEAST = np.finfo(np.float64).tiny


def lowest_half(means: Tensor, searched: Tensor) -> Tensor:
    """The ⌊n/2⌋ of n searched channels with the smallest mean damage, smallest first; ties go to the lower index.

    Args:
        means: Mean damage by channel, shape (C,); infinite where none was measured.
        searched: The channels to choose from, rising indices, shape (n,).
    """
    order = means[searched].argsort(stable=True)
    return searched[order[: len(searched) // 2]]


class Moves:
    """The base mask of one channel group, and how it grows.

    A move begins with all channels of the base mask as search space S. In each step a random part R of S is ablated,
    and the damage is recorded for every channel of R. When a half ends, its g = ⌊|S|/2⌋ channels of smallest mean are
    looked at: if the largest of these means is below theta, they are masked; else they are the next S while g > 1; else
    the move is abandoned. A move that is over gives way to the next one, on all channels that are left.

    Halves go on as if there were no minimum width. Of the g channels found harmless, only as many are masked as the
    minimum leaves, smallest damage first; a group that has come to its minimum is retired.

    If damages were additive, d_j for channel j, the mean would tend to ``d_j (n-g)/(n-1) + Σd (g-1)/(n-1)`` with n =
    |S| and g = |R|: the order is that of d, but theta bounds what g channels cost together.

    Args:
        width: C.
        theta: Mean damage below which channels are masked, > 0.
        min_width: Channels that stay, in 1 .. C.
        mask_ratio: |R| / |S|, in (0, 1); R has at least one channel.
        device: Where damages are added up, so that nobody has to wait for them in each step.

    Attributes:
        kept: The base mask, bool, shape (C,).
        searched: S, bool, shape (C,).
        order: Shape (C,): 1 for the first channel masked of the whole network and so on; 0 where kept.
        damage: Shape (C,): mean damage in the last half that measured the channel; -1 before.
        n_recorded: Steps recorded in this half, shape ().
    """

    def __init__(
        self,
        width: int,
        *,
        theta: float,
        min_width: int = 1,
        mask_ratio: float = 0.5,
        device: torch.device | str = "cpu",
    ) -> None:
        self._theta, self._mask_ratio, self._min_width = theta, mask_ratio, min_width
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64  # There is no float64 there.
        self.kept, self.searched = torch.ones(width, dtype=torch.bool), torch.ones(width, dtype=torch.bool)
        self.order = torch.zeros(width, dtype=torch.int64)
        self.damage = torch.full((width,), _NEVER, dtype=dtype)
        self.n_recorded = torch.tensor(0)
        self._sums, self._counts = torch.zeros(width, dtype=dtype, device=device), torch.zeros(width, dtype=torch.int64)

    @property
    def n_spare(self) -> int:
        """Channels that may still be masked; 0 for a retired group."""
        return max(0, int(self.kept.sum()) - self._min_width)

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """R, without replacement: rising indices, shape (max(1, ⌊mask_ratio |S|⌋),).

        Args:
            generator: What to draw from; the global generator of the CPU by default.
        """
        searched = self.searched.nonzero()[:, 0]
        n_drawn = max(1, int(len(searched) * self._mask_ratio))
        return searched[torch.randperm(len(searched), generator=generator)[:n_drawn]].sort().values

    def record(self, drawn: Tensor, damage: Tensor) -> None:
        """Add the damage done without the channels ``drawn``, indices of shape (r,), to each of them.

        Args:
            drawn: What `draw` gave.
            damage: Shape (), >= 0, on the device of the sums.
        """
        # A mask instead of an index: it is copied to an accelerator without waiting for what that is doing.
        ablated = torch.zeros_like(self.searched).index_fill_(0, drawn, True)
        self._counts += ablated
        self._sums += ablated.to(self._sums.device, non_blocking=True) * damage.to(self._sums.dtype)
        self.n_recorded += 1

    def means(self) -> Tensor:
        """Mean damage in this half so far, shape (C,), on the CPU; infinite where the channel was never drawn."""
        return torch.where(self._counts > 0, self._sums.cpu() / self._counts.clamp_min(1), torch.inf)

    def end_half(self, *, most: int, n_masked: int) -> Tensor:
        """Mask, halve or abandon, and begin the next half.

        Args:
            most: No more channels than this are masked, >= 0.
            n_masked: Channels masked so far in the whole network, for the order.

        Returns:
            Indices of the channels masked now, smallest damage first; none where the half led to no mask.
        """
        means = self.means()
        self.damage = torch.where(self._counts > 0, means, self.damage)
        lowest = lowest_half(means, self.searched.nonzero()[:, 0])
        self._sums.zero_()
        self._counts.zero_()
        self.n_recorded.zero_()
        if bool((means[lowest] < self._theta).all()):
            masked = lowest[: min(most, self.n_spare)]
            self.kept[masked] = False
            self.order[masked] = torch.arange(n_masked + 1, n_masked + 1 + len(masked))
            self.searched = self.kept.clone()
            return masked
        if len(lowest) > 1:
            self.searched = torch.zeros_like(self.kept).index_fill_(0, lowest, True)
        else:
            self.searched = self.kept.clone()
        return lowest[:0]

    def state_dict(self) -> dict[str, Tensor]:
        """All of it, by name; all but ``n_recorded`` of shape (C,)."""
        return {
            "kept": self.kept,
            "searched": self.searched,
            "order": self.order,
            "damage": self.damage,
            "sum": self._sums,
            "count": self._counts,
            "n_recorded": self.n_recorded,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state_dict` left off."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


class MaskSearch:
    """The moves of several groups: when they begin, whose half ends, and when all end for good.

    Group i begins ``⌊i · samples / n⌋`` steps after the first of n, so that neighbours decide in turn. All stop once
    the limits are kept; the last to be masked are only as many as it takes, smallest damage first.

    Args:
        moves: By group.
        cost: The network's cost model.
        limits: Of MACs, of parameters, or of both.
        samples: Steps in each half, >= 1.
        first: The step at which the first group begins.
    """

    def __init__(
        self, moves: Mapping[str, Moves], cost: CostModel, *, limits: Limits, samples: int, first: int
    ) -> None:
        self._moves, self._cost, self._limits, self._samples = moves, cost, limits, samples
        self._starts = {name: first + i * samples // len(moves) for i, name in enumerate(moves)}
        self._step = 0
        self._is_met = self._meets()

    def is_on(self, name: str) -> bool:
        """Whether the group should be measured in this step."""
        return not self._is_met and self._step >= self._starts[name] and self._moves[name].n_spare > 0

    def count_step(self, seen: Mapping[str, tuple[Tensor, Tensor]]) -> bool:
        """Take note of a step, and end the halves that are full.

        Args:
            seen: By group, what was drawn and its damage; see `Moves.record`.

        Returns:
            Whether channels were masked.
        """
        n_before = self._n_masked()
        for name, (drawn, damage) in seen.items():
            moves = self._moves[name]
            moves.record(drawn, damage)
            if not self._is_met and int(moves.n_recorded) >= self._samples:
                moves.end_half(most=self._needed(name), n_masked=self._n_masked())
                self._is_met = self._meets()
        self._step += 1
        return self._n_masked() > n_before

    def _n_masked(self) -> int:
        return sum(int((~moves.kept).sum()) for moves in self._moves.values())

    def _widths(self) -> dict[str, int]:
        return {name: int(moves.kept.sum()) for name, moves in self._moves.items()}

    def _meets(self) -> bool:
        return self._limits.keeps(self._cost, self._widths())

    def _needed(self, name: str) -> int:
        """Channels of this group that must go to keep the limits; all that can be spared where that is not enough."""
        n_spare, widths = self._moves[name].n_spare, self._cost.as_array(self._widths())
        tried = np.tile(widths, (n_spare, 1))
        tried[:, self._cost.groups.index(name)] -= np.arange(1, n_spare + 1)
        meets = np.flatnonzero(self._limits.keeps(self._cost, tried))
        return int(meets[0]) + 1 if len(meets) else n_spare

    def state_dict(self) -> dict[str, Tensor]:
        """The state of each group under ``group:``, and the count of steps."""
        states = {f"{name}:{key}": t for name, moves in self._moves.items() for key, t in moves.state_dict().items()}
        return {"step": torch.tensor(self._step), **states}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state_dict` left off."""
        self._step = int(state["step"])
        for name, moves in self._moves.items():
            moves.load_state_dict({key: state[f"{name}:{key}"] for key in moves.state_dict()})
        self._is_met = self._meets()


def scores_of(state: Mapping[str, Tensor], norms: Scores) -> Scores:
    """Rank the channels of all groups from what a `MaskSearch` remembers of some of them.

    Args:
        state: Of the search.
        norms: Of the channels of every group, >= 0, comparable between groups: they rank the groups that were not
            searched, and stand in, as a multiple of a mean damage, for damages that were never measured.

    Returns:
        By group, shape (C,): of masked channels -1 to 0, the last one masked highest; of those left in searched groups
        the damage, > 0; in the other groups more than any of these.
    """
    keys = ("kept", "order", "damage", "sum", "count")
    searched = {
        name: {key: state[f"{name}:{key}"].cpu().double().numpy() for key in keys}
        for name in norms
        if f"{name}:kept" in state
    }
    damages = {name: _damages(arrays) for name, arrays in searched.items()}
    known = np.concatenate([np.zeros(0), *(damage[~np.isnan(damage)] for damage in damages.values())])
    n_masked = max((int(arrays["order"].max()) for arrays in searched.values()), default=0)
    scores: dict[str, NDArray[np.float64]] = {}
    for name, arrays in searched.items():
        own = damages[name][~np.isnan(damages[name])]
        typical = own.mean() if len(own) else known.mean() if len(known) else 1.0
        left = np.where(np.isnan(damages[name]), typical * norms[name], damages[name])
        masked = (arrays["order"] - 1 - n_masked) / max(1, n_masked)
        scores[name] = np.where(arrays["kept"] > 0, np.maximum(left, _LEAST), masked)
    top = max((float(score.max()) for score in scores.values()), default=0.0)
    return {name: scores[name] if name in scores else 1 + top + norm for name, norm in norms.items()}


def _damages(arrays: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Of channels left: of their last half, else of the one that the phase's end broke off, else not a number."""
    begun = np.where(arrays["count"] > 0, arrays["sum"] / np.maximum(arrays["count"], 1), np.nan)
    measured = np.where(arrays["damage"] >= 0, arrays["damage"], begun)
    return np.where(arrays["kept"] > 0, measured, np.nan)
