"""A peer's script on another network than its own: ``NETWORK SCRIPT ARGUMENTS``, NETWORK as ``module:function``.

The peers take their network from ``ResNet20`` of the module ``common`` beside them; here it is another one.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Put the network in its place, then run the script as if it had been called by itself."""
    network, script, *arguments = sys.argv[1:]
    module, function = network.split(":")
    sys.path.insert(0, str(Path(script).parent))
    common = importlib.import_module("common")
    common.ResNet20 = getattr(importlib.import_module(module), function)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
