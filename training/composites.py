"""Draws composites: cut-outs before grounds, with exact masks, and crops of whole photographs.

    python training/composites.py material.npz --out sheet.png          # a sheet to look at

The material is what `training/cutouts.py` collected.
"""

import argparse
import io
import math
from pathlib import Path

import numpy as np
import torch
from material import Bytes, Material, read
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scenes import Batch
from torch import Tensor

Floats = NDArray[np.float32]

EMPTY, PLAIN, BEHIND = 0.03, 0.06, 0.2
"""Shares of composites without an object; before one colour; with blurred things behind."""
SLOTS = 3


class Composites:
    """Composites from a seed; a generator that is made alike draws alike."""

    def __init__(self, material: Material, seed: int) -> None:
        self._material, self._seed = material, seed

    def draw(self, count: int, *, height: int, width: int, number: int = 0) -> Batch:
        """Batch `number` of this seed, as `Scenes.draw`; details are where brightness jumps."""
        rng = np.random.default_rng((self._seed, 1, number))
        drawn = [_Composite(self._material, rng, height, width).finish() for _ in range(count)]
        pictures, objects, kinds = (np.stack(part) for part in zip(*drawn, strict=True))
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
        numbers = torch.from_numpy(objects)
        return Batch(pixels, numbers, _details(pixels, numbers), torch.from_numpy(kinds))

    def photographs(self, count: int, *, height: int, width: int, number: int = 0) -> Tensor:
        """Crops of whole photographs, (count, 3, height, width) uint8; nobody knows their masks."""
        rng = np.random.default_rng((self._seed, 2, number))
        both = (self._material.photographs, self._material.grounds)
        crops = []
        for _ in range(count):
            among = both[int(rng.random() < 0.12 or not both[0])]
            crop = _crop(rng, among[rng.integers(len(among))], height, width, (0.5, 1.0))
            crops.append(_developed(rng, _coloured(rng, crop, 0.5)))
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


def _details(pixels: Tensor, objects: Tensor) -> Tensor:
    """How much the brightness inside of an object differs from its neighbourhood, 0 to 1."""
    light = pixels.float().mean(1, keepdim=True)
    inside = (objects > 0).float()[:, None]
    size = 2 * (pixels.shape[2] // 16) + 1
    around = torch.nn.functional.avg_pool2d(torch.cat([light * inside, inside]), size, 1, size // 2)
    mean, share = around.chunk(2)
    contrast = ((light - mean / share.clamp_min(1e-3)).abs() * inside * (share > 0.7))[:, 0]
    strongest = contrast.flatten(1).amax(1)[:, None, None].clamp_min(24)
    return ((contrast / strongest - 0.35) / 0.4).clamp(0, 1)


class _Composite:
    """One composite while it is drawn."""

    def __init__(self, material: Material, rng: np.random.Generator, h: int, w: int) -> None:
        self.material, self.rng, self.h, self.w = material, rng, h, w
        self.objects = np.zeros((h, w), np.uint8)
        self.kinds = np.full(SLOTS, -1)
        self.picture = self._ground()

    def finish(self) -> tuple[Bytes, Bytes, NDArray[np.int64]]:
        """Things behind, objects, light, camera."""
        rng = self.rng
        if rng.random() < BEHIND:
            for _ in range(rng.integers(1, 4)):
                self._behind()
        what = rng.random()
        if what > EMPTY:
            count = 1 if what < 0.58 else 2 if what < 0.8 else 3 if what < 0.9 else 0
            if count:
                for number in range(count):
                    self._object(number, count)
            else:
                self._many()
        picture = self.picture
        if rng.random() < 0.35:
            picture = picture * _gradient(rng, self.h, self.w)[..., None]
        if rng.random() < 0.25:
            picture = _coloured(rng, picture, 0.5)
        return _developed(rng, picture), self.objects, self.kinds

    def _ground(self) -> Floats:
        rng = self.rng
        if rng.random() < PLAIN:
            colours = rng.uniform(0, 255, (2, 3))
            colours[1] += 0.7 * (colours[0] - colours[1])
            share = _gradient(rng, self.h, self.w, 0, 1)[..., None]
            plain: Floats = (colours[0] * share + colours[1] * (1 - share)).astype(np.float32)
            return plain
        ground = self._one_ground()
        if rng.random() < 0.2:  # another ground below a horizon
            edge = self.h * rng.uniform(0.3, 0.75) + rng.normal(0, 0.15) * np.arange(self.w)
            below = (np.arange(self.h)[:, None] - edge) / rng.uniform(0.5, 4) + 0.5
            share = below.clip(0, 1).astype(np.float32)[..., None]
            ground = ground * (1 - share) + self._one_ground() * share
        return ground

    def _one_ground(self) -> Floats:
        rng, material = self.rng, self.material
        thing = rng.random() < 0.35 and len(material.photographs) > 0
        among = material.photographs if thing else material.grounds
        zoom = (0.15, 0.4) if thing else (0.2, 1.0)  # parts of things are textures
        crop = _crop(rng, among[rng.integers(len(among))], self.h, self.w, zoom)
        if rng.random() < 0.4:
            crop = _blurred(crop, math.exp(rng.uniform(-0.7, 1.4)))
        return _coloured(rng, crop)

    def _pick(self) -> int:
        return int(self.rng.choice(len(self.material.chances), p=self.material.chances))

    def _behind(self) -> None:
        """A blurred thing that is no object."""
        rng = self.rng
        side = math.sqrt(self.h * self.w)
        thing = self._transformed(self._pick(), side * math.exp(rng.uniform(-1.6, 0)))
        thing = _blurred(
            np.pad(thing, ((12, 12), (12, 12), (0, 0))), side * rng.uniform(0.03, 0.07)
        )
        self._paste(thing, self._place(0.0), 0, rng.uniform(0.6, 1.0))

    def _object(self, number: int, count: int) -> None:
        rng = self.rng
        which = self._pick()
        low, high = (0.26, 1.2) if count == 1 else (0.2, 0.75)
        size = math.sqrt(self.h * self.w) * math.exp(rng.uniform(math.log(low), math.log(high)))
        thing = self._transformed(which, size)
        self._paste(thing, self._place(0.35 if count == 1 else 0.1), number + 1)
        self.kinds[number] = self.material.kinds[which]

    def _many(self) -> None:
        """Four to eight objects alike."""
        rng, which = self.rng, self._pick()
        size = math.sqrt(self.h * self.w) * rng.uniform(0.18, 0.4)
        for number in range(rng.integers(4, 9)):
            thing = self._transformed(which, size * rng.uniform(0.8, 1.2))
            self._paste(thing, self._place(0.0), SLOTS + number)
        self.kinds[SLOTS - 1] = self.material.kinds[which]

    def _place(self, centred: float) -> tuple[float, float]:
        rng = self.rng
        if rng.random() < centred:
            y, x = rng.normal(0.5, 0.1, 2)
        else:
            y, x = rng.uniform(0.06, 0.94, 2)
        return float(y * self.h), float(x * self.w)

    def _transformed(self, which: int, size: float) -> Floats:
        """A cut-out whose root of height by width is about `size`, as float RGBA."""
        rng = self.rng
        pixels = self.material.cutouts[which]
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        height, width = pixels.shape[:2]
        scale, stretch = size / math.sqrt(height * width), math.exp(rng.normal(0, 0.08))
        shape = (max(5, round(width * scale * stretch)), max(5, round(height * scale / stretch)))
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        picture = picture.resize(shape, Image.Resampling.BILINEAR, reducing_gap=1.5)
        if rng.random() < 0.5:
            angle = rng.uniform(-180, 180) if rng.random() < 0.15 else rng.normal(0, 12)
            picture = picture.rotate(angle, Image.Resampling.BILINEAR, expand=True)
        if rng.random() < 0.5:
            blurred = picture.getchannel("A").filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1)))
            picture.putalpha(blurred)
        if rng.random() < 0.15:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
        result = np.asarray(picture).astype(np.float32)
        result[..., :3] = _coloured(rng, result[..., :3])
        return result

    def _paste(
        self, thing: Floats, centre: tuple[float, float], number: int, strength: float = 1.0
    ) -> None:
        """Put a thing into the picture, with a shadow or without; number 0 is no object."""
        rng = self.rng
        top, left = (round(c - n / 2) for c, n in zip(centre, thing.shape[:2], strict=True))
        rows = slice(max(0, top), min(self.h, top + thing.shape[0]))
        columns = slice(max(0, left), min(self.w, left + thing.shape[1]))
        if rows.stop <= rows.start or columns.stop <= columns.start:
            return
        seen = thing[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        alpha = seen[..., 3:] * np.float32(strength / 255)
        colour = seen[..., :3]
        if number and rng.random() < 0.08:  # about the colour of what is behind
            behind = self.picture[rows, columns].mean((0, 1))
            mean = (colour * alpha).sum((0, 1)) / max(1.0, float(alpha.sum()))
            colour = (colour + rng.uniform(0.5, 1) * (behind - mean)).clip(0, 255)
        if number and rng.random() < 0.4:
            self._shadow(thing[..., 3], top, left)
        self.picture[rows, columns] += alpha * (colour - self.picture[rows, columns])
        if number:
            mine = alpha[..., 0] > 0.5
            self.objects[rows, columns][mine] = number

    def _shadow(self, alpha: Floats, top: int, left: int) -> None:
        rng, h, w = self.rng, self.h, self.w
        size = max(alpha.shape)
        top += round(size * rng.normal(0.02, 0.04))
        left += round(size * rng.normal(0, 0.06))
        dark = Image.new("L", (w, h))
        dark.paste(Image.fromarray(alpha.astype(np.uint8)), (left, top))
        dark = dark.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.01, 0.06)))
        strength = rng.uniform(0.2, 0.6) / 255
        self.picture *= 1 - np.asarray(dark, dtype=np.float32)[..., None] * np.float32(strength)


def _crop(
    rng: np.random.Generator, pixels: Bytes, h: int, w: int, zoom: tuple[float, float]
) -> Floats:
    """A random part of a picture, its size a share of the largest possible, mirrored or not."""
    height, width = pixels.shape[:2]
    share = math.exp(rng.uniform(math.log(zoom[0]), math.log(zoom[1])))
    scale = min(height / h, width / w) * share
    rows, columns = min(height, max(8, round(h * scale))), min(width, max(8, round(w * scale)))
    y, x = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    part = pixels[y : y + rows, x : x + columns]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    picture = Image.fromarray(np.ascontiguousarray(part))
    return np.asarray(picture.resize((w, h), Image.Resampling.BILINEAR, reducing_gap=1.5)).astype(
        np.float32
    )


def _coloured(rng: np.random.Generator, pixels: Floats, much: float = 1.0) -> Floats:
    """Other exposure, saturation, contrast and white balance."""
    grey = pixels.mean(-1, keepdims=True)
    saturation = math.exp(rng.normal(-0.05, 0.25) * much)
    gain = np.exp(rng.normal(0, 0.17) * much + rng.normal(0, 0.04, 3) * much)
    shift = rng.normal(0, 14) * much
    changed = (grey + (pixels - grey) * saturation) * gain + shift
    result: Floats = changed.clip(0, 255).astype(np.float32)
    return result


def _gradient(
    rng: np.random.Generator, h: int, w: int, low: float = 0.45, high: float = 1.25
) -> Floats:
    """Light that falls from one side, or on one place."""
    y, x = np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)[None]
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * math.pi)
        place = y * math.sin(angle) + x * math.cos(angle)
        share = 0.5 + 0.5 * place / math.sqrt(2)
    else:
        far = (y - rng.uniform(-1, 1)) ** 2 + (x - rng.uniform(-1, 1)) ** 2
        share = np.exp(-far / rng.uniform(0.5, 3))
    top, bottom = rng.uniform(1, high) if high > 1 else 1, rng.uniform(low, 1) if low else 0
    return (bottom + (top - bottom) * share).astype(np.float32)


def _blurred(pixels: Floats, radius: float) -> Floats:
    bytes_ = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return np.asarray(bytes_.filter(ImageFilter.BoxBlur(radius))).astype(np.float32)


def _developed(rng: np.random.Generator, pixels: Floats) -> Bytes:
    """What a camera does: grey, blur, noise, JPEG."""
    if rng.random() < 0.1:
        pixels = np.repeat(pixels.mean(-1, keepdims=True), 3, -1)
    if rng.random() < 0.3:
        noise = rng.standard_normal(pixels.shape, dtype=np.float32)
        pixels = pixels + np.float32(rng.uniform(1, 9)) * noise
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.1)))
    if rng.random() < 0.35:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(rng.integers(25, 90)))
        picture = Image.open(file)
    return np.array(picture)


def main() -> None:
    """Draw a sheet: composites, their masks, photographs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("material", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    composites = Composites(read(options.material), options.seed)
    drawn = composites.draw(48, height=112, width=112)
    rows = list(drawn.pictures.permute(0, 2, 3, 1).numpy())
    masks = (drawn.objects > 0).float() * 160 + drawn.details * 95
    rows += list(masks.to(torch.uint8)[..., None].expand(-1, -1, -1, 3).numpy())
    rows += list(composites.photographs(24, height=112, width=112).permute(0, 2, 3, 1).numpy())
    lines = [np.concatenate(rows[start : start + 12], 1) for start in range(0, len(rows), 12)]
    order = [0, 4, 1, 5, 2, 6, 3, 7, 8, 9]  # each row of masks below its pictures
    Image.fromarray(np.concatenate([lines[i] for i in order], 0)).save(options.out)


if __name__ == "__main__":
    main()
