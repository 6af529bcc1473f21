"""Tries a network in both modes before anything is computed: what it answers, what on, and in which layout."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autoprune.engine.asking import Forward, ask
from autoprune.engine.training import AUXILIARY_WEIGHT, Answer, Randomness, Runtime, answer_of, described, seeded
from autoprune.errors import DataError, NetworkError, first_line
from autoprune.pipeline.witness import culprit, failing

__all__ = ["Probe", "run_in_training", "settle"]

_log = logging.getLogger(__name__)

_AGAIN = 1e-6  # Of the largest logit: what the same images may move by when they are shown again;
_ALONE = 1e-3  # and when they are shown alone. Batches of other sizes are summed in another order.
_N_IMAGES = 2


class Probe:
    """Shows a network a few images as its trials will, in copies of it.

    Args:
        network: With its weights; left as it is.
        images: Training images, uint8, shape (N, C, H, W), N >= 2; as many as a batch of training has, where `forward`
            needs so many.
        runtime: Device, precision, normalisation, and the layout that is wanted.
        n_classes: Of the labels.
        batch: Images of the smallest batch that will be trained on.
    """

    def __init__(self, network: nn.Module, images: Tensor, *, runtime: Runtime, n_classes: int, batch: int) -> None:
        self._network, self._images, self._n_classes = network, images, n_classes
        self._plain = dataclasses.replace(runtime, memory_format=torch.contiguous_format)
        self._wanted = runtime
        self._sizes = [1] if batch == 1 else list(dict.fromkeys([_N_IMAGES, batch]))
        self._size = self._sizes[0]
        self._seen = f"images of shape {tuple(images.shape[1:])}"

    def runtime(self) -> Runtime:
        """Where and how the network can run: in the layout that is wanted, or contiguous where it fails on that.

        Raises:
            DataError: It fails on images of this shape, or its logits don't fit the labels.
            NetworkError: It can't be scored or trained, with the reason and the layer.
        """
        runtime = self._plain
        with Randomness(runtime.device, 0).in_use():
            model = self._copy(runtime)
            expected = self._evaluated(model, runtime)
            self._trained(model, runtime, n_logits=expected.shape[1])
            del model
            if self._wanted == self._plain:
                return self._plain
            try:
                self._run_all(self._wanted)
            except Exception as error:  # Whatever `forward` raises: the same has just worked on contiguous images.
                _log.warning(
                    "the network runs on contiguous images, since it fails on channels-last ones, which are faster: "
                    "%s. Write `reshape` or `flatten` in place of `view` to have it run on these",
                    first_line(error),
                )
                return self._plain
        return self._wanted

    @property
    def batch(self) -> Tensor:
        """The smallest batch on which the network has been seen to train, uint8."""
        return self._images[: self._size]

    # -- evaluation mode --------------------------------------------------------------------------------------------

    def _evaluated(self, model: nn.Module, runtime: Runtime) -> Tensor:
        """The logits of two images, once they are known to be those of each image alone, and of every time."""
        model.eval()
        inputs = runtime.inputs(self._images[:_N_IMAGES])
        try:
            output = _run(model, inputs)
        except Exception as error:  # The network is a user's; it may raise anything on images it was not made for.
            reason, where = first_line(error), failing(model, lambda: _run(model, inputs))
            raise DataError(
                f"the network must accept the data's {self._seen}, but failed on them: {reason} ({where}). "
                f"{_advice(reason)}"
            ) from error
        logits = self._logits(output, n_images=len(inputs))
        if not bool(logits.isfinite().all()):
            run = lambda: _run(model, inputs)  # noqa: E731  twice the same
            where = culprit(model, (run, run), lambda a, _: bool(a.isfinite().all()))
            raise NetworkError(
                f"the network must answer {self._seen} with finite numbers, but does not: they are lost {where}. "
                "Its weights are damaged, or `mean` and `std` in [data] are far off."
            )
        self._check_again(model, inputs, logits)
        self._check_alone(model, inputs, logits)
        if runtime.precision != "float32":
            self._check_precision(model, inputs, runtime)
        return logits

    def _logits(self, output: object, *, n_images: int) -> Tensor:
        wanted = f"logits of shape (N, {self._n_classes}) or wider"
        if not isinstance(output, Tensor):
            raise NetworkError(
                f"the network must answer {self._seen} with one tensor in evaluation mode, {wanted}, but gave "
                f"{described(output)}. Return the logits alone; more may come beside them in training mode only."
            )
        shape = tuple(output.shape)
        if output.ndim == 2 and output.shape[0] == n_images and output.shape[1] >= self._n_classes:
            if not output.is_floating_point():
                raise NetworkError(
                    f"the network must answer {self._seen} with logits, but gave numbers of type {output.dtype}. "
                    "Return what comes before `argmax`."
                )
            return output
        if output.ndim == 2 and output.shape[0] == n_images:
            advice = f"The labels say {self._n_classes} classes: build it for so many. Check the number of classes."
        elif output.ndim > 2:
            advice = "Take the mean over what is not a class before it answers, such as `x.mean((2, 3))`."
        else:
            advice = "Check what `forward` returns: one row for each image, one column for each class."
        raise DataError(f"the network must answer {self._seen} with {wanted}, but gave {shape}. {advice}")

    def _check_again(self, model: nn.Module, inputs: Tensor, logits: Tensor) -> None:
        moved = _moved(logits, self._logits(_run(model, inputs), n_images=len(inputs)))
        if not moved <= _AGAIN:
            run = lambda: _run(model, inputs)  # noqa: E731  twice the same
            where = culprit(model, (run, run), lambda a, b: _are_close(a, b, _AGAIN))
            raise NetworkError(
                "the network must answer the same images alike each time in evaluation mode, but its logits moved by "
                f"{moved:.1e} of the largest: something is drawn at random or counted {where}. Let it do so in "
                "training mode only, as `F.dropout(x, training=self.training)` does."
            )

    def _check_alone(self, model: nn.Module, inputs: Tensor, logits: Tensor) -> None:
        one = inputs[:1]
        try:
            output = _run(model, one)
        except Exception as error:
            where = failing(model, lambda: _run(model, one))
            raise NetworkError(
                f"the network must accept a single image, but failed on it, while it takes {len(inputs)} at once: "
                f"{first_line(error)} ({where}). Take the number of images from the tensor, as `x.flatten(1)` does; "
                "`x.squeeze()` drops it."
            ) from error
        shape = (1, logits.shape[1])
        if not isinstance(output, Tensor) or output.shape != shape:
            raise NetworkError(
                f"the network must answer a single image with logits of shape {shape}, but gave {described(output)}. "
                "`x.squeeze()` drops the number of images where it is 1: write `x.flatten(1)`."
            )
        moved = _moved(logits[:1], output)
        if not moved <= _ALONE:
            runs = (lambda: _run(model, one)), (lambda: _run(model, inputs))
            where = culprit(model, runs, lambda a, b: _are_close(a, b[: len(a)], _ALONE))
            raise NetworkError(
                "the network must answer each image by itself in evaluation mode, but its logits move by "
                f"{moved:.1e} of the largest with the other images of the batch: they are mixed {where}. Use "
                "statistics that were kept in training (BatchNorm with `track_running_stats=True`)."
            )

    def _check_precision(self, model: nn.Module, inputs: Tensor, runtime: Runtime) -> None:
        def run() -> object:
            with runtime.autocast():
                return _run(model, inputs)

        try:
            run()
        except Exception as error:
            raise NetworkError(
                f"the network must run with `precision` = {runtime.precision!r}, but fails: {first_line(error)} "
                f"({failing(model, run)}). Set `precision` = 'float32' in [engine]."
            ) from error

    # -- training mode ----------------------------------------------------------------------------------------------

    def _trained(self, model: nn.Module, runtime: Runtime, *, n_logits: int) -> None:
        """Take the gradients of the smallest batch on which the network runs."""
        model.train()
        try:
            output = self._run_on_least(model, runtime)
        except Exception as error:
            where = failing(model, lambda: run_in_training(model, runtime, self.batch))
            raise NetworkError(self._untrainable(first_line(error), where)) from error
        answer, shape = answer_of(output), (self._size, n_logits)
        if answer.logits.shape != shape or not answer.logits.is_floating_point():
            raise NetworkError(
                f"the network must answer with logits of shape {shape} in training mode too, but gave "
                f"{described(output)}. Return them alone, as the first tensor of a tuple, or under the name `logits`."
            )
        if not bool(answer.logits.isfinite().all()):
            raise NetworkError(
                "the network must answer with finite numbers in training mode too, but does not with `precision` = "
                f"{runtime.precision!r}. Check its weights, or `mean` and `std` in [data]."
            )
        _check_gradients(model, answer)
        if answer.auxiliary:
            _log.info(
                "in training mode the network answers with logits of %d auxiliary heads, whose losses count %g each",
                len(answer.auxiliary),
                AUXILIARY_WEIGHT,
            )

    def _run_on_least(self, model: nn.Module, runtime: Runtime) -> object:
        """What it answers in training mode on two images, or where it fails on those on a batch that it is to have."""
        for size in self._sizes[:-1]:
            self._size = size
            try:
                return run_in_training(model, runtime, self.batch)
            except Exception as error:  # Some count on batches of a certain size.
                _log.debug("no training on %d images: %s", self._size, first_line(error))
        self._size = self._sizes[-1]
        return run_in_training(model, runtime, self.batch)

    def _untrainable(self, reason: str, where: str) -> str:
        if self._size == 1:
            return (
                "the network must train on batches of one image, which is what `batch` in [train] or the number of "
                f"training images says, but fails: {reason} ({where}). Set `batch` to 2 or more."
            )
        return (
            f"the network must run in training mode on {self._size} {self._seen}, as it does in evaluation mode, but "
            f"fails: {reason} ({where}). Mend that branch of `forward`, or build the network without it."
        )

    # -- the faster layout ------------------------------------------------------------------------------------------

    def _run_all(self, runtime: Runtime) -> None:
        """Run in every way that a trial does; what it answers is known already."""
        model, inputs = self._copy(runtime).eval(), runtime.inputs(self._images[:_N_IMAGES])
        for batch in (inputs, inputs[:1]):
            _run(model, batch)
        if runtime.precision != "float32":
            with runtime.autocast():
                _run(model, inputs)
        model.train()
        _loss(answer_of(run_in_training(model, runtime, self.batch))).backward()

    def _copy(self, runtime: Runtime) -> nn.Module:
        return runtime.place(copied(self._network))


def settle(network: nn.Module, example: Any, *, seed: int = 0, forward: Forward = ask) -> None:
    """Have lazy layers take their sizes; a network without any is not run.

    Args:
        network: On the CPU; left in evaluation mode where it was run.
        example: Inputs, such as normalised images, shape (N, C, H, W).
        seed: What weights that had to wait for their sizes are drawn with.
        forward: Runs the network.
    """
    if not any(is_lazy(tensor) for tensor in (*network.parameters(), *network.buffers())):
        return
    with seeded(seed), torch.no_grad(), contextlib.suppress(Exception):
        forward(network.eval(), example)  # What fails here fails again where it is told.


def copied(network: nn.Module) -> nn.Module:
    """A copy of a network.

    Raises:
        NetworkError: It can't be copied.
    """
    try:
        return copy.deepcopy(network)
    except Exception as error:
        raise NetworkError(
            f"the network must be copyable, but copying it failed: {first_line(error)}. Keep no computed tensors in it."
        ) from error


def _run(model: nn.Module, inputs: Tensor) -> object:
    # In full float32: what TensorFloat-32 leaves out is more than what is compared here.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        output: object = model(inputs)
    return output


def run_in_training(model: nn.Module, runtime: Runtime, images: Tensor) -> object:
    """What a network in training mode answers in the study's precision.

    Args:
        model: Placed.
        runtime: Where and how it runs.
        images: uint8, shape (N, C, H, W).
    """
    with runtime.autocast():
        output: object = model(runtime.inputs(images))
    return output


def _loss(answer: Answer) -> Tensor:
    heads: Sequence[Tensor] = (answer.logits, *answer.auxiliary)
    targets = torch.zeros(len(answer.logits), dtype=torch.int64, device=answer.logits.device)
    return torch.stack([F.cross_entropy(head.float(), targets) for head in heads]).sum()


def _check_gradients(model: nn.Module, answer: Answer) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return  # Whether something has to train depends on the recipe; who trains it says so.
    if not answer.logits.requires_grad:
        raise NetworkError(
            "the network must have weights that can be trained, but `forward` cuts them off (`no_grad`, `.data`). Let "
            "them have gradients."
        )
    take_gradients(_loss(answer))


def take_gradients(loss: Tensor) -> None:
    """Go back from a loss through the network.

    Raises:
        NetworkError: It can't be done.
    """
    try:
        loss.backward()
    except Exception as error:
        raise NetworkError(
            f"the network must have gradients in training mode, but they fail: {first_line(error)}. Look for "
            "operations in place (`+=`, `inplace=True`) on what a gradient needs."
        ) from error


def _moved(before: Tensor, after: Tensor) -> float:
    """The largest difference, over the largest number."""
    return float((before - after).abs().max() / before.abs().max().clamp_min(1e-12))


def _are_close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    if one.shape != other.shape or not one.is_floating_point() or not one.numel():
        return one.shape != other.shape or torch.equal(one, other)  # Of other shapes nothing can be told.
    return _moved(one, other) <= tolerance


def _advice(reason: str) -> str:
    """What to do about an error of torch on images of another kind than the network is made for."""
    if "view size is not compatible" in reason:
        return "Write `reshape` in place of `view`."
    if "same device" in reason or "is on cpu" in reason:
        return "Let `forward` create tensors on the device of its input: `torch.zeros(..., device=x.device)`."
    return "Choose data or `image_size` of the network's own size."
