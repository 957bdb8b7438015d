"""A plain vision transformer whose parts are those of a state dict, for inputs of any shape."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnviz.models.position_tables import resize_positions

PREFIX = ("cls_token", "dist_token", "reg_token")
"""Tokens before the grid, in order."""
Pool = Literal["token", "mean", "both"]


@dataclass(frozen=True)
class Design:
    """What shapes of tensors do not tell of a vision transformer.

    Attributes:
        heads: number of heads.
        grid: rows and columns of the grid that positions are of.
        act: activation of MLPs: `gelu`, `quick_gelu`, `relu` or `silu`.
        eps: epsilon of norms.
        pool: what the class head gets: the class token, the mean of the grid, or both.
        antialias: how positions of other grids are interpolated.
    """

    heads: int
    grid: tuple[int, int]
    act: str = "gelu"
    eps: float = 1e-6
    pool: Pool = "token"
    antialias: bool = True


class Shapes:
    """Makes layers of the shapes that a state dict has; what it has not becomes an identity."""

    def __init__(self, state: Mapping[str, Tensor], eps: float) -> None:
        self.state, self.eps = state, eps

    def linear(self, name: str) -> nn.Module:
        """A linear layer, with a bias if there is one."""
        weight = self.state.get(f"{name}.weight")
        if weight is None:
            return nn.Identity()
        return nn.Linear(weight.shape[1], weight.shape[0], bias=f"{name}.bias" in self.state)

    def norm(self, name: str) -> nn.Module:
        """A layer norm, with a bias if there is one."""
        weight = self.state.get(f"{name}.weight")
        if weight is None:
            return nn.Identity()
        return nn.LayerNorm(weight.shape[0], self.eps, bias=f"{name}.bias" in self.state)

    def parameter(self, name: str) -> nn.Parameter | None:
        """A parameter; None if there is none."""
        tensor = self.state.get(name)
        return None if tensor is None else nn.Parameter(torch.empty(tensor.shape))


class SelfAttention(nn.Module):
    """softmax(q·kᵀ/√d)·v, with one projection for q, k and v."""

    def __init__(self, shapes: Shapes, name: str, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = shapes.linear(f"{name}.qkv")
        self.proj = shapes.linear(f"{name}.proj")

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, F) → (B, N, F)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, H, N, D)
        result: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Module):
    """fc2(act(fc1(x))), or fc2(silu(a) · b) if fc1 gives a and b (SwiGLU, 2002.05202)."""

    def __init__(self, shapes: Shapes, name: str, act: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = shapes.linear(f"{name}.fc1"), shapes.linear(f"{name}.fc2")
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, F) → (B, N, F)."""
        x = self.fc1(x)
        if x.shape[-1] != self.fc2.in_features:
            gate, x = x.chunk(2, -1)
            x = F.silu(gate) * x
        else:
            x = activate(x, self.act)
        result: Tensor = self.fc2(x)
        return result


def activate(x: Tensor, name: str) -> Tensor:
    """An activation by its name."""
    if name == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": F.gelu, "relu": F.relu, "silu": F.silu,
    }  # fmt: skip
    return functions[name](x)


class LayerScale(nn.Module):
    """x · gamma (Touvron et al. 2021, 2103.17239)."""

    def __init__(self, gamma: nn.Parameter) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, F) → (B, N, F)."""
        return x * self.gamma


class PreNormBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each scaled if there is a scale."""

    def __init__(self, shapes: Shapes, name: str, design: Design) -> None:
        super().__init__()
        self.norm1, self.norm2 = shapes.norm(f"{name}.norm1"), shapes.norm(f"{name}.norm2")
        self.attn = SelfAttention(shapes, f"{name}.attn", design.heads)
        self.mlp = FeedForward(shapes, f"{name}.mlp", design.act)
        gammas = (shapes.parameter(f"{name}.ls{number}.gamma") for number in (1, 2))
        self.ls1, self.ls2 = (nn.Identity() if g is None else LayerScale(g) for g in gammas)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, F) → (B, N, F)."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        result: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return result


class PatchEmbedding(nn.Module):
    """A convolution of stride its size; norms before and behind it if there are any."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        weight = shapes.state["patch_embed.proj.weight"]
        side = (weight.shape[2], weight.shape[3])
        bias = "patch_embed.proj.bias" in shapes.state
        self.proj = nn.Conv2d(weight.shape[1], weight.shape[0], side, side, bias=bias)
        self.norm_pre, self.norm = (shapes.norm(f"patch_embed.{n}") for n in ("norm_pre", "norm"))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, h, w) → (B, rows·columns, F)."""
        if isinstance(self.norm_pre, nn.Identity):
            patches = self.proj(pixels).flatten(2).mT
        else:
            patch = self.proj.kernel_size
            flat = F.unfold(pixels, patch, stride=patch).mT  # (B, N, C·height·width)
            patches = F.linear(self.norm_pre(flat), self.proj.weight.flatten(1), self.proj.bias)
        result: Tensor = self.norm(patches)
        return result


class PlainViT(nn.Module):
    """Vision transformer (Dosovitskiy et al. 2021, 2010.11929) in the parts of a state dict.

    Its names are those of timm. It has registers, a distillation token, a norm before the blocks,
    scales and heads exactly if the state dict has them.

    >>> state = {"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)}
    >>> PlainViT(state, Design(heads=2, grid=(4, 4)))(torch.zeros(1, 3, 16, 16)).shape
    torch.Size([1, 16, 8])
    """

    def __init__(self, state: Mapping[str, Tensor], design: Design) -> None:
        super().__init__()
        shapes = Shapes(state, design.eps)
        self.design = design
        for name in (*PREFIX, "pos_embed"):
            self.register_parameter(name, shapes.parameter(name))
        self.prefix = sum(state[name].shape[1] for name in PREFIX if name in state)
        self.patch_embed = PatchEmbedding(shapes)
        self.norm_pre = shapes.norm("norm_pre")
        depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        self.blocks = nn.ModuleList(
            PreNormBlock(shapes, f"blocks.{i}", design) for i in range(depth)
        )
        self.norm, self.fc_norm = shapes.norm("norm"), shapes.norm("fc_norm")
        self.head, self.head_dist = shapes.linear("head"), shapes.linear("head_dist")

    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, C, h, w) → (B, prefix + rows·columns, F): what the last block gives, normed."""
        rows, columns = (
            n // side
            for n, side in zip(pixels.shape[2:], self.patch_embed.proj.kernel_size, strict=True)
        )
        grid = self.patch_embed(pixels)
        given = [token for name in PREFIX if (token := getattr(self, name)) is not None]
        prefix = torch.cat(given, 1) if given else grid.new_zeros(1, 0, grid.shape[2])
        table: Tensor | None = self.pos_embed  # type: ignore[assignment]  # a registered parameter
        if table is not None:
            old = self.design.grid
            count = table.shape[1] - old[0] * old[1]  # of the prefix, from its first on
            places = resize_positions(
                table.float(), count, old, (rows, columns), antialias=self.design.antialias
            ).to(grid)
            grid = grid + places[:, count:]
            prefix = torch.cat([prefix[:, :count] + places[:, :count], prefix[:, count:]], 1)
        x = self.norm_pre(torch.cat([prefix.expand(len(grid), -1, -1), grid], 1))
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.norm(x)
        return result

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, h, w) → logits (B, classes); without a head the tokens (B, N, F)."""
        x = self.tokens(pixels)
        if isinstance(self.head, nn.Identity):
            return x
        mean = x[:, self.prefix :].mean(1)
        if self.design.pool == "both":
            pooled = torch.cat([x[:, 0], mean], 1)
        else:
            pooled = x[:, 0] if self.design.pool == "token" else mean
        logits: Tensor = self.head(self.fc_norm(pooled))
        if isinstance(self.head_dist, nn.Linear):
            logits = (logits + self.head_dist(x[:, 1])) / 2
        return logits
