from __future__ import annotations

import pytest

from autoprune.config import Completed, Failed, Progressed, Stopped
from autoprune.distributed.reports import pack, unpack

REPORTS = [
    Progressed(phase="sparsify", progress=0.5),
    Progressed(phase="finetune", progress=0.0, rung=0, score=0.25, macs_ratio=0.5, host="h", node="n"),
    Progressed(phase="surgery", progress=0.0, result_key="k", phase_file={"key": "layer1.0/conv", "size_bytes": 1}),
    Completed(result={"accuracy": 0.1 + 0.2, "widths": {"layer1.0/conv1": 3}}, host="h"),
    Stopped(reason="too slow", found={"latency_ms": 9.0}),
    Failed(reason="ValueError: no", traceback="line\nline"),
]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: type(report).__name__)
def test_a_report_arrives_as_it_was_sent(report):
    assert unpack({"trial_id": "t", **pack(report)}) == report


def test_silence_is_no_report():
    assert unpack(None) is None
    assert unpack({"training_iteration": 1}) is None
