"""Objects: where their parts lie in the picture, and how they are painted."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scenes.backgrounds import blurred
from scenes.chance import Chance, mix, over
from scenes.fields import SMOOTH, Fields
from scenes.shapes import DETAIL, HOLE, PART, PARTS, ROUND, SOFT
from scenes.textures import NATURAL, TEXTURES, Surface, paint


@dataclass(frozen=True)
class Pose:
    """Where objects stand: centre x, y, size (half the height of an object), angle, all (B,)."""

    x: Tensor
    y: Tensor
    size: Tensor
    angle: Tensor
    mirror: Tensor


@dataclass(frozen=True)
class Outline:
    """Objects as they lie in the picture, each (B, H, W).

    Attributes:
        cover: 0 to 1, how much of a pixel is object.
        height: 0 at the rim to 1 in the middle of a part.
        part: number of the part that is seen.
        details: 0 to 1, how much of a pixel is a painted detail (eyes, windows, labels).
        u, v: place on the object.
    """

    cover: Tensor
    height: Tensor
    part: Tensor
    details: Tensor
    u: Tensor
    v: Tensor


def outline(
    chance: Chance, fields: Fields, parts: Tensor, pose: Pose, places: tuple[Tensor, Tensor], *,
    pixel: float,
) -> Outline:  # fmt: skip
    """Objects of `parts` (B, PARTS, 8) at `places` x, y (B, H, W); `pixel` is a pixel's size."""
    count = len(parts)
    dx, dy = places[0] - over(pose.x), places[1] - over(pose.y)
    cos, sin = over(pose.angle.cos()), over(pose.angle.sin())
    u = (dx * cos + dy * sin) / over(pose.size * pose.mirror)
    v = (dy * cos - dx * sin) / over(pose.size)
    warp = over(chance.uniform(count, 0, 0.3) ** 2)
    size = u.shape[-2:]
    bent = over(chance.normal(count, 0.12))
    ua = u + warp * fields.cut(chance, SMOOTH, count, *size) + bent * v**2
    va = v + warp * fields.cut(chance, SMOOTH, count, *size)
    return _united(parts, ua, va, over(pose.size) / pixel)


def _united(parts: Tensor, u: Tensor, v: Tensor, pixels: Tensor) -> Outline:
    """Parts one after the other; `pixels` is how many make one unit of u, v."""
    inside = torch.full_like(u, -9.0)
    height, details = torch.zeros_like(u), torch.zeros_like(u)
    part = torch.zeros_like(u, dtype=torch.long)
    for number in range(PARTS):
        rows = (parts[:, number, 6] > 0).nonzero()[:, 0]
        if not len(rows):
            continue
        row = parts[rows, number]
        radius = _radius(row, u[rows], v[rows])
        depth = (1 - radius) * over(torch.minimum(row[:, 2], row[:, 3]))
        role = over(row[:, 6])
        old = inside[rows]
        seen = (role == PART) & (depth > old.clamp_min(-0.02))
        part[rows] = torch.where(seen, number, part[rows])
        up = (1 - radius**2).clamp_min(0).sqrt()
        height[rows] = torch.where(seen, up, height[rows])
        united = torch.where(role == PART, torch.maximum(old, depth), old)
        inside[rows] = torch.where(role == HOLE, torch.minimum(united, -depth), united)
        spot = torch.sigmoid(depth * pixels[rows] * 2.5)
        details[rows] = torch.where(
            role == DETAIL, torch.maximum(details[rows], spot), details[rows]
        )
        part[rows] = torch.where((role == DETAIL) & (spot > 0.5), number, part[rows])
    cover = torch.sigmoid(inside * pixels * 2.5)
    return Outline(cover, height * (cover > 0.5), part, details * (cover > 0.5), u, v)


def _radius(row: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """(B, H, W): 1 on the rim of a part, less inside: of an ellipse, a rounded or a plain box."""
    a, b = u - over(row[:, 0]), v - over(row[:, 1])
    cos, sin = over(row[:, 4].cos()), over(row[:, 4].sin())
    a, b = a * cos + b * sin, b * cos - a * sin
    b = b / over(row[:, 3])
    a = a / (over(row[:, 2]) * (1 + over(row[:, 7]) * b).clamp_min(0.05))
    a2, b2 = a * a, b * b
    form = over(row[:, 5])
    rounded = torch.where(form == ROUND, (a2 + b2), (a2 * a2 + b2 * b2).sqrt())
    return torch.where(form <= SOFT, rounded, torch.maximum(a2, b2)).sqrt()


def painted(
    chance: Chance, fields: Fields, picture: Tensor, shape: Outline, pose: Pose, *,
    light: Tensor, pixel: float,
) -> Tensor:  # fmt: skip
    """The picture with the objects in it: shadow, colours, shading by `light` (B, 2)."""
    count = len(picture)
    colour = _coloured(chance, fields, picture, shape)
    scale = (pose.size / pixel).clamp(2, 60)  # pixels that make half an object
    slope = _slope(blurred(shape.height[:, None], scale * 0.05 + 0.5)[:, 0], scale)
    round_ = _slope(blurred(shape.cover[:, None], (scale * 0.3).clamp(1, 12))[:, 0], scale)
    towards = (slope * 0.35 + round_) * light[:, :, None, None]
    shade = -towards.sum(1).clamp(-1.4, 1.4)
    depth = over(chance.uniform(count, 0.0, 0.75))
    gloss = over(chance.sometimes(count, 0.4, 0.0, 0.6)) * shade.clamp_min(0) ** 4
    rim = over(chance.sometimes(count, 0.3, -0.4, 0.4)) * (1 - shape.height) ** 3
    colour = colour * (1 + depth * shade + rim)[:, None] + gloss[:, None]
    picture = _shadowed(chance, picture, shape.cover, light, scale)
    return mix(picture, colour.clamp(0, 1.2), shape.cover[:, None])


def _coloured(chance: Chance, fields: Fields, picture: Tensor, shape: Outline) -> Tensor:
    """The objects' own colours, (B, 3, H, W): a texture, parts of other colours, details."""
    count, size = len(picture), over(chance.spread(len(picture), 0.6, 1.6))
    surface = Surface(chance, fields, shape.u * size, shape.v * size)
    colour = paint(surface, chance.weighted(count, NATURAL))
    other = paint(surface, chance.pick(count, len(TEXTURES)))
    patched = (chance.uniform(count, 0, 1, PARTS) < 0.35) & chance.happens(count, 0.6)[:, None]
    colour = mix(colour, other, _of_part(patched.float(), shape.part)[:, None])
    tints = torch.stack([chance.colour(count) for _ in range(PARTS)], 1)
    tints = mix(tints[:, :1], tints, chance.uniform(count, 0, 1, 1, 1) ** 1.5)
    tint = torch.stack([_of_part(tints[:, :, c], shape.part) for c in range(3)], 1)
    colour = mix(colour, tint, over(chance.uniform(count, 0, 1) ** 1.5 * 0.9, 4))
    colour = _hidden(chance, picture, colour, shape.cover)
    contrast = torch.where(colour.mean(1, keepdim=True) > 0.45, 0.08, 0.92)
    strange = over(chance.colour(count))
    spot = mix(strange, contrast, over(chance.uniform(count, 0, 1), 4))
    return mix(colour, spot, (shape.details * over(chance.uniform(count, 0.3, 1)))[:, None])


def _hidden(chance: Chance, picture: Tensor, colour: Tensor, cover: Tensor) -> Tensor:
    """Some objects have about the colour of what is behind them: only shape and shading tell."""
    weight = cover / cover.sum((1, 2), keepdim=True).clamp_min(1e-3)
    behind = (picture * weight[:, None]).sum((2, 3), keepdim=True)
    own = (colour * weight[:, None]).sum((2, 3), keepdim=True)
    return colour + (behind - own) * over(chance.sometimes(len(picture), 0.25, 0.2, 0.95), 4)


def _of_part(values: Tensor, part: Tensor) -> Tensor:
    """(B, PARTS) spread over the picture by the number of the part, (B, H, W)."""
    return values.gather(1, part.flatten(1)).view(part.shape)


def _slope(height: Tensor, scale: Tensor) -> Tensor:
    """(B, 2, H, W): how a height changes along x and y over the size of the object."""
    padded = F.pad(height[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    along_x = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    along_y = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    return torch.stack([along_x, along_y], 1) * over(scale * 0.5, 4)


def _shadowed(
    chance: Chance, picture: Tensor, cover: Tensor, light: Tensor, scale: Tensor
) -> Tensor:
    """What an object keeps from the light: blurred, away from the light, seldom black."""
    rows = chance.happens(len(picture), 0.6).nonzero()[:, 0]
    if not len(rows):
        return picture
    far = chance.uniform(len(rows), 0, 0.35)
    soft = blurred(cover[rows][:, None], scale[rows] * chance.uniform(len(rows), 0.05, 0.25) + 0.5)
    height, width = cover.shape[-2:]
    theta = torch.zeros(len(rows), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    step = (light * scale[:, None])[rows] * far[:, None]
    theta[:, :, 2] = step * torch.tensor([2 / width, 2 / height])
    grid = F.affine_grid(theta, [len(rows), 1, height, width], align_corners=False)
    shadow = F.grid_sample(soft, grid, align_corners=False, padding_mode="border")
    picture = picture.clone()
    picture[rows] = picture[rows] * (1 - over(chance.uniform(len(rows), 0.1, 0.75), 4) * shadow)
    return picture
