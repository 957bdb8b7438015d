# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index"
# Models are written as people write them, who annotate no more than they like.
"""The same attention, spelled in the ways that people spell it."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panel.notes import note, note_weights
from panel.truth import CLS, attends, expects, grid, join
from panel.weights import seeded

PATCHES = grid(4, 6)
WITH_CLASS = 2 * [attends(join(CLS, PATCHES))]
WITHOUT = 2 * [attends(PATCHES)]


class Embedding(nn.Module):
    """Patches by a convolution, positions, and perhaps a class token in front."""

    def __init__(self, dim: int, *, cls: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if cls else None
        self.pos_embed = nn.Parameter(torch.zeros(1, 24 + cls, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        return x + self.pos_embed


def stacked(attention: type[nn.Module], *, cls: bool, dim: int = 24) -> nn.Module:
    """Embedding and two layers of an attention, each with its residual."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.attn = nn.LayerNorm(dim), attention(dim)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.attn(self.norm(x))

    model = nn.Sequential(Embedding(dim, cls=cls), Residual(), Residual())
    seeded(model)
    return model


class HeadsThenTokens(nn.Module):
    """lucidrains: `einsum('b h i d, b h j d -> b h i j')`."""

    def __init__(self, dim: int, heads: int = 3) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.to_qkv = nn.Linear(dim, dim * 3, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.to_qkv(x).chunk(3, -1)
        )
        note(q, k)
        dots = torch.einsum("b h i d, b h j d -> b h i j", q, k) * self.scale
        out = torch.einsum("b h i j, b h j d -> b h i d", dots.softmax(dim=-1), v)
        return self.to_out(out.transpose(1, 2).flatten(2))


@expects(*WITH_CLASS)
def einsum_heads_first() -> nn.Module:
    return stacked(HeadsThenTokens, cls=True)


class TokensThenHeads(nn.Module):
    """Flax's layout: `einsum('bnhd,bmhd->bhnm')`."""

    def __init__(self, dim: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (f(x).view(b, n, self.heads, -1) for f in (self.query, self.key, self.value))
        note(q.transpose(1, 2), k.transpose(1, 2))
        q = q / math.sqrt(c // self.heads)
        weights = F.softmax(torch.einsum("bnhd,bmhd->bhnm", q, k), dim=-1)
        return self.out(torch.einsum("bhnm,bmhd->bnhd", weights, v).reshape(b, n, c))


@expects(*WITHOUT)
def einsum_tokens_first() -> nn.Module:
    return stacked(TokensThenHeads, cls=False)


class Baddbmm(nn.Module):
    """diffusers: `torch.baddbmm` over heads in the batch."""

    def __init__(self, dim: int, heads: int = 3) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.to_out = nn.Linear(dim, dim)

    def heads_to_batch(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        x = x.reshape(b, n, self.heads, c // self.heads).permute(0, 2, 1, 3)
        return x.reshape(b * self.heads, n, c // self.heads)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.heads_to_batch(f(x)) for f in (self.to_q, self.to_k, self.to_v))
        note(q.unflatten(0, (-1, self.heads)), k.unflatten(0, (-1, self.heads)))
        empty = torch.empty(q.shape[0], q.shape[1], k.shape[1], dtype=q.dtype, device=q.device)
        scores = torch.baddbmm(empty, q, k.transpose(-1, -2), beta=0, alpha=self.scale)
        x = torch.bmm(scores.softmax(dim=-1), v)
        x = x.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)
        return self.to_out(x)


@expects(*WITH_CLASS)
def baddbmm() -> nn.Module:
    return stacked(Baddbmm, cls=True)


class ByHand(nn.Module):
    """A softmax of exp and sum, the maximum taken away."""

    def __init__(self, dim: int, heads: int = 2) -> None:
        super().__init__()
        self.h = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.h, c // self.h).permute(2, 0, 3, 1, 4)
        note(q, k)
        scores = q @ k.transpose(-1, -2) / math.sqrt(c // self.h)
        scores = scores - scores.max(dim=-1, keepdim=True).values
        weights = torch.exp(scores)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


@expects(*WITHOUT)
def softmax_by_hand() -> nn.Module:
    return stacked(ByHand, cls=False)


class Annotated(nn.Module):
    """The annotated transformer's function, `masked_fill` and dropout included."""

    def __init__(self, dim: int, heads: int = 2) -> None:
        super().__init__()
        self.h, self.d_k = heads, dim // heads
        self.linears = nn.ModuleList([nn.Linear(dim, dim) for _ in range(4)])
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            lin(x).view(x.size(0), -1, self.h, self.d_k).transpose(1, 2) for lin in self.linears[:3]
        )
        note(q, k)
        mask = torch.ones(x.size(0), 1, 1, x.size(1), dtype=torch.bool, device=x.device)
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(self.d_k)
        scores = scores.masked_fill(mask == 0, -1e9)
        p_attn = self.dropout(scores.softmax(dim=-1))
        x = torch.matmul(p_attn, v).transpose(1, 2).contiguous()
        return self.linears[-1](x.view(x.size(0), -1, self.h * self.d_k))


@expects(*WITH_CLASS)
def annotated_transformer() -> nn.Module:
    return stacked(Annotated, cls=True)


class RelativeBias(nn.Module):
    """A learned bias for each offset between two patches (Swin's table)."""

    def __init__(self, dim: int, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.table = nn.Parameter(torch.zeros(7 * 11, heads))
        y, x = (
            t.flatten() for t in torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
        )
        index = (y[:, None] - y + 3) * 11 + (x[:, None] - x + 5)
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        note(q, k, bias=bias.detach().double())
        attn = (q * q.shape[-1] ** -0.5) @ k.mT + bias.unsqueeze(0)
        return self.proj((attn.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


@expects(*WITHOUT)
def relative_position_bias() -> nn.Module:
    return stacked(RelativeBias, cls=False)


class TalkingHeads(nn.Module):
    """CaiT's (2003.02436): heads mixed before and after the softmax."""

    def __init__(self, dim: int, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.proj_l, self.proj_w = nn.Linear(heads, heads), nn.Linear(heads, heads)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attn = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
        attn = self.proj_l(attn.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        attn = attn.softmax(dim=-1)
        note_weights(attn)
        attn = self.proj_w(attn.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))


@expects(*WITH_CLASS)
def talking_heads() -> nn.Module:
    return stacked(TalkingHeads, cls=True)


class Rotary(nn.Module):
    """Rotary embeddings (2104.09864) along both sides, applied to q and k."""

    def __init__(self, dim: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        y, x = (
            t.flatten() for t in torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
        )
        speed = 10 ** -torch.arange(0, 1, 1 / 3)
        angle = torch.cat([x[:, None] * speed, y[:, None] * speed], -1).repeat(1, 2)  # (24, 12)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-b, a), dim=-1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = self.rotate(q), self.rotate(k)
        note(q, k)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


@expects(*WITHOUT)
def rotary() -> nn.Module:
    return stacked(Rotary, cls=False)
