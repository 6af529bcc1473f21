"""Launch a study file once for each of three seeds: python ../run.py ../study.toml [options of launch], in raw/.

Each seed is a study of its own: the name ends in the seed.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

SEEDS = (0, 1, 2)

source, options = Path(sys.argv[1]), sys.argv[2:]
name = tomllib.loads(source.read_text())["study"]["name"]
for seed in SEEDS:
    text = source.read_text().replace(f'name = "{name}"', f'name = "{name}_{seed}"')
    copy = source.with_name(f"{source.stem}_{seed}.toml")
    copy.write_text(text.replace("seed = 0", f"seed = {seed}"))
    command = [sys.executable, "-m", "autoprune.cli.main", "launch", str(copy), "--storage", "sqlite:///study.db"]
    subprocess.run([*command, *options], check=True)
