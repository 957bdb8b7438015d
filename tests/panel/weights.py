"""Weights that make rows of attention far from uniform, drawn by a model's own code."""

import torch
from torch import Tensor, nn


def seeded(model: nn.Module, gain: float = 1.5, seed: int = 3) -> None:
    """Draw all parameters: matrices with variance gain²/fan-in, scales of norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if name.endswith(".g"):  # the scale of a norm over channels, (1, channels, 1, 1)
                parameter.copy_(1 + 0.1 * drawn)
            elif parameter.ndim > 1 and "token" not in name and "pos" not in name:
                parameter.copy_(gain * drawn / parameter[0].numel() ** 0.5)
            elif name.endswith("weight"):
                parameter.copy_(1 + 0.1 * drawn)
            else:
                parameter.copy_(0.5 * drawn)


def permutation(count: int, seed: int = 5) -> Tensor:
    """A fixed order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
