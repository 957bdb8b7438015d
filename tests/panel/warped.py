# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index"
# Models are written as people write them, who annotate no more than they like.
"""Pictures that a model moves, cuts, warps or adds to before it makes tokens of them."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panel.plain import Block
from panel.truth import PATCH, Array, attends, expects, grid
from panel.weights import seeded

PATCHES = grid(4, 6)
CELLS: Array = PATCHES.reshape(4, 6, 3)


class Blocks(nn.Module):
    """Patches by a convolution, and two blocks."""

    def __init__(self, channels: int = 3, dim: int = 24) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, dim, PATCH, PATCH)
        self.blocks = nn.Sequential(Block(dim, 2), Block(dim, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.embed(x).flatten(2).transpose(1, 2))


class OfPixels(nn.Module):
    """A step on the picture, and what follows it."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.rest = Blocks(channels)
        seeded(self)

    def step(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.step(x)).mean(1)


@expects(*2 * [attends(CELLS[:, ::-1].reshape(1, -1, 3))])
class Mirrored(OfPixels):
    def step(self, x: Tensor) -> Tensor:
        return torch.flip(x, dims=[-1])


@expects(*2 * [attends(CELLS[:, ::-1].reshape(1, -1, 3))], may_be="assumed, refused")
class MirroredInNumpy(OfPixels):
    """Nothing can be known of what NumPy does."""

    def step(self, x: Tensor) -> Tensor:
        array = x.detach().cpu().numpy()[..., ::-1]
        return torch.from_numpy(np.ascontiguousarray(array)).to(x.device)


MIDDLE = grid(4, 6, 24, 16) + np.array([12.0, 8.0, 0.0])


@expects(*2 * [attends(MIDDLE)], may_be="assumed, refused")
class ZoomedInNumpy(OfPixels):
    """The middle of the picture, twice as large: as many tokens as the picture has cells."""

    def step(self, x: Tensor) -> Tensor:
        array = x.detach().numpy()[:, :, 8:24, 12:36]
        return torch.from_numpy(array.repeat(2, axis=2).repeat(2, axis=3))


@expects(
    *2 * [attends(CELLS[1:3, 1:5].reshape(1, -1, 3))],
    may_be="right, not drawn, refused",
    asks=[(("auto", "22,18"), "all")],
)
class Cropped(OfPixels):
    def step(self, x: Tensor) -> Tensor:
        return x[:, :, 8:-8, 8:-8]


@expects(*2 * [attends(np.roll(CELLS, (1, -2), (0, 1)).reshape(1, -1, 3))])
class Rolled(OfPixels):
    def step(self, x: Tensor) -> Tensor:
        return torch.roll(x, shifts=(8, -16), dims=(2, 3))


class Affine(OfPixels):
    """A spatial transformer (1506.02025) whose map is fixed."""

    theta: tuple[tuple[float, float, float], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))

    def step(self, x: Tensor) -> Tensor:
        theta = torch.tensor(self.theta, device=x.device).expand(len(x), -1, -1)
        where = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, where, align_corners=False)


@expects(
    *2 * [attends(CELLS[::-1, ::-1].reshape(1, -1, 3))],
    may_be="right, not drawn, refused, assumed",
)
class TurnedBySampling(Affine):
    theta = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


@expects(
    *2 * [attends(MIDDLE)],
    may_be="right, not drawn, refused, assumed",
    asks=[(("auto", "22,18"), "all")],
    within=0.5,
)
class ZoomedBySampling(Affine):
    theta = ((0.5, 0.0, 0.0), (0.0, 0.5, 0.0))


_A = np.deg2rad(20)
_R = np.array([[np.cos(_A), -np.sin(_A) * 32 / 48], [np.sin(_A) * 48 / 32, np.cos(_A)]]) * 0.6
_CENTRE = np.array([24.0, 16.0])
TURNED = PATCHES.copy()
TURNED[0, :, :2] = ((PATCHES[0, :, :2] / _CENTRE - 1) @ _R.T + 1) * _CENTRE


@expects(*2 * [attends(TURNED, drawn=False)], may_be="right, refused, assumed", within=0.5)
class Turned(Affine):
    """By 20 degrees: what its tokens lie on is no lattice of rows and columns."""

    theta = tuple((float(a), float(b), 0.0) for a, b in _R)


@expects(*2 * [attends(PATCHES)])
class Coordinates(OfPixels):
    """CoordConv (1807.03247): two channels say where a pixel is."""

    def __init__(self) -> None:
        super().__init__(5)

    def step(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        y = torch.linspace(-1, 1, h).view(1, 1, h, 1).expand(b, -1, -1, w)
        xx = torch.linspace(-1, 1, w).view(1, 1, 1, w).expand(b, -1, h, -1)
        return torch.cat([x, xx, y], dim=1)


@expects(*2 * [attends(PATCHES)], within=2)
class ShiftedPatches(OfPixels):
    """SPT (2112.13492): four copies, shifted by half a patch, with zeros where nothing is."""

    def __init__(self) -> None:
        super().__init__(15)

    def step(self, x: Tensor) -> Tensor:
        s = PATCH // 2
        shifts = ((s, -s, s, -s), (-s, s, s, -s), (s, -s, -s, s), (-s, s, -s, s))
        return torch.cat((x, *(F.pad(x, shift) for shift in shifts)), dim=1)


FINE = grid(8, 12) - np.array([0.5, 0.5, 0.0])  # 4·i − 2 + 3½
COARSE = PATCHES - np.array([2.5, 2.5, 0.0])  # of these the even ones


@expects(attends(FINE), attends(COARSE), within=None, asks=[(("auto", "18,18"), "all")])
class TokensToTokens(nn.Module):
    """T2T (2101.11986): overlapping patches with padding, unfolded once more after attention."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.first, self.attend = nn.Linear(3 * 49, dim), Block(dim, 2)
        self.second, self.block = nn.Linear(9 * dim, dim), Block(dim, 3)
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.unfold(x, kernel_size=7, stride=4, padding=2).transpose(1, 2)
        x = self.attend(self.first(x))
        x = x.transpose(1, 2).reshape(len(x), -1, 8, 12)
        x = F.unfold(x, kernel_size=3, stride=2, padding=1).transpose(1, 2)
        return self.block(self.second(x)).mean(1)
