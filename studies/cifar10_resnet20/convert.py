"""Rename the tensors of the shared dense ResNet-20 to autoprune's: python convert.py IN.pt OUT.safetensors."""

import re
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

source, target = Path(sys.argv[1]), Path(sys.argv[2])
renamed = {}
for name, tensor in torch.load(source, weights_only=True).items():
    new = re.sub(r"^conv\.", "conv1.", re.sub(r"^bn\.", "bn1.", name))
    if match := re.match(r"layers\.(\d+)\.(.*)", name):
        index = int(match[1])
        new = f"layer{index // 3 + 1}.{index % 3}.{match[2].replace('down.', 'downsample.')}"
    renamed[new] = tensor.contiguous()
target.parent.mkdir(parents=True, exist_ok=True)
save_file(renamed, target)
print(f"{len(renamed)} tensors written to {target}")
