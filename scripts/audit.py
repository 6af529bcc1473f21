"""Whether the tested versions of the packages have known faults; told and left out where that can't be found out.

pip-audit asks the index that pip is set up for. A fault fails the check once there is a version without it.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[1] / ".ci" / "constraints.txt"
_TIMEOUT_S = 300


def faults_in(report: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Each known fault in a line, and whether another version mends it.

    Args:
        report: What ``pip-audit --format json`` writes.
    """
    for package in report["dependencies"]:
        for fault in package.get("vulns", ()):
            mended = ", ".join(fault["fix_versions"])
            line = f"{package['name']} {package['version']}: {fault['id']}"
            yield f"{line}, mended in {mended}" if mended else f"{line}, not mended yet", bool(mended)


def main() -> int:
    """Ask, and print what is known."""
    if importlib.util.find_spec("pip_audit") is None:
        print("left out: pip-audit is not installed (pip install 'autoprune[audit]')")
        return 0
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
        found = list(faults_in(json.loads(done.stdout)))
    except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
        last = (
            (done.stderr.strip().splitlines() or [""])[-1] if isinstance(error, ValueError | KeyError) else str(error)
        )
        print(f"left out: what is known of faults can't be had here ({last[:200]})")
        return 0
    for line, _ in found:
        print(line)
    print(f"{len(found)} known faults" if found else "no known fault")
    return 1 if any(is_mended for _, is_mended in found) else 0


if __name__ == "__main__":
    sys.exit(main())
