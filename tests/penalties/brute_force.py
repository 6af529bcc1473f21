"""The proximal step by trying: what closed forms are held against."""

import torch

N_TRIED = 400_001


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def objective(penalty, z, y, step):
    """``(z - y)**2 / 2 + step * P(z)``, elementwise."""
    return (z - y) ** 2 / 2 + step * torch.func.vmap(penalty.value)(z[:, None])


def minimiser(penalty, y, step):
    """The best of many values between 0 and ``y``, the ends included."""
    tried = torch.linspace(0, y, N_TRIED, dtype=torch.float64)
    return tried[objective(penalty, tried, y, step).argmin()].item()
