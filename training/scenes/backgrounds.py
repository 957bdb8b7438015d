"""Backgrounds: ground, sky, walls, streets, night, and what lies about without being an object."""

import torch
from torch import Tensor
from torch.nn import functional as F

from scenes.chance import Chance, mix, over
from scenes.fields import SMOOTH, Fields
from scenes.textures import NATURAL, ORDERLY, Surface, paint


def background(chance: Chance, fields: Fields, x: Tensor, y: Tensor, count: int) -> Tensor:
    """(count, 3, H, W); `x` (1, W) and `y` (H, 1) are places, −1…1 along the shorter side or so."""
    height, width = y.shape[0], x.shape[1]
    first, second = (_plane(chance, fields, x, y, count) for _ in range(2))
    picture = mix(first, second, _horizon(chance, fields, x, y, count)[:, None])
    picture = _lit(chance, picture)
    picture = _night(chance, picture, x, y)
    picture = _bokeh(chance, fields, picture, x, y)
    picture = _built(chance, fields, picture, x, y)
    picture = _lines(chance, picture, x, y)
    blur = chance.sometimes(count, 0.5, 0.0, 1.0) ** 2 * min(height, width) * 0.05
    return blurred(picture, blur)


def blurred(pictures: Tensor, deviation: Tensor) -> Tensor:
    """Gaussian blur of (B, C, H, W), each by its own deviation (B,) in pixels."""
    height, width = pictures.shape[-2:]
    pad = min(16, height - 1, width - 1)
    padded = F.pad(pictures, (pad, pad, pad, pad), mode="reflect")
    fy = torch.fft.fftfreq(height + 2 * pad)[:, None]
    fx = torch.fft.rfftfreq(width + 2 * pad)
    transfer = torch.exp(-2 * torch.pi**2 * (fx**2 + fy**2) * over(deviation**2))
    spectrum = torch.fft.rfft2(padded) * transfer[:, None]
    result: Tensor = torch.fft.irfft2(spectrum, s=padded.shape[-2:])
    return result[..., pad:-pad, pad:-pad]


def _plane(chance: Chance, fields: Fields, x: Tensor, y: Tensor, count: int) -> Tensor:
    """A textured plane, upright or lying as a floor does, at any angle and size."""
    turn, size = over(chance.uniform(count, -3.2, 3.2)), over(chance.spread(count, 0.5, 2.5))
    lying = over(chance.happens(count, 0.35).float() * chance.uniform(count, 0.2, 0.9))
    depth = 1 / (1.15 + lying * y)
    u, v = x * depth * size, y * depth * size
    turned = Surface(
        chance, fields, u * turn.cos() + v * turn.sin(), v * turn.cos() - u * turn.sin()
    )
    return paint(turned, chance.weighted(count, NATURAL))


def _horizon(chance: Chance, fields: Fields, x: Tensor, y: Tensor, count: int) -> Tensor:
    """(count, H, W), 0 to 1: where the second plane lies: below a horizon, beside a wall."""
    tilt, place = over(chance.normal(count, 0.12)), over(chance.uniform(count, -0.7, 0.9))
    upright = over(chance.happens(count, 0.3))
    along = torch.where(upright, x + tilt * y, y + tilt * x) - place
    height, width = along.shape[-2:]
    rough = over(chance.uniform(count, 0, 0.12)) * fields.cut(chance, SMOOTH, count, height, width)
    sharp = over(chance.spread(count, 3, 60))
    return torch.sigmoid((along + rough) * sharp) * over(chance.happens(count, 0.65).float())


def _lit(chance: Chance, picture: Tensor) -> Tensor:
    """Light that is not even, of any colour, and shadows from outside the frame."""
    count, _, height, width = picture.shape
    light = F.interpolate(
        chance.normal(count, 1.0, 3, 3, 3), size=(height, width), mode="bicubic", align_corners=True
    )
    strength = over(chance.uniform(count, 0, 0.3), 4)
    tint = over(chance.uniform(count, 0, 0.08), 4)
    return picture * (1 + strength * light.mean(1, keepdim=True)) + tint * light


def _night(chance: Chance, picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Darkness with point lights and their glow, in some pictures; lights alone in some others."""
    count = len(picture)
    dark = chance.happens(count, 0.14)
    picture = torch.where(
        over(dark, 4), picture * over(chance.uniform(count, 0.05, 0.5), 4), picture
    )
    has = torch.maximum(dark.float() * 0.85, torch.full((count,), 0.07))
    for _ in range(6):
        rows = (chance.uniform(count, 0, 1) < has).nonzero()[:, 0]
        if not len(rows):
            continue
        n = len(rows)
        cx, cy = over(chance.uniform(n, -1.4, 1.4)), over(chance.uniform(n, -1.2, 1.2))
        square = (x - cx) ** 2 + (y - cy) ** 2
        core, glow = over(chance.spread(n, 0.01, 0.06)), over(chance.spread(n, 0.05, 0.5))
        shape = torch.exp(-((square / core**2) ** 2)) + over(chance.uniform(n, 0, 0.7)) * torch.exp(
            -square / glow**2
        )
        warm = 0.55 + 0.45 * chance.uniform(n, 0, 1, 3)
        picture[rows] = picture[rows] + over(warm) * shape[:, None]
    return picture


def _bokeh(chance: Chance, fields: Fields, picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Soft blobs without shape or shading, flat and of one colour."""
    for _ in range(3):
        rows = chance.happens(len(picture), 0.35).nonzero()[:, 0]
        n, (height, width) = len(rows), picture.shape[-2:]
        cx, cy = over(chance.uniform(n, -1.3, 1.3)), over(chance.uniform(n, -1.1, 1.1))
        size, long = over(chance.uniform(n, 0.06, 0.7)), over(chance.spread(n, 0.5, 2))
        wobble = 0.08 * fields.cut(chance, SMOOTH, n, height, width)
        away = ((x - cx) ** 2 * long + (y - cy) ** 2 / long).sqrt() + wobble
        cover = torch.sigmoid((size - away) * over(chance.spread(n, 2.5, 14)))
        picture[rows] = mix(
            picture[rows],
            over(chance.colour(n)),
            (cover * over(chance.uniform(n, 0.1, 0.7)))[:, None],
        )
    return picture


def _built(chance: Chance, fields: Fields, picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Flat patterned rectangles: flags, posters, windows, doors, beams, frames, piers."""
    town = chance.uniform(len(picture), 0, 1) ** 2
    for _ in range(5):
        rows = (chance.uniform(len(picture), 0, 1) < town).nonzero()[:, 0]
        n = len(rows)
        if not n:
            continue
        turn = over(chance.normal(n, 0.15))
        u = (x - over(chance.uniform(n, -1.4, 1.4))) * turn.cos() + y * turn.sin()
        v = (y - over(chance.uniform(n, -1.2, 1.2))) * turn.cos() - x * turn.sin()
        half = chance.spread(n, 0.04, 0.8, 2)
        edge = torch.minimum(over(half[:, 0]) - u.abs(), over(half[:, 1]) - v.abs())
        cover = torch.sigmoid(edge * 60) * over(chance.uniform(n, 0.4, 1))
        size = over(chance.spread(n, 1, 6))
        pattern = paint(Surface(chance, fields, u * size, v * size), chance.weighted(n, ORDERLY))
        picture[rows] = mix(picture[rows], pattern, cover[:, None])
    return picture


def _lines(chance: Chance, picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Wires, branches, edges of tables."""
    for _ in range(3):
        rows = chance.happens(len(picture), 0.3).nonzero()[:, 0]
        n = len(rows)
        turn = over(chance.uniform(n, 0, 3.2))
        across = x * turn.cos() + y * turn.sin() - over(chance.normal(n, 0.6))
        bend = over(chance.normal(n, 0.15)) * (y * turn.cos() - x * turn.sin()) ** 2
        thick = over(chance.spread(n, 0.008, 0.15))
        cover = torch.sigmoid((thick - (across + bend).abs()) * 60) * over(
            chance.uniform(n, 0.3, 1)
        )
        picture[rows] = mix(picture[rows], over(chance.colour(n)), cover[:, None])
    return picture
