"""torchvision's networks for segmentation and detection: backbones and heads are traced, their outputs stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchvision.models import detection, segmentation

from autoprune.engine.surgery import cut, masked
from autoprune.engine.tracing import trace
from tests.engine.tracing.counting import count_macs
from tests.engine.tracing.test_own_forwards import draw, shaken

torch.set_num_threads(1)


class BackboneAndHead(nn.Module):
    """A detector up to where boxes are chosen by their scores, which no trace can follow."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head if hasattr(detector, "head") else detector.rpn.head

    def forward(self, x: Tensor) -> Any:
        features = self.backbone(x)
        return self.head(list(features.values()) if isinstance(features, dict) else [features])


BUILT = {
    "lraspp": segmentation.lraspp_mobilenet_v3_large,
    "deeplab": segmentation.deeplabv3_mobilenet_v3_large,
    "ssdlite": detection.ssdlite320_mobilenet_v3_large,
    "faster_rcnn": detection.fasterrcnn_mobilenet_v3_large_320_fpn,
    "fcn": segmentation.fcn_resnet50,
    "retinanet": detection.retinanet_resnet50_fpn,
    "ssd": detection.ssd300_vgg16,
}
SLOW = ("fcn", "retinanet", "ssd")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in BUILT])
def test_backbones_and_heads(name: str) -> None:
    torch.manual_seed(0)
    model: nn.Module = BUILT[name](weights=None, weights_backbone=None, num_classes=5).eval()
    if BUILT[name].__module__.startswith("torchvision.models.detection"):
        model = BackboneAndHead(model)
    x = torch.randn(1, 3, *[300 if name == "ssd" else 96] * 2)
    traced = trace(model, x)
    # SSD divides the map of its first head by a norm over channels.
    assert [refusal.layers for refusal in traced.refused] == ([("backbone.features.21",)] if name == "ssd" else [])
    assert traced.cost.macs_ratio({group.name: 1 for group in traced.groups}) < 0.01
    model, x, kept = shaken(model), x.double(), draw(traced)
    small = cut(model, traced.groups, kept)
    with torch.no_grad():
        expected, got = (tree_leaves(net(x)) for net in (masked(model, traced.groups, kept), small))
    assert [one.shape for one in got] == [one.shape for one in expected]
    largest = max(float(one.abs().max()) for one in expected)
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-10 * largest)
    assert traced.cost.macs({group: len(indices) for group, indices in kept.items()}) == count_macs(small, x)
