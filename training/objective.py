"""Defines the training objective: the targets of a picture, and the loss."""

from dataclasses import dataclass

import guide
import torch
from guide import Seen
from torch import Tensor, nn
from torch.nn import functional as F

from attnviz.models.tiny import FEATURES, HEADS, LABELS, LAYERS, VisionTransformer

HEAD_TARGETS = ("whole", "rim", "middle", "details", "top", "bottom", "left", "right")
"""The targets of the eight heads of the last layer, in their order."""
MIDDLE_LAYER, LATE_LAYER = 2, LAYERS - 2
"""The layers whose tokens tell objects early, and what the guide sees."""
WEIGHTS = {
    "heads": 0.5, "mean": 0.7, "middle": 0.5, "last": 1.0, "kind": 0.6, "kinds": 1.0,
    "seen": 1.0, "guided": 1.0,
}  # fmt: skip
"""The weights of the parts of the loss."""


@dataclass(frozen=True)
class Truth:
    """The truth about pictures on the model's grid.

    Attributes:
        cover: (B, rows, columns), the share of each patch that is object.
        details: (B, rows, columns), the share of each patch that is a detail of an object.
        kinds: (B, labels), the share of each kind among the objects; all 0 if none is known.
        places: (B, rows, columns) long, the kind that fills a patch; −1 if none or unknown.
    """

    cover: Tensor
    details: Tensor
    kinds: Tensor
    places: Tensor


@dataclass(frozen=True)
class Taught:
    """What the model gives in training: of B pictures with N patches and `prefix` other tokens.

    Attributes:
        attention: (B, heads, prefix + N), of the class token in the last layer.
        scores: (B, labels), of the class token.
        places: (B, N, labels), the same head's scores of the patches' last tokens.
        objects: logits of being object, (B, N), from the middle and the last layer.
        seen: (B, N, features of the guide), the prediction of the guide's tokens.
    """

    attention: Tensor
    scores: Tensor
    places: Tensor
    objects: tuple[Tensor, Tensor]
    seen: Tensor


class Teacher(nn.Module):
    """The model with extra heads that only the training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.model = VisionTransformer()
        self.foreground = nn.ModuleList(nn.Linear(FEATURES, 1) for _ in range(2))
        self.seen = nn.Linear(FEATURES, guide.FEATURES)
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

    def forward(self, pixels: Tensor) -> Taught:
        """(B, 3, h, w) → what the losses look at."""
        model, x = self.model, self.model.tokens(pixels)
        weights = middle = late = x
        for number, block in enumerate(model.blocks):
            # Explicit weights: their backward pass is faster on a CPU in half precision.
            x, weights = block(x, need_weights=True)
            if number == MIDDLE_LAYER:
                middle = x
            if number == LATE_LAYER:
                late = x
        last = model.norm(x)
        prefix = model.prefix
        objects = (
            self.foreground[0](middle[:, prefix:])[..., 0],
            self.foreground[1](last[:, prefix:])[..., 0],
        )
        places, seen = model.head(last[:, prefix:]), self.seen(late[:, prefix:])
        return Taught(weights[:, :, 0], model.head(last[:, 0]), places, objects, seen)


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


def loss(
    teacher: Teacher, pixels: Tensor, truth: Truth, seen: Seen | None = None
) -> tuple[Tensor, dict[str, float]]:
    """The training loss of a batch, and its parts.

    The truth is that of the first pictures; any behind them are whole photographs without truth.
    What the guide has seen is that of the last pictures: of all photographs, and of some others.
    The parts are: the Kullback–Leibler divergences of each head's attention from its target, and
    of the heads' mean from the objects' cover; whether each patch is object, from the middle and
    the last layer; the kinds of objects, of the picture and of each patch; the guide's tokens; and
    on photographs the divergence of the heads' mean from the guide's map.
    """
    taught, known = teacher(pixels), len(truth.cover)
    attention = taught.attention[:known]
    prefix = teacher.model.prefix
    cover = truth.cover.flatten(1)
    there = (cover.sum(1) > 0.5).float()
    target = _over_keys(head_targets(truth).flatten(2), there, prefix)
    whole = _over_keys(cover[:, None], there, prefix)
    parts = {
        "heads": _divergence(target, attention).mean(),
        "mean": _divergence(whole, attention.mean(1, keepdim=True)).mean(),
        "middle": _is_object(taught.objects[0][:known], cover),
        "last": _is_object(taught.objects[1][:known], cover),
        "kind": _kind(taught.scores[:known], truth.kinds),
        "kinds": _kinds(taught.places[:known], truth.places.flatten(1)),
    }
    if seen is not None:
        guided = taught.seen[-len(seen.tokens) :].float()
        parts["seen"] = (1 - F.cosine_similarity(guided, seen.tokens, dim=-1)).mean()
    if seen is not None and known < len(pixels):
        maps = seen.maps[-(len(pixels) - known) :, None]
        wanted = _over_keys(maps, torch.ones_like(maps[:, 0, 0]), prefix)
        mean = taught.attention[known:].mean(1, keepdim=True)
        parts["guided"] = _divergence(wanted, mean).mean()
    total = torch.stack([WEIGHTS[name] * value for name, value in parts.items()]).sum()
    return total, {name: float(value.detach()) for name, value in parts.items()}


def _is_object(logits: Tensor, cover: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), cover)


def _kind(scores: Tensor, kinds: Tensor) -> Tensor:
    """Cross-entropy with the shares of kinds, smoothed; of pictures whose kinds are known."""
    known = kinds.sum(1) > 0
    smooth = 0.95 * kinds + 0.05 / len(LABELS)
    each = -(smooth * scores.float().log_softmax(1)).sum(1)
    return (each * known).sum() / known.sum().clamp_min(1)


def _kinds(scores: Tensor, places: Tensor) -> Tensor:
    """Cross-entropy of the patches whose kind is known."""
    some = (places >= 0).sum().clamp_min(1)
    each = F.cross_entropy(
        scores.float().flatten(0, 1), places.flatten(), ignore_index=-1, reduction="sum"
    )
    return each / some


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
