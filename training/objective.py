"""Defines the training objective: the targets of a scene, and the loss."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnviz.models.tiny import FEATURES, HEADS, LAYERS, VisionTransformer

HEAD_TARGETS = ("whole", "rim", "middle", "details", "top", "bottom", "left", "right")
"""The targets of the eight heads of the last layer, in their order."""
MIDDLE_LAYER = 2


@dataclass(frozen=True)
class Truth:
    """The truth about scenes on the model's grid.

    Attributes:
        cover: (B, rows, columns), the share of each patch that is object.
        details: (B, rows, columns), the share of each patch that is a painted detail.
        label: (B,), the kind of the largest object; −1 if there is no object.
    """

    cover: Tensor
    details: Tensor
    label: Tensor


class Teacher(nn.Module):
    """The model with extra heads that only the training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.model = VisionTransformer()
        self.foreground = nn.ModuleList(nn.Linear(FEATURES, 1) for _ in range(2))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.6 * FEATURES**-0.5)
            elif isinstance(module, nn.Conv2d):  # patch embeddings get the scale of the positions
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for token in (self.model.cls_token, self.model.register_tokens):
            nn.init.normal_(token, std=0.5)
        queries = self.model.get_parameter(f"blocks.{LAYERS - 1}.attention.q_linear.weight")
        nn.init.trunc_normal_(queries, std=FEATURES**-0.5)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """(B, 3, h, w) → attention of the class token (B, heads, N), scores, object logits."""
        model, x = self.model, self.model.tokens(pixels)
        weights = middle = x
        for number, block in enumerate(model.blocks):
            # Explicit weights: their backward pass is faster on a CPU in half precision.
            x, weights = block(x, need_weights=True)
            if number == MIDDLE_LAYER:
                middle = x
        last = model.norm(x)
        prefix = model.prefix
        objects = (
            self.foreground[0](middle[:, prefix:])[..., 0],
            self.foreground[1](last[:, prefix:])[..., 0],
        )
        return weights[:, :, 0], model.head(last[:, 0]), objects


def head_targets(truth: Truth) -> Tensor:
    """The targets of the heads, (B, heads, rows, columns), not yet normalised.

    Let a and b be the numbers of object patches from a patch to the edge of its object, above and
    below, itself included. Then y = (a − ½) / (a + b − 1) is its place within the object from top
    to bottom, 0 to 1, and x likewise from left to right.
    """
    inside = (truth.cover > 0.4).float()
    above, below, left, right = (
        _run(inside, axis, back) for axis in (1, 2) for back in (False, True)
    )
    y = torch.where(inside > 0, (above - 0.5) / (above + below - 1), 0.5)
    x = torch.where(inside > 0, (left - 0.5) / (left + right - 1), 0.5)
    edge = torch.stack([above, below, left, right]).amin(0)
    middle = inside * (16 * x * (1 - x) * y * (1 - y)) ** 1.5 + 0.01
    rim = 0.02 + (edge <= 1).float() + 0.3 * (edge == 2).float()
    enough = truth.details.sum((1, 2), keepdim=True) > 0.3
    details = torch.where(enough, truth.details + 0.03, middle)
    steep = [torch.exp(-4 * place) for place in (y, 1 - y, x, 1 - x)]
    shapes = [torch.ones_like(x), rim, middle, details, *steep]
    return truth.cover[:, None] * torch.stack(shapes, 1)


def _run(inside: Tensor, axis: int, back: bool) -> Tensor:
    """The length of the run of ones that ends at each patch along an axis."""
    rows = inside.unbind(axis)
    run, runs = torch.zeros_like(rows[0]), []
    for row in reversed(rows) if back else rows:
        run = (run + 1) * row
        runs.append(run)
    return torch.stack(runs[::-1] if back else runs, axis)


def loss(teacher: Teacher, pixels: Tensor, truth: Truth) -> tuple[Tensor, dict[str, float]]:
    """The training loss of a batch, and its parts.

    The loss is the sum of several cross-entropies: of each head's attention against its target, and
    of the heads' mean against the object's cover (both minus the target's entropy, that is, the
    Kullback–Leibler divergence); of each patch being object, from the middle and the last layer; of
    the kind of object.
    """
    attention, scores, objects = teacher(pixels)
    prefix = teacher.model.prefix
    cover = truth.cover.flatten(1)
    there = (cover.sum(1) > 0.5).float()
    target = _over_keys(head_targets(truth).flatten(2), there, prefix)
    heads = _divergence(target, attention)  # (B, H)
    mean = _divergence(_over_keys(cover[:, None], there, prefix), attention.mean(1, keepdim=True))
    parts = {
        "heads": heads.mean(),
        "mean": mean.mean(),
        "middle": F.binary_cross_entropy_with_logits(objects[0].float(), cover),
        "last": F.binary_cross_entropy_with_logits(objects[1].float(), cover),
        "kind": F.cross_entropy(scores.float(), truth.label, ignore_index=-1, label_smoothing=0.05),
    }
    weight = {"heads": 0.5, "mean": 0.7, "middle": 0.5, "last": 1.0, "kind": 0.4}
    total = torch.stack([weight[name] * value for name, value in parts.items()]).sum()
    return total, {name: float(value.detach()) for name, value in parts.items()}


def _over_keys(grid: Tensor, there: Tensor, prefix: int) -> Tensor:
    """A target over all keys that sums to 1: the grid, or the class token if the grid is empty."""
    grid = grid * there[:, None, None]
    nothing = grid.new_zeros(*grid.shape[:2], prefix)
    nothing[..., 0] = 1 - there[:, None]
    keys = torch.cat([nothing, grid], 2)
    return keys / keys.sum(2, keepdim=True)


def _divergence(target: Tensor, attention: Tensor) -> Tensor:
    """The Kullback–Leibler divergence Σ t ln(t / a) over the keys."""
    log = attention.float().clamp_min(1e-7).log()
    return (torch.xlogy(target, target) - target * log).sum(2)


assert len(HEAD_TARGETS) == HEADS
