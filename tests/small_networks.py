"""One small network for each way in which channels are tied together."""

import torch
from torch import nn
from torch.nn import functional as F


def conv(inputs, outputs, size=3, **options):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, **options)


def sequential(first, second, **options):
    """Two convolutions and a classifier; the options are those of the second convolution."""
    return nn.Sequential(
        conv(1, first), nn.BatchNorm2d(first), nn.ReLU(),
        conv(first, second, **options), nn.BatchNorm2d(second), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, 4),
    ).eval()  # fmt: skip


class Plain(nn.Module):
    """Two convolutions, flattened."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = conv(1, 8), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = conv(8, 6), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 4, 4)

    def forward(self, x):
        x = F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        return self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Residual(nn.Module):
    """A stem, a block with an identity and one with a projection."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = conv(1, 6), nn.BatchNorm2d(6)
        self.inner1, self.inner1_norm = conv(6, 5), nn.BatchNorm2d(5)
        self.outer1, self.outer1_norm = conv(5, 6), nn.BatchNorm2d(6)
        self.inner2, self.inner2_norm = conv(6, 8, stride=2), nn.BatchNorm2d(8)
        self.outer2, self.outer2_norm = conv(8, 7), nn.BatchNorm2d(7)
        self.skip, self.skip_norm = conv(6, 7, 1, stride=2), nn.BatchNorm2d(7)
        self.fc = nn.Linear(7, 4)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.relu(x + self.outer1_norm(self.outer1(F.relu(self.inner1_norm(self.inner1(x))))))
        inner = self.outer2_norm(self.outer2(F.relu(self.inner2_norm(self.inner2(x)))))
        return self.fc(F.relu(self.skip_norm(self.skip(x)) + inner).mean((2, 3)))


class Concatenated(nn.Module):
    """Branches that are normalised together, and once more with what is made of them."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.norm = conv(1, 4), conv(1, 6), nn.BatchNorm2d(10)
        self.more, self.all_norm = conv(10, 5), nn.BatchNorm2d(15)
        self.fc = nn.Linear(15, 4)

    def forward(self, x):
        both = torch.cat([self.left(x), self.right(x)], 1)
        more = self.more(F.relu(self.norm(both)))
        return self.fc(F.relu(self.all_norm(torch.cat([both, more], 1))).mean((2, 3)))


class Depthwise(nn.Module):
    """An inverted residual, and a grouped convolution."""

    def __init__(self):
        super().__init__()
        self.expand, self.expand_norm = conv(1, 6, 1), nn.BatchNorm2d(6)
        self.each, self.each_norm = conv(6, 12, groups=6), nn.BatchNorm2d(12)
        self.project, self.project_norm = conv(12, 6, 1), nn.BatchNorm2d(6)
        self.grouped, self.grouped_norm = conv(6, 9, groups=3), nn.BatchNorm2d(9)
        self.fc = nn.Linear(9, 4)

    def forward(self, x):
        x = F.relu6(self.each_norm(self.each(F.relu6(self.expand_norm(self.expand(x))))))
        x = self.project_norm(self.project(x))
        return self.fc(F.relu(self.grouped_norm(self.grouped(x))).mean((2, 3)))


class Headed(nn.Module):
    """As a VGG: convolutions with a BatchNorm each, and a hidden linear layer that has none."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = conv(1, 8), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = conv(8, 6), nn.BatchNorm2d(6)
        self.hidden, self.fc = nn.Linear(6 * 4, 10), nn.Linear(10, 4)

    def forward(self, x):
        x = F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        return self.fc(F.relu(self.hidden(F.adaptive_avg_pool2d(x, 2).flatten(1))))


class Bare(nn.Module):
    """A residual sum and a hidden linear layer without any BatchNorm."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)
        self.outer, self.hidden, self.fc = nn.Conv2d(5, 6, 3, padding=1), nn.Linear(6, 7), nn.Linear(7, 4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        return self.fc(F.relu(self.hidden(x.mean((2, 3)))))


NETWORKS = {"plain": Plain, "residual": Residual, "concatenated": Concatenated, "depthwise": Depthwise}
UNSCALED = {"headed": Headed, "bare": Bare}
"""Some channel groups, or all, pass no BatchNorm."""
SHAPE = (1, 8, 8)


def make(name, seed=0):
    """The network with weights of its own and normalisations at random: fresh ones are alike and hide wrong indices."""
    torch.manual_seed(seed)
    model = {**NETWORKS, **UNSCALED}[name]().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (module.bias, module.running_mean):
                    tensor.normal_(0, 0.3)
    return model
