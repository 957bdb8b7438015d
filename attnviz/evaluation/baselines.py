"""Baselines that know nothing of the model: a centred Gaussian, and plain saliency."""

import numpy as np
from numpy.typing import NDArray

from attnviz.geometry.placement import Placement
from attnviz.io.picture import Picture

SIGMA = 1 / 4
"""Standard deviation of the Gaussian, as a share of each side."""
BORDER = 1 / 20
"""Width of the border, as a share of the shorter side."""
Map = NDArray[np.float64]


def gaussian(placement: Placement) -> Map:
    """A Gaussian around the middle of the part of the picture that the model saw, (rows, columns).

    exp(−½·((u − ½)² + (v − ½)²) / σ²), σ = ¼; u and v are the position of a token's centre in that
    part, 0 to 1 from side to side. People place what matters to them in the middle of a photograph
    (Tatler 2007; Judd et al. 2012, MIT-CSAIL-TR-2012-001).
    """
    source, (x, y) = placement.source, placement.middles()
    u = (x - source.left) / source.width - 0.5
    v = (y - source.top) / source.height - 0.5
    return np.asarray(np.exp(-0.5 * (v[:, None] ** 2 + u**2) / SIGMA**2))


def saliency(picture: Picture, placement: Placement, drawn: NDArray[np.bool_]) -> Map:
    """How much each token differs from the border, plus its contrast, (rows, columns).

    N(D) + N(C) with D_t = ‖m_t − b‖₂ and C_t = √(Σ_c Var_t(c)). m_t is the mean colour of token t
    and Var_t(c) the variance of channel c in it, over its pixels in sRGB (0…1) that lie on the
    picture. b is the mean colour of the border: in the part that the model saw, the pixels nearer
    to an edge than 1/20 of its shorter side (at least one pixel). N(z) = (z − min z) / (max z − min
    z) over the drawn tokens, 0 if all are equal. Tokens that are not drawn are 0. The distance from
    the border is the cue of boundary priors (Wei et al. 2012, Geodesic Saliency); the contrast is
    the cue of Achanta et al. 2009.
    """
    colours = picture.pixels.astype(np.float64) / 255
    seen = placement.coverage(0, 0, picture.width, picture.height).clip(1e-12)
    mean, square = (
        np.stack([placement.average(part[..., c]) / seen for c in range(3)], axis=2)
        for part in (colours, colours**2)
    )  # (rows, columns, 3)
    distance = np.linalg.norm(mean - _border(colours, placement), axis=2)
    contrast = np.sqrt((square - mean**2).clip(0).sum(2))
    return np.where(drawn, _normal(distance, drawn) + _normal(contrast, drawn), 0.0)


def _border(colours: NDArray[np.float64], placement: Placement) -> NDArray[np.float64]:
    """Mean colour of the border, (3,)."""
    left, top, right, bottom = (round(side) for side in placement.source)
    part = colours[top:bottom, left:right]
    width = max(1, round(BORDER * min(part.shape[:2])))
    edge = np.ones(part.shape[:2], dtype=np.bool_)
    edge[width:-width, width:-width] = False
    return np.asarray(part[edge].mean(0))


def _normal(values: Map, drawn: NDArray[np.bool_]) -> Map:
    """Values scaled to 0…1 over the drawn tokens."""
    low, high = values[drawn].min(), values[drawn].max()
    # A difference in the last digit is rounding: then all values count as equal.
    return (values - low) / (high - low) if high - low > 1e-9 else np.zeros_like(values)
