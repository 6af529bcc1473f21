"""The machine that a bench or a study ran on, in words."""

import os
import platform
import subprocess
from pathlib import Path


def cpu() -> str:
    """Name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def described() -> str:
    """Processor, cores and load."""
    return f"{cpu()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def told() -> str:
    """Cores, processor, torch and commit: how the results of a study begin."""
    import torch

    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return f"Hardware: {os.cpu_count()} cores, {cpu()}. torch {torch.__version__}. Commit {commit}."
