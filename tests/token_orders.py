"""Models whose class token is not the first token, loaded by `py:token_orders.py:NAME`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention of two heads with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def parts(self, x: Tensor) -> Tensor:
        of_heads: Tensor = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return of_heads

    def weights(self, x: Tensor) -> Tensor:
        """(batch, heads, tokens, tokens), by the formula."""
        q, k, _ = self.parts(x)
        return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.parts(x)
        return x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Ordered(nn.Module):
    """`before` and `behind` name the tokens around the grid: c the class token, r a register."""

    before, behind = "", ""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, 8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 16))
        self.register_tokens = nn.Parameter(torch.randn(1, 2, 16))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(16, 3)
        order = f"{self.before}|{self.behind}"
        self.grid_at = order.index("|")
        self.place = order.index("c") if "c" in self.before else -1

    def tokens(self, pixels: Tensor) -> Tensor:
        grid = self.embed(pixels).flatten(2).mT
        registers = iter(torch.split(self.register_tokens.expand(len(grid), -1, -1), 1, 1))
        sides = [
            [self.cls_token.expand(len(grid), -1, -1) if each == "c" else next(registers)
             for each in side]
            for side in (self.before, self.behind)
        ]  # fmt: skip
        return torch.cat([*sides[0], grid, *sides[1]], 1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.tokens(pixels)
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(x[:, self.place])
        return scores


class ClassLast(Ordered):
    behind = "c"


class RegistersThenClassLast(Ordered):
    behind = "rrc"


class RegistersFirstClassLast(Ordered):
    before, behind = "rr", "c"


class RegistersThenClass(Ordered):
    before = "rrc"
