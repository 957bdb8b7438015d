"""What a camera does to a scene, and what people do to its pictures."""

import torch
from torch import Tensor

from scenes.backgrounds import blurred
from scenes.chance import Chance, mix, over


def photographed(chance: Chance, picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(B, 3, H, W), 0 to 1: exposure, white balance, contrast, vignette, focus, noise, grey."""
    count = len(picture)
    picture = picture * (1 + over(chance.normal(count, 0.08, 3))).clamp_min(0.5)
    picture = picture * over(chance.normal(count, 0.2), 4).exp()
    picture = picture.clamp(1e-3, 1) ** over(chance.normal(count, 0.22), 4).exp()
    vignette = over(chance.sometimes(count, 0.4, 0.0, 0.25)) * (x**2 + y**2)
    picture = picture * (1 - vignette).clamp_min(0.2)[:, None]
    mean = picture.mean((1, 2, 3), keepdim=True)
    contrast = 1 - chance.sometimes(count, 0.25, 0.0, 0.55)
    picture = mix(mean.expand_as(picture), picture, over(contrast, 4))
    picture = picture + over(chance.sometimes(count, 0.3, -0.15, 0.15), 4)
    grey = over(chance.sometimes(count, 0.12, 0.5, 1.5).clamp(0, 1), 4)
    picture = mix(picture, picture.mean(1, keepdim=True), grey)
    picture = blurred(picture, chance.uniform(count, 0, 0.9) + chance.sometimes(count, 0.1, 0, 1.2))
    noise = torch.randn(picture.shape, generator=chance.generator)
    return (picture + noise * over(chance.uniform(count, 0, 1) ** 3 * 0.04, 4)).clamp(0, 1)
