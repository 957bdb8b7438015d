"""Models: from a request to a model that is ready to be observed."""

from dataclasses import replace

from torch import Tensor, nn

from attnviz.models import own
from attnviz.models.model import Model
from attnviz.models.model_request import ModelRequest


class Checkers(nn.Module):
    """One attention layer over patches of 16 × 16 pixels."""

    patch_size = 16

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8 * heads, 16, 16)
        self.heads = heads

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.embed(pixels).flatten(2).mT  # (batch, tokens, features)
        parts = tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(parts, parts, parts)


def four() -> nn.Module:
    """The model of `checkers:4`."""
    return Checkers(4)


def load(request: ModelRequest) -> Model:
    """A module of this package, loaded as one of the user's own is."""
    heads = request.spec.removeprefix("checkers:")
    if heads != "4":
        raise ValueError(f"checkers has 4 heads, not {heads}")
    return own.load(replace(request, spec="py:attnviz_example.sources:four"))
