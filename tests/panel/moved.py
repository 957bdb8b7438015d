# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index"
# Models are written as people write them, who annotate no more than they like.
"""Tokens that stand in another order than the patches, of which some are missing or merged."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panel.notes import note_mixture, taking_notes
from panel.plain import Block
from panel.truth import CLS, WHOLE, Array, Layer, attends, expects, grid, join, mixed
from panel.weights import permutation, seeded

PATCHES = grid(4, 6)
ORDER = permutation(24)


@expects(*2 * [attends(PATCHES[:, ORDER.numpy()])])
class Shuffled(nn.Module):
    """The order of the tokens is a fixed random one."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 8, 8)
        self.register_buffer("order", permutation(24))
        self.blocks = nn.Sequential(Block(dim, 2), Block(dim, 2))
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.blocks(x[:, self.order]).mean(1)


KEPT = ORDER[:12].sort().values


@expects(
    *2 * [attends(join(CLS, PATCHES[:, KEPT.numpy()]), on=PATCHES)],
    may_be="right, not drawn, refused",
    asks=[(("auto", "mean"), "all")],
)
class Dropped(nn.Module):
    """Half of the patches take no part (MAE's encoder, patch dropout), always the same ones."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 24, dim))
        self.register_buffer("ids_keep", KEPT[None])
        self.blocks = nn.ModuleList([Block(dim, 2) for _ in range(2)])
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        index = self.ids_keep.unsqueeze(-1).repeat(len(x), 1, x.shape[-1])
        x = torch.gather(x, dim=1, index=index)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        for block in self.blocks:
            x = block(x)
        return x[:, 0]


def _attentive(mixtures: list[Array]) -> list[Layer]:
    tokens = join(CLS, PATCHES)
    return [attends(tokens), attends(mixed(mixtures[0], tokens), on=PATCHES)]


@expects(of=_attentive, may_be="right, not drawn", asks=[(("auto",), "all")])
class AttentiveTokens(nn.Module):
    """EViT (2202.07800): after block 0 the class token and the twelve largest tokens go on."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 25, dim))
        self.first, self.second = Block(dim, 2), Block(dim, 2)
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = self.first(torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed)
        cls, rest = x[:, :1], x[:, 1:]
        score = (rest * cls).sum(-1)
        best = score.topk(12, dim=1).indices
        if taking_notes():
            chosen = torch.cat([torch.zeros(1, 1, dtype=torch.long), best + 1], 1)[0]
            note_mixture(torch.eye(25)[chosen])
        rest = torch.gather(rest, 1, best.unsqueeze(-1).expand(-1, -1, rest.shape[-1]))
        return self.second(torch.cat([cls, rest], dim=1))[:, 0]


def merge(metric: Tensor, x: Tensor, r: int) -> Tensor:
    """ToMe's bipartite soft matching (2210.09461): r tokens are merged into those most alike."""
    metric = metric / metric.norm(dim=-1, keepdim=True)
    scores = metric[..., ::2, :] @ metric[..., 1::2, :].transpose(-1, -2)
    most, index = scores.max(dim=-1)
    edges = most.argsort(dim=-1, descending=True)[..., None]
    unmerged, merged = edges[..., r:, :], edges[..., :r, :]
    into = index[..., None].gather(dim=-2, index=merged)
    src, dst = x[..., ::2, :], x[..., 1::2, :]
    n, _, c = src.shape
    kept = src.gather(dim=-2, index=unmerged.expand(n, -1, c))
    moved = src.gather(dim=-2, index=merged.expand(n, -1, c))
    dst = dst.scatter_reduce(-2, into.expand(n, r, c), moved, reduce="mean")
    return torch.cat([kept, dst], dim=1)


def _merged(mixtures: list[Array]) -> list[Layer]:
    made = (mixtures[0] > 0).astype(float)
    return [attends(PATCHES), attends(mixed(mixtures[0], PATCHES), on=PATCHES, made=made)]


@expects(of=_merged, asks=[(("auto",), "all")], within=4)
class MergedTokens(nn.Module):
    """ToMe: after block 0 eight pairs of tokens become one each."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 8, 8)
        self.pos_embed = nn.Parameter(torch.zeros(1, 24, dim))
        self.blocks = nn.ModuleList([Block(dim, 2), Block(dim, 2)])
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](self.embed(x).flatten(2).transpose(1, 2) + self.pos_embed)
        if taking_notes():
            note_mixture(merge(x, torch.eye(24)[None], 8))
        return self.blocks[1](merge(x, x, 8)).mean(1)


def _sorted(mixtures: list[Array]) -> list[Layer]:
    return 2 * [attends(mixed(mixtures[0], PATCHES))]


@expects(of=_sorted)
class Sorted(nn.Module):
    """Tokens in the order of a learned score."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.embed = nn.Linear(192, dim)
        self.score = nn.Linear(dim, 1)
        self.blocks = nn.Sequential(Block(dim, 3), Block(dim, 3))
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(F.unfold(x, 8, stride=8).transpose(1, 2))
        order = self.score(x).squeeze(-1).argsort(dim=1, descending=True)
        if taking_notes():
            note_mixture(torch.eye(24)[order[0]])
        x = x.gather(1, order.unsqueeze(-1).expand_as(x))
        return self.blocks(x).mean(dim=1)


@expects(*2 * [attends(PATCHES)], may_be="right, not drawn, refused, assumed")
class Fourier(nn.Module):
    """FNet's mixing (2105.03824) before each attention, beside a residual that keeps tokens."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 8, 8)
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(2)])
        self.blocks = nn.ModuleList([Block(dim, 2) for _ in range(2)])
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = norm(x + torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real)
            x = block(x)
        return x.mean(1)


@expects(*2 * [attends(join(*24 * [WHOLE]))], may_be="right, refused, assumed")
class FourierAlone(nn.Module):
    """The same without residual: every token is made of the whole picture."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 8, 8)
        self.blocks = nn.Sequential(Block(dim, 2), Block(dim, 2))
        self.norm = nn.LayerNorm(dim)
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.fft.fft2(x, dim=(-1, -2)).real
        return self.blocks(self.norm(x)).mean(1)
