# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index,import-not-found"
# Models are written as people write them, who annotate no more than they like.
"""Plain vision transformers: where the class token stands, and how the patches are cut."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panel.notes import note
from panel.truth import CLS, ELSE, attends, each_with, expects, grid, join, windows
from panel.weights import seeded

PATCHES = grid(4, 6)


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    """timm's, with the fused call."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        note(q, k)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@expects(*3 * [attends(join(CLS, PATCHES))])
class ClassTokenFirst(nn.Module):
    """ViT (2010.11929), as timm writes it: patches by a convolution."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 25, dim))
        self.blocks = nn.ModuleList([Block(dim, 3) for _ in range(3)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


@expects(*2 * [attends(join(PATCHES, CLS))])
class ClassTokenLast(nn.Module):
    """Patches by `F.unfold` and a linear layer; the class token behind them."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 8 * 8, dim)
        self.cls_token = nn.Parameter(torch.zeros(dim))
        self.pos = nn.Parameter(torch.zeros(24, dim))
        self.layers = nn.Sequential(Block(dim, 2), Block(dim, 2))
        self.out = nn.Linear(dim, 5)
        seeded(self)

    def forward(self, images: Tensor) -> Tensor:
        patches = F.unfold(images, kernel_size=8, stride=8).transpose(1, 2)
        x = self.embed(patches) + self.pos
        x = torch.cat([x, self.cls_token.repeat(len(x), 1, 1)], 1)
        return self.out(self.layers(x)[:, -1])


@expects(*2 * [attends(PATCHES)])
class NoClassToken(nn.Module):
    """Patches by `reshape` and `permute`; the mean of the tokens is classified."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.to_tokens = nn.Linear(3 * 8 * 8, dim)
        self.position = nn.Embedding(24, dim)
        self.blocks = nn.ModuleList([Block(dim, 2) for _ in range(2)])
        self.classifier = nn.Linear(dim, 7)
        seeded(self)

    def forward(self, img: Tensor) -> Tensor:
        b, c, h, w = img.shape
        x = img.reshape(b, c, h // 8, 8, w // 8, 8)
        x = x.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, 8 * 8 * c)
        x = self.to_tokens(x)
        x = x + self.position(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            x = block(x)
        return self.classifier(x.mean(dim=1))


@expects(*2 * [attends(join(CLS, ELSE, ELSE, PATCHES))])
class Registers(nn.Module):
    """Two registers (2309.16588) behind the class token; patches by `Tensor.unfold`."""

    num_prefix_tokens = 3

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.proj = nn.Linear(3 * 8 * 8, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.reg_token = nn.Parameter(torch.zeros(1, 2, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 24, dim))
        self.blocks = nn.Sequential(*[Block(dim, 3) for _ in range(2)])
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unfold(2, 8, 8).unfold(3, 8, 8)  # (b, 3, 4, 6, 8, 8)
        x = x.permute(0, 2, 3, 1, 4, 5).flatten(1, 2).flatten(2)
        x = self.proj(x) + self.pos_embed
        prefix = torch.cat([self.cls_token, self.reg_token], dim=1)
        return self.blocks(torch.cat([prefix.expand(len(x), -1, -1), x], dim=1))


@expects(*2 * [attends(each_with(CLS, windows(PATCHES, 4, 6, (4, 3))))])
class ClassTokenInEachWindow(nn.Module):
    """The left and the right half attend apart, each with the class token in front."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, 4, 6))
        self.blocks = nn.ModuleList([Block(dim, 2) for _ in range(2)])
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x) + self.pos_embed
        b, c, h, w = x.shape
        x = x.view(b, c, h, 2, w // 2).permute(0, 3, 2, 4, 1).reshape(2 * b, -1, c)
        x = torch.cat([self.cls_token.expand(2 * b, -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return x[:, 0].view(b, 2, c).mean(1)


@expects(*2 * [attends(join(CLS, PATCHES))])
class Rearranged(nn.Module):
    """vit-pytorch's patch embedding, by einops."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        from einops.layers.torch import Rearrange  # noqa: PLC0415 — not everywhere installed

        self.to_patch_embedding = nn.Sequential(
            Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=8, p2=8),
            nn.LayerNorm(192),
            nn.Linear(192, dim),
            nn.LayerNorm(dim),
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.zeros(1, 25, dim))
        self.blocks = nn.ModuleList([Block(dim, 2) for _ in range(2)])
        seeded(self)

    def forward(self, img: Tensor) -> Tensor:
        from einops import repeat  # noqa: PLC0415

        x = self.to_patch_embedding(img)
        x = torch.cat((repeat(self.cls_token, "1 1 d -> b 1 d", b=len(x)), x), dim=1)
        x = x + self.pos_embedding
        for block in self.blocks:
            x = block(x)
        return x[:, 0]
