"""What the audit of packages tells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from audit import faults_in

SCRIPT = Path(__file__).parents[2] / "scripts" / "audit.py"


def test_faults() -> None:
    report = {
        "dependencies": [
            {"name": "a", "version": "1", "vulns": []},
            {
                "name": "b",
                "version": "2",
                "vulns": [{"id": "X-1", "fix_versions": ["2.1"]}, {"id": "X-2", "fix_versions": []}],
            },
            {"name": "c", "skip_reason": "not there"},
        ]
    }
    assert list(faults_in(report)) == [("b 2: X-1, mended in 2.1", True), ("b 2: X-2, not mended yet", False)]


def test_without_pip_audit_it_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "pip_audit.py").write_text("raise SystemExit(3)")  # As good as none: it says nothing.
    done = subprocess.run(
        [sys.executable, SCRIPT], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout[:10]) == (0, "left out: ")
