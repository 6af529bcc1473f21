"""Loaders of users: looked at once, then gone through again and again."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from autoprune.engine.asking import size_of, tensors_of
from autoprune.engine.tasks.kinds import Kind
from autoprune.engine.training import apart
from autoprune.errors import DataError, first_line

__all__ = ["Passes", "opened"]


@dataclass(frozen=True, eq=False)
class Passes:
    """A loader and what is known of it.

    Args:
        loader: Gives batches each time that it is gone through.
        name: Of the Task's argument, for people.
        n_batches: Of a pass.
        n_examples: Of a pass; of the loader's data set where it has one, else reckoned from the first batch.
        first: Its first batch.
    """

    loader: Iterable[Any]
    name: str
    n_batches: int
    n_examples: int
    first: Any

    def once(self) -> Generator[Any, None, None]:
        """The batches of one pass.

        Raises:
            DataError: There is none, or the loader fails.
        """
        n_seen = 0
        try:
            for batch in self.loader:
                n_seen += 1
                yield batch
        except (DataError, GeneratorExit):
            raise
        except Exception as error:  # A loader of a user's may raise anything.
            raise DataError(
                f"Task: `{self.name}` must give batches, but failed at batch {n_seen}: {type(error).__name__}: "
                f"{first_line(error)}. Mend the loader or its data."
            ) from error
        if not n_seen:
            raise DataError(
                f"Task: `{self.name}` must give batches each time that it is gone through, but gave none this time. "
                "Give a DataLoader or a list, not what can be gone through once."
            )

    def again(self) -> Iterator[Any]:
        """The batches of one pass after the other, without end."""
        for turn in count():
            set_epoch = getattr(getattr(self.loader, "sampler", None), "set_epoch", None)
            if set_epoch is not None:
                set_epoch(turn)
            yield from self.once()


def opened(loader: Iterable[Any], name: str, *, kind: Kind) -> Passes:
    """Look at a loader.

    Args:
        loader: Of the user.
        name: Of the Task's argument.
        kind: Tells inputs from targets.

    Raises:
        DataError: It is empty, can be gone through only once, or its batches hold no tensors.
    """
    with apart():  # A loader that shuffles draws, and the caller's numbers are not ours.
        _check_repeats(loader, name)
        passes = Passes(loader, name, 0, 0, None)
        batches = passes.once()
        first = next(batches)
        length = _length_of(loader)
        n_batches = 1 + sum(1 for _ in batches) if length is None else length
        batches.close()
    size = size_of(kind.parts(first)[0]) if tensors_of(first) else 0
    if not size:
        raise DataError(
            f"Task: `{name}` must give batches that hold tensors, but gave a {type(first).__name__} without any. Let "
            "its collate function stack examples to tensors."
        )
    n_examples = n_batches * size
    n_in_all = _length_of(getattr(loader, "dataset", None))
    n_examples = n_examples if n_in_all is None else min(n_examples, n_in_all)
    return Passes(loader, name, n_batches, n_examples, first)


def _check_repeats(loader: Iterable[Any], name: str) -> None:
    """Refuse what is empty, or can't be gone through again."""
    try:
        is_iterator = iter(loader) is loader
    except TypeError:
        raise DataError(
            f"Task: `{name}` must be something to go through, batch by batch, but is a {type(loader).__name__}. Give a "
            "DataLoader, or a list of batches."
        ) from None
    if is_iterator:
        raise DataError(
            f"Task: `{name}` must give its batches again each time that it is gone through, but is a "
            f"{type(loader).__name__}, which is exhausted after one pass. Give a DataLoader or a list."
        )
    if _length_of(loader) == 0:
        raise DataError(f"Task: `{name}` must give at least one batch, but is empty. Check its data and `drop_last`.")


def _length_of(values: Any) -> int | None:
    """How many there are, or None where that is not known beforehand, as of streams."""
    try:
        return len(values)
    except TypeError:
        return None
