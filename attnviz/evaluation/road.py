"""Noisy linear imputation: fills removed pixels with weighted means of their neighbours."""

import torch
from torch import Tensor
from torch.nn import functional as F

NOISE = 0.01
"""Standard deviation of the noise on imputed pixels, for values 0…1."""
TOLERANCE = 1e-5
"""Largest residual of an imputed pixel, as a share of the range of the known ones."""
_COARSEST = 8
_KERNEL = torch.tensor([[1 / 12, 1 / 6, 1 / 12], [1 / 6, 0, 1 / 6], [1 / 12, 1 / 6, 1 / 12]])


def impute(pixels: Tensor, known_pixels: Tensor) -> Tensor:
    """Replace each unknown pixel by the weighted mean of its eight neighbours.

    Neighbours beside a pixel weigh 1/6, diagonal ones 1/12; at the edge, the existing neighbours
    share the weight. This gives one linear equation per unknown pixel. Conjugate gradients solve
    them together, to within 1e-5 of the range per equation (Rong et al., 2202.00449, §4.1, use a
    sparse direct solver). `noisy` adds the noise.

    Args:
        pixels: (channels, height, width); unknown pixels may have any value.
        known_pixels: (height, width) boolean, True somewhere.

    >>> line = torch.tensor([[[0.0, 9.0, 1.0]]])
    >>> impute(line, torch.tensor([[True, False, True]]))
    tensor([[[0.0000, 0.5000, 1.0000]]])
    """
    if bool(known_pixels.all()):
        return pixels.clone()
    start = torch.where(known_pixels, pixels, _guess(pixels, known_pixels))
    return _solve(start, known_pixels)


def noisy(pixels: Tensor, known_pixels: Tensor, noise: Tensor) -> Tensor:
    """The result of `impute`, with `noise` of the pixels' shape added to the imputed pixels."""
    return torch.where(known_pixels, pixels, impute(pixels, known_pixels) + noise)


def _guess(pixels: Tensor, known_pixels: Tensor) -> Tensor:
    """A start for the solver: the solution at half the size, enlarged.

    Conjugate gradients correct rough errors in a few steps, but for smooth errors they need as many
    steps as a hole is wide. This start has only rough errors.
    """
    size = pixels.shape[1:]
    filled = torch.where(known_pixels, pixels, 0.0)
    if max(size) <= _COARSEST:
        mean = filled.sum((1, 2)) / known_pixels.sum()
        return mean[:, None, None].expand_as(pixels)
    share = _halved(known_pixels[None].to(pixels.dtype))
    small = _halved(filled) / share.clamp(min=1e-9)
    solved = impute(small, share[0] > 0)
    return F.interpolate(solved[None], size=size, mode="bilinear", align_corners=False)[0]


def _halved(values: Tensor) -> Tensor:
    """Means of 2×2 pixels; pixels beyond the edge count as 0."""
    pooled = F.avg_pool2d(
        values[None], 2, ceil_mode=True, count_include_pad=False, divisor_override=4
    )
    return pooled[0]


def _solve(start: Tensor, known_pixels: Tensor) -> Tensor:
    """Solve (Σ w)·x_i − Σ w_ij·x_j = 0 for the unknown pixels i with conjugate gradients.

    The matrix is symmetric, and positive definite since at least one pixel is known. All channels
    step together, each with its own step length.
    """
    free = (~known_pixels).to(start.dtype)  # (h, w)
    weight = _neighbours(torch.ones_like(start[:1]))  # (1, h, w), sum over existing neighbours
    inside = start[:, known_pixels]
    span = (inside.amax(1) - inside.amin(1)).clamp(min=1e-12)[:, None, None]
    x = start
    r = free * (_neighbours(x) - weight * x)
    p = z = r / weight  # Jacobi's preconditioner
    product = _dot(r, z)
    for _ in range(4 * sum(known_pixels.shape) + 100):
        if bool((r.abs() <= TOLERANCE * span).all()):
            break
        q = free * (weight * p - _neighbours(p))
        step = product / _dot(p, q).clamp(min=1e-30)
        x, r = x + step * p, r - step * q
        z = r / weight
        before, product = product, _dot(r, z)
        p = z + product / before.clamp(min=1e-30) * p
    return x


def _neighbours(x: Tensor) -> Tensor:
    """Σ_j w_ij x_j over the existing neighbours, (channels, h, w)."""
    kernel = _KERNEL.to(x)[None, None]
    return F.conv2d(x[:, None], kernel, padding=1)[:, 0]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2), keepdim=True)
