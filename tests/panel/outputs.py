"""Models that give more than one tensor: a dict, a tuple, a list, a dataclass."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from panel.plain import Block
from panel.truth import CLS, attends, expects, grid, join
from panel.weights import seeded

PATCHES = grid(4, 6)


class Backbone(nn.Module):
    """Tokens after each of two blocks; the class token is the first."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList([Block(dim, 2) for _ in range(2)])
        seeded(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found


WITH_CLASS = 2 * [attends(join(CLS, PATCHES))]


@expects(*WITH_CLASS)
class GivesList(Backbone):
    """The tokens of each block."""


@expects(*WITH_CLASS)
class GivesTuple(Backbone):
    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:  # type: ignore[override]
        tokens = super().forward(x)
        return tokens[-1][:, 0], tokens


@expects(*WITH_CLASS)
class GivesDict(Backbone):
    """DINOv2's."""

    def forward(self, x: Tensor) -> dict[str, Tensor | None]:  # type: ignore[override]
        x = super().forward(x)[-1]
        return {"x_norm_clstoken": x[:, 0], "x_norm_patchtokens": x[:, 1:], "masks": None}


@dataclass
class Output:
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@expects(*WITH_CLASS)
class GivesDataclass(Backbone):
    """As transformers does, with options that have a default."""

    def forward(  # type: ignore[override]
        self, pixel_values: Tensor, *, output_hidden_states: bool = True
    ) -> Output:
        tokens = super().forward(pixel_values)
        return Output(tokens[-1][:, 0], tuple(tokens) if output_hidden_states else None)
