"""A bank of random fields that everything drawn is made of: made once, cut anew each time."""

import torch
from torch import Tensor

from scenes.chance import Chance

SIDE = 256
"""Of the fields, in pixels; they wrap around, and a power of two does so fast."""
SMOOTH, FINE, FUR, LEAVES = "smooth", "fine", "fur", "leaves"
COUNT = 40


class Fields:
    """Fields of four kinds, each about 0 with deviation 1, but leaves, which are 0 to 1.

    Smooth and fine noise have power spectra f^−2α with α 1.6–2.3 and 0.5–1.2, as natural pictures
    have about 1 (Field 1987, doi 10.1364/JOSAA.4.002379); fur is fine noise drawn out along one
    axis. Leaves are discs and boxes that lie over one another, of sizes that follow a power law:
    they have the statistics of occlusion (Lee, Mumford and Huang 2001, doi
    10.1023/A:1011109015675).
    """

    def __init__(self, chance: Chance) -> None:
        self._banks = {
            SMOOTH: _noise(chance, 1.6, 2.3, drawn_out=False),
            FINE: _noise(chance, 0.5, 1.2, drawn_out=False),
            FUR: _noise(chance, 0.7, 1.4, drawn_out=True),
            LEAVES: torch.stack([_leaves(chance) for _ in range(COUNT)]),
        }

    def cut(self, chance: Chance, kind: str, count: int, height: int, width: int) -> Tensor:
        """(count, height, width): windows of random fields at random places, some mirrored."""
        bank = self._banks[kind]
        which = chance.pick(count, COUNT)
        top, left = chance.pick(count, SIDE), chance.pick(count, SIDE)
        turned = torch.where(chance.happens(count, 0.5), -1, 1)
        rows = (top[:, None] + torch.arange(height)) % SIDE
        columns = (left[:, None] + turned[:, None] * torch.arange(width)) % SIDE
        return bank[which[:, None, None], rows[:, :, None], columns[:, None, :]]

    def at(self, chance: Chance, kind: str, u: Tensor, v: Tensor, scale: Tensor) -> Tensor:
        """(B, H, W): random fields looked up at places u, v; `scale` (B,) pixels a unit."""
        count = len(u)
        which = chance.pick(count, COUNT).int()[:, None, None] * (SIDE * SIDE)
        shift = chance.uniform(count, 4 * SIDE, 5 * SIDE, 2)
        columns = torch.addcmul(shift[:, :1, None], u, scale[:, None, None]).int() & (SIDE - 1)
        rows = torch.addcmul(shift[:, 1:, None], v, scale[:, None, None]).int() & (SIDE - 1)
        places = rows.mul_(SIDE).add_(columns).add_(which)
        return self._banks[kind].view(-1).index_select(0, places.view(-1)).view(u.shape)


def _noise(chance: Chance, low: float, high: float, *, drawn_out: bool) -> Tensor:
    """(COUNT, SIDE, SIDE)."""
    alpha = chance.uniform(COUNT, low, high, 1, 1)
    stretch = chance.uniform(COUNT, 3, 10, 1, 1) if drawn_out else torch.ones(COUNT, 1, 1)
    fy, fx = torch.fft.fftfreq(SIDE)[:, None], torch.fft.rfftfreq(SIDE)
    frequency = ((fx * stretch) ** 2 + fy**2).sqrt()
    frequency[:, 0, 0] = 1
    spectrum = torch.fft.rfft2(chance.normal(COUNT, 1.0, SIDE, SIDE)) * frequency**-alpha
    spectrum[:, 0, 0] = 0
    field = torch.fft.irfft2(spectrum, s=(SIDE, SIDE))
    scaled: Tensor = field / field.std((1, 2), keepdim=True)
    return scaled


def _leaves(chance: Chance, number: int = 260) -> Tensor:
    """(SIDE, SIDE), 0 to 1."""
    field = torch.rand(1, generator=chance.generator).expand(SIDE, SIDE).clone()
    largest = float(chance.spread(1, 12, 90))
    radius = (
        (largest * chance.uniform(number, 0.02, 1.0) ** 2).clamp_min(2).sort(descending=True)[0]
    )
    places = chance.uniform(number, 0, SIDE, 2).long().tolist()
    shade, boxes = chance.uniform(number, 0, 1).tolist(), float(chance.uniform(1, 0, 1)) < 0.4
    for (row, column), r, value in zip(places, radius.long().tolist(), shade, strict=True):
        side = torch.arange(-r, r + 1)
        inside = torch.ones(2 * r + 1, 2 * r + 1, dtype=torch.bool)
        if not boxes:
            inside = side[:, None] ** 2 + side**2 <= r * r
        rows, columns = (side + row) % SIDE, (side + column) % SIDE
        part = field[rows[:, None], columns]
        field[rows[:, None], columns] = torch.where(inside, value, part)
    return field
