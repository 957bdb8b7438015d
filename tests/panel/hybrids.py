# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index"
# Models are written as people write them, who annotate no more than they like.
"""Models in which attention is one part among others: convolutions, latents, levels, streams."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panel.notes import note
from panel.plain import Block
from panel.truth import CLS, ELSE, WHOLE, attends, centres, expects, grid, join
from panel.weights import seeded

PATCHES = grid(4, 6)
LATENTS = join(*5 * [ELSE])


class CrossAttention(nn.Module):
    def __init__(self, dim: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.to_q(x), *self.to_kv(context).chunk(2, dim=-1))
        )
        note(q, k)
        attn = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return self.proj((attn @ v).transpose(1, 2).flatten(2))


@expects(attends(LATENTS, PATCHES), attends(join(*5 * [WHOLE])), asks=[(("auto",), "all")])
class Perceiver(nn.Module):
    """Latents (2103.03206) look at the picture, then at each other."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.embed = nn.Linear(192, dim)
        self.positions = nn.Parameter(torch.zeros(24, dim))
        self.latents = nn.Parameter(torch.randn(5, dim))
        self.cross, self.block = CrossAttention(dim), Block(dim, 2)
        self.logits = nn.Linear(dim, 10)
        seeded(self)

    def forward(self, images: Tensor) -> Tensor:
        data = self.embed(F.unfold(images, 8, stride=8).mT) + self.positions
        x = self.latents.expand(len(images), -1, -1)
        x = self.block(x + self.cross(x, data))
        return self.logits(x.mean(dim=1))


@expects(attends(PATCHES), attends(CLS, join(CLS, PATCHES)), asks=[(("auto",), "all")])
class ClassAttention(nn.Module):
    """CaiT (2103.17239): the class token comes late, and alone it asks."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 8, 8)
        self.pos_embed = nn.Parameter(torch.zeros(1, 24, dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.block, self.cross = Block(dim, 2), CrossAttention(dim, 3)
        self.gamma = nn.Parameter(torch.ones(dim))
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed)
        cls = self.cls_token.expand(len(x), -1, -1)
        cls = cls + self.gamma * self.cross(cls, torch.cat([cls, x], dim=1))
        return cls[:, 0]


MAP = centres(6, 8, 0.5)  # three convolutions of 3×3 with stride 2, padding 1


@expects(attends(MAP), size=(48, 48), within=None, asks=[(("auto", "18,27"), "all")])
class NonLocal(nn.Module):
    """A convolutional network with a non-local block (1711.07971) over its map of 6×6."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        widths = (3, 8, dim, dim)
        self.stem = nn.Sequential()
        for a, b in pairwise(widths):
            self.stem.extend([nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()])
        self.theta, self.phi, self.g = (nn.Conv2d(dim, dim // 2, 1) for _ in range(3))
        self.w = nn.Conv2d(dim // 2, dim, 1)
        self.after = nn.Conv2d(dim, dim, 3, padding=1)
        self.fc = nn.Linear(dim, 4)
        seeded(self, gain=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        theta = self.theta(x).flatten(2).transpose(1, 2)
        phi, g = self.phi(x).flatten(2), self.g(x).flatten(2).transpose(1, 2)
        note(theta[:, None], phi.transpose(1, 2)[:, None], scale=1.0)
        y = F.softmax(torch.matmul(theta, phi), dim=-1) @ g
        x = x + self.w(y.transpose(1, 2).reshape(len(x), -1, *x.shape[2:]))
        return self.fc(F.relu(self.after(x)).mean((2, 3)))


class ChannelAttention(nn.Module):
    """DaViT's and XCiT's: channels attend to channels over all tokens."""

    def __init__(self, dim: int, groups: int = 2) -> None:
        super().__init__()
        self.groups = groups
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.groups, -1).permute(2, 0, 3, 4, 1)
        q = q * n**-0.5
        note(q, k, scale=1.0)
        attn = (q @ k.transpose(-1, -2)).softmax(dim=-1)
        return self.proj((attn @ v).permute(0, 3, 1, 2).reshape(b, n, c))


CHANNELS = join(*12 * [WHOLE])


@expects(*2 * [attends(PATCHES), attends(CHANNELS)])
class DualAttention(nn.Module):
    """DaViT (2204.03645): tokens attend, then channels do."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 8, 8)
        self.spatial = nn.ModuleList([Block(dim, 2) for _ in range(2)])
        self.channel = nn.ModuleList([ChannelAttention(dim) for _ in range(2)])
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(2)])
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        for spatial, norm, channel in zip(self.spatial, self.norms, self.channel, strict=True):
            x = spatial(x)
            x = x + channel(norm(x))
        return x.mean(1)


DEPTH = join(*24 * [ELSE])


@expects(*2 * [attends(DEPTH), attends(PATCHES)])
class DepthBeside(nn.Module):
    """Tokens of a depth map that is always the same, in a stream of their own."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.rgb, self.d = nn.Conv2d(3, dim, 8, 8), nn.Conv2d(1, dim, 8, 8)
        self.register_buffer("depth", torch.linspace(0, 1, 32 * 48).view(1, 1, 32, 48))
        self.rgb_blocks = nn.ModuleList([Block(dim, 2) for _ in range(2)])
        self.d_blocks = nn.ModuleList([Block(dim, 2) for _ in range(2)])
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rgb(x).flatten(2).transpose(1, 2)
        d = self.d(self.depth.expand(len(x), -1, -1, -1)).flatten(2).transpose(1, 2)
        for of_rgb, of_depth in zip(self.rgb_blocks, self.d_blocks, strict=True):
            d = of_depth(d)
            x = of_rgb(x)
        return torch.cat([x.mean(1), d.mean(1)], dim=-1)


@expects(attends(PATCHES), attends(grid(2, 3)), asks=[(("auto", "14,19"), "all"), (("mean",), "1")])
class Pyramid(nn.Module):
    """Two levels, and between them Swin's merging of 2×2 patches."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 8, 8)
        self.stage1, self.stage2 = Block(dim, 2), Block(2 * dim, 4)
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage1(self.patch_embed(x).flatten(2).transpose(1, 2))
        x = x.view(len(x), 4, 6, -1)
        parts = [x[:, i::2, j::2] for j in range(2) for i in range(2)]
        x = self.reduction(self.norm(torch.cat(parts, -1).flatten(1, 2)))
        return self.stage2(x).mean(1)


@expects(*2 * [attends(PATCHES, grid(2, 3))])
class Reduced(nn.Module):
    """PVT (2102.12122): keys and values of a map that a convolution made smaller."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 8, 8)
        self.sr = nn.ModuleList([nn.Conv2d(dim, dim, 2, 2) for _ in range(2)])
        self.attn = nn.ModuleList([CrossAttention(dim, 3) for _ in range(2)])
        self.norm = nn.LayerNorm(dim)
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        for sr, attn in zip(self.sr, self.attn, strict=True):
            small = sr(x.transpose(1, 2).unflatten(2, (4, 6))).flatten(2).transpose(1, 2)
            x = x + attn(x, self.norm(small))
        return x.mean(1)
