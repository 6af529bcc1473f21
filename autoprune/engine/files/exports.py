"""Networks for elsewhere: ``.safetensors``, ``.pt2``, ``.onnx`` and ``.py`` files that run without autoprune."""

from __future__ import annotations

import copy
import functools
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from autoprune import durable
from autoprune.engine.asking import Forward, answers, ask, tensors_of
from autoprune.engine.source import source_of
from autoprune.errors import AutopruneError, ConfigError, TrialError, first_line

__all__ = ["ENDINGS", "export"]

ENDINGS = (".py", ".safetensors", ".pt2", ".onnx")
_TOLERANCES = {".pt2": 1e-4, ".onnx": 1e-4, ".py": 1e-6}  # Source runs the very operators that the network runs.


def export(
    model: nn.Module, example: Any, path: Path, *, forward: Forward = ask, about: str = "A pruned network."
) -> float:
    """Write a network as a file that runs without autoprune, for any batch size.

    Args:
        model: The network; exported in float32 and evaluation mode, left as it is.
        example: Inputs of any structure, of two examples or more, such as images of shape (N, C, H, W); they fix all
            sizes but N.
        path: Ends in ``.pt2`` (torch.export), ``.onnx`` or ``.py``, which has its weights in a ``.pt`` file beside it.
        forward: Runs the network, where calling it on the inputs does not.
        about: What a ``.py`` file says of itself, a sentence.

    Returns:
        Largest difference between the file's answers and the network's, as a share of the largest number in them.

    Raises:
        ConfigError: Another ending, the packages for ONNX are not installed, or the network can't be written so.
        TrialError: The written file answers otherwise than the network.
    """
    writers: dict[str, _Writer] = {".pt2": _pt2, ".onnx": _onnx, ".py": functools.partial(_py, about=about)}
    if path.suffix not in writers:
        raise ConfigError(f"`--to` must end in {', '.join(ENDINGS)}, but got {str(path)!r}.")
    plain = copy.deepcopy(model).cpu().float().eval()
    inputs = tree_map(_plain, example)
    with torch.no_grad():
        expected = answers(forward(plain, inputs))
    asked = plain if forward is ask else _Asked(plain, forward)
    # Written beside its place and renamed, so that a reader never meets half a file.
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            got = writers[path.suffix](asked, _Arguments.of(inputs, forward), temporary)
        except AutopruneError:
            raise
        except Exception as error:  # Whatever torch meets in a network of a user's.
            raise ConfigError(
                f"the network must be one that torch can write as {path.suffix}, but that fails: {first_line(error)}. "
                "Export a .safetensors file, and rebuild it with `autoprune.load_model`."
            ) from error
        largest = max(float(one.abs().max()) for one in expected)
        apart = max(float((one - other).abs().max()) for one, other in zip(expected, got, strict=True))
        difference = apart / max(largest, 1e-12)
        if not difference <= _TOLERANCES[path.suffix]:
            raise TrialError(
                f"an exported network must answer as the original, but {path.name} differs by {difference:.1e} of the "
                f"largest logit (allowed {_TOLERANCES[path.suffix]:.0e}). Please report it with the network."
            )
        if path.suffix == ".py":
            durable.replace((temporary.with_suffix(".pt"), path.with_suffix(".pt")))
        durable.replace((temporary, path))
    finally:
        temporary.unlink(missing_ok=True)
        temporary.with_suffix(".pt").unlink(missing_ok=True)
    return difference


class _Asked(nn.Module):
    """A network that is run in another way than by calling it, as one that is called."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model, self._run = model, forward

    def forward(self, inputs: Any) -> Any:
        return self._run(self.model, inputs)


@dataclass(frozen=True, eq=False)
class _Arguments:
    """How the exporters are told of inputs.

    Args:
        args: Positional arguments.
        kwargs: Arguments by name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, inputs: Any, forward: Forward) -> _Arguments:
        """Those that `ask` would call a network with; a way of its own is given its inputs whole."""
        if forward is ask and isinstance(inputs, tuple):
            return cls(inputs, {})
        if forward is ask and isinstance(inputs, Mapping):
            return cls((), dict(inputs))
        return cls((inputs,), {})

    @property
    def tensors(self) -> list[Tensor]:
        """In the order in which an exported file takes them."""
        return tensors_of((self.args, self.kwargs))

    def shapes(self, batch: Any) -> tuple[Any, ...] | dict[str, Any]:
        """The same structure, saying that the first axis of each tensor counts examples."""

        def shape(leaf: Any) -> Any:
            return {0: batch} if isinstance(leaf, Tensor) and leaf.dim() else None

        shapes: tuple[Any, ...] | dict[str, Any] = tree_map(shape, self.kwargs or self.args)
        return shapes

    @property
    def names(self) -> list[str]:
        """Of the inputs in a file."""
        if self.kwargs:
            return list(self.kwargs)
        return ["images"] if len(self.tensors) == 1 else [f"input_{place}" for place in range(len(self.tensors))]


_Writer = Callable[[nn.Module, _Arguments, Path], list[Tensor]]


def _plain(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    leaf = leaf.detach().cpu()
    return (leaf.float() if leaf.is_floating_point() else leaf).contiguous()


def _exported(model: nn.Module, inputs: _Arguments) -> torch.export.ExportedProgram:
    shapes = inputs.shapes(torch.export.Dim("batch", min=1))
    return torch.export.export(model, inputs.args, inputs.kwargs, dynamic_shapes=shapes)


def _py(model: nn.Module, inputs: _Arguments, path: Path, *, about: str) -> list[Tensor]:
    source = source_of(_exported(model, inputs), about=about)
    path.write_text(source.text)
    torch.save(dict(source.weights), path.with_suffix(".pt"))
    # What runs here is what we have just written, and there is no other text in it than names and numbers.
    file: dict[str, Any] = {"__name__": "exported", "__file__": str(path)}
    exec(compile(source.text, str(path), "exec"), file)
    with torch.no_grad():
        return answers(file["load"]()(*inputs.tensors))


def _pt2(model: nn.Module, inputs: _Arguments, path: Path) -> list[Tensor]:
    program = _exported(model, inputs)
    torch.export.save(program, path)
    with torch.no_grad():
        # The program itself, not the file: we write .pt2 files and never read one, since reading runs what is in it.
        return answers(program.module()(*inputs.args, **inputs.kwargs))


def _onnx(model: nn.Module, inputs: _Arguments, path: Path) -> list[Tensor]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx imports it late, with a message of its own
    except ImportError:
        raise ConfigError(
            "`.onnx` needs onnx, onnxscript and onnxruntime. Run: pip install autoprune[export]"
        ) from None
    with torch.no_grad():
        n_answers = len(answers(model(*inputs.args, **inputs.kwargs)))
    names = ["logits"] if n_answers == 1 else [f"output_{place}" for place in range(n_answers)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns of its own dependencies' deprecations.
        torch.onnx.export(
            model,
            inputs.args,
            path,
            kwargs=inputs.kwargs or None,
            input_names=inputs.names,
            output_names=names,
            dynamic_shapes=inputs.shapes(torch.export.Dim("batch", min=1)),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    fed = dict(zip([each.name for each in session.get_inputs()], inputs.tensors, strict=True))
    return [torch.from_numpy(answer) for answer in session.run(None, {key: x.numpy() for key, x in fed.items()})]
