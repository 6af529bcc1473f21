"""ONNX files rounded to 8 bits, and run as networks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune import durable
from autoprune.errors import ConfigError, first_line

__all__ = ["OnnxNetwork", "round_to_int8"]


def round_to_int8(path: Path, batches: Iterable[Tensor]) -> None:
    """Round the weights and activations of an ONNX file to 8 bits, in its place.

    Static quantization of onnxruntime: weights by output channel, activations by the range that they have on the
    calibration inputs, both as QDQ pairs around the operators, which any runtime understands.

    Args:
        path: A file of one input, left as it is where it can't be rounded.
        batches: Calibration inputs, as the network takes them.

    Raises:
        ConfigError: onnxruntime can't round it.
    """
    from onnxruntime import InferenceSession
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    (fed,) = InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._left, None)
            return None if batch is None else {fed.name: _array(batch)}

    inferred, rounded = (path.with_name(f".{os.getpid()}.{kind}.{path.name}") for kind in ("inferred", "rounded"))
    try:
        quant_pre_process(path, inferred, skip_symbolic_shape=True)
        quantize_static(
            inferred, rounded, Reader(),
            quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        InferenceSession(rounded, providers=["CPUExecutionProvider"])  # It must run as well.
        durable.replace((rounded, path))
    except Exception as error:  # Whatever onnxruntime meets in a network of a user's.
        raise ConfigError(
            f"the network must be one that onnxruntime can round to 8 bits, but that fails: {first_line(error)}. "
            "Export it without --int8."
        ) from error
    finally:
        inferred.unlink(missing_ok=True)
        rounded.unlink(missing_ok=True)


class OnnxNetwork(nn.Module):
    """An ONNX file of one input and one answer, run as a network on the CPU.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        from onnxruntime import InferenceSession

        super().__init__()
        self._session = InferenceSession(path, providers=["CPUExecutionProvider"])
        (fed,) = self._session.get_inputs()
        self._fed = fed.name

    def forward(self, x: Tensor) -> Tensor:
        """What the file answers, where the input lies."""
        (answer,) = self._session.run(None, {self._fed: _array(x)})
        return torch.from_numpy(answer).to(x.device)


def _array(x: Tensor) -> Any:
    return x.detach().float().cpu().contiguous().numpy()
