"""Networks for elsewhere: ``.safetensors``, ``.pt2`` and ``.onnx`` files that run without autoprune."""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune.errors import ConfigError, TrialError

__all__ = ["ENDINGS", "export"]

ENDINGS = (".safetensors", ".pt2", ".onnx")
_TOLERANCE = 1e-4


def export(model: nn.Module, example: Tensor, path: Path) -> float:
    """Write a network as a file that runs without autoprune, for any batch size.

    Args:
        model: The network; exported in float32 and evaluation mode, left as it is.
        example: Inputs, shape (N, C, H, W), N >= 2; they fix C, H and W.
        path: Ends in ``.pt2`` (torch.export) or ``.onnx``.

    Returns:
        Largest difference between the file's logits and the network's, as a share of the largest logit.

    Raises:
        ConfigError: Another ending, or the packages for ONNX are not installed.
        TrialError: The written file answers otherwise than the network.
    """
    if path.suffix not in (".pt2", ".onnx"):
        raise ConfigError(f"`--to` must end in {', '.join(ENDINGS)}, but got {str(path)!r}.")
    plain = copy.deepcopy(model).cpu().float().eval()
    inputs = example.detach().cpu().float().contiguous()
    with torch.no_grad():
        expected = plain(inputs)
    # Written beside its place and renamed, so that a reader never meets half a file.
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        got = (_pt2 if path.suffix == ".pt2" else _onnx)(plain, inputs, temporary)
        difference = float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
        if not difference <= _TOLERANCE:
            raise TrialError(
                f"an exported network must answer as the original, but {path.name} differs by {difference:.1e} of the "
                f"largest logit (allowed {_TOLERANCE:.0e}). Please report it with the network."
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def _pt2(model: nn.Module, inputs: Tensor, path: Path) -> Tensor:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (inputs,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    with torch.no_grad():
        # The program itself, not the file: we write .pt2 files and never read one, since reading runs what is in it.
        logits: Tensor = program.module()(inputs)
    return logits


def _onnx(model: nn.Module, inputs: Tensor, path: Path) -> Tensor:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx imports it late, with a message of its own
    except ImportError:
        raise ConfigError(
            "`.onnx` needs onnx, onnxscript and onnxruntime. Run: pip install autoprune[export]"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns of its own dependencies' deprecations.
        torch.onnx.export(
            model,
            (inputs,),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": inputs.numpy()})
    return torch.from_numpy(logits)
