"""Reads the objects of a mask picture, and measures how well a map lies on them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import ImageError
from attnviz.geometry.placement import Placement
from attnviz.io.picture import Picture, load_mask_colours
from attnviz.statistics.maps import KEEP, smallest_count

GREY = 16
"""The largest difference between the channels of a grey pixel: JPEG does not keep them equal."""
VOID = 224 << 16 | 224 << 8 | 192
"""The colour of Pascal VOC's outlines around objects; it belongs to no object."""
MOST = 256
"""The most colours of a mask, as in a palette; a photograph or blurred edges have more."""
_HALF = 0.5 - 1e-9


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of a mask.

    Attributes:
        path: path of the mask.
        labels: (height, width), the number of each pixel's object, from 1; 0 is background.
        count: number of objects.
        colours: the colour of each object in the mask, 0xRRGGBB; white if all of it is grey.
    """

    path: str
    labels: NDArray[np.int64]
    count: int
    colours: tuple[int, ...] = (0xFFFFFF,)


def load_objects(path: str, *, width: int, height: int) -> Objects:
    """Read the objects of a mask picture.

    A mask with grey colours only has one object: the pixels that are at least half white, so that
    smooth edges are cut in their middle. In any other mask, black is background, and so is the void
    colour of Pascal VOC. Every other colour that fills a square of 3×3 pixels anywhere is an
    object. Thinner areas are what smoothing leaves between two colours; they are background.

    >>> load_objects("masks/cat.png", width=480, height=320).count
    1

    Raises:
        ImageError: the mask cannot be read, has another size than the picture, has no object, or
            has too many colours.
    """
    mask = load_mask_colours(path, width=width, height=height)
    if _is_grey(mask):
        return Objects(path, _one(mask), 1)
    labels, colours = _by_colour(mask)
    return Objects(path, labels, int(labels.max()), colours)


def _is_grey(mask: Picture) -> bool:
    low, high = mask.pixels.min(2).astype(int), mask.pixels.max(2).astype(int)
    return bool((high - low).max() <= GREY)


def _one(mask: Picture) -> NDArray[np.int64]:
    labels = (np.asarray(mask.image().convert("L")) >= 128).astype(np.int64)
    if not labels.any():
        raise ImageError(
            f"{mask.path}: no object, since no grey is lighter than half; paint the object white, "
            "or several objects in different colours"
        )
    return labels


def _by_colour(mask: Picture) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Objects numbered in the order of their colours, sorted by red, then green, then blue."""
    red, green, blue = np.moveaxis(mask.pixels.astype(np.int64), 2, 0)
    codes = red << 16 | green << 8 | blue
    colours = np.unique(codes)
    if len(colours) > MOST:
        raise ImageError(
            f"{mask.path}: {len(colours)} colours, but each colour is an object; save a mask of "
            "flat colours as PNG"
        )
    solid = np.intersect1d(colours, _solid(codes))
    solid = solid[(solid != 0) & (solid != VOID)]
    if not len(solid):
        raise ImageError(
            f"{mask.path}: no object, since no colour but black fills 3x3 pixels; paint each "
            "object in a colour of its own, the background black"
        )
    numbers = np.searchsorted(solid, codes).clip(max=len(solid) - 1)
    labels: NDArray[np.int64] = np.where(solid[numbers] == codes, numbers + 1, 0)
    return labels, tuple(solid.tolist())


def _solid(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The colours that fill 3×3 pixels somewhere."""
    if min(codes.shape) < 3:
        return codes[:0, 0]
    squares = np.lib.stride_tricks.sliding_window_view(codes, (3, 3))
    middle = codes[1:-1, 1:-1]
    filled = (squares.min((2, 3)) == middle) & (squares.max((2, 3)) == middle)
    return np.unique(middle[filled])


def on_tokens(
    objects: Objects, placement: Placement, drawn: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which drawn tokens belong to each object, (objects that were seen, drawn tokens).

    A token belongs to an object if the object covers at least half of the token's part on the
    picture. An object that covers no token by half gets the token that it covers most; among equal
    ones, the first in reading order. An object that the model did not see (cropped off, masked) is
    left out.

    Args:
        objects: the objects of the picture.
        placement: where the tokens lie on the picture.
        drawn: (rows, columns), the tokens that count.

    Raises:
        ImageError: the model saw no part of any object.
    """
    visible = placement.coverage(0, 0, placement.picture_width, placement.picture_height)[drawn]
    found = []
    for number in range(1, objects.count + 1):
        covered = placement.average(objects.labels == number)[drawn]
        if not covered.any():
            continue
        tokens = covered / visible >= _HALF
        if not tokens.any():
            tokens[covered.argmax()] = True
        found.append(tokens)
    if not found:
        raise ImageError(
            f"{objects.path}: the model saw nothing of its objects; take --fit keep, pad or squash"
        )
    return np.array(found)


Weights = NDArray[np.float64]
Truth = NDArray[np.bool_]


def pointing(weights: Weights, truth: Truth) -> float:
    """Pointing game: 1 if the heaviest token belongs to an object, else 0.

    If several tokens are the heaviest, the result is the share of them on objects, the chance of a
    hit. There is no tolerance of 15 pixels, since tokens are coarse (Zhang et al., 1608.00507,
    §4.1).

    Args:
        weights: (tokens,) of the map.
        truth: (tokens,) True for a token of any object.

    >>> pointing(np.array([0.1, 0.7, 0.2]), np.array([False, True, False]))
    1.0
    """
    return float(truth[weights == weights.max()].mean())


def heaviest(weights: Weights, count: int) -> Truth:
    """The `count` heaviest tokens, (tokens,); equal weights count in reading order."""
    result = np.zeros(len(weights), dtype=np.bool_)
    result[np.argsort(-weights, kind="stable")[:count]] = True
    return result


def mass_mask(weights: Weights) -> Truth:
    """The smallest set of heaviest tokens with 60 % of the mass, (tokens,).

    A weight below 0 has no mass (Caron et al., 2104.14294, appendix).

    >>> mass_mask(np.full(196, 1 / 196)).sum()
    np.int64(118)
    """
    mass = weights.clip(0)
    return heaviest(mass, smallest_count(mass, KEEP))


def jaccard(first: Truth, second: Truth) -> float:
    """|A ∩ B| / |A ∪ B| of two sets of tokens, (tokens,) each; at least one is not empty.

    >>> jaccard(np.array([True, True, False]), np.array([False, True, True]))
    0.3333333333333333
    """
    return float((first & second).sum() / (first | second).sum())


def jaccard60(weights: Weights, objects: Truth) -> Weights:
    """Jaccard index of the 60 % mask with each object, (objects,).

    This is DINO's protocol: only grid tokens count, so the weights are renormalised without the
    prefix; the best head for each object, the mean over objects, then over pictures (Caron et al.,
    2104.14294).

    Args:
        weights: (tokens,) of one map.
        objects: (objects, tokens), none of them empty.

    >>> jaccard60(np.array([0.7, 0.2, 0.1]), np.array([[True, False, False]]))
    array([1.])
    """
    mask = mass_mask(weights)
    return np.array([jaccard(mask, each) for each in objects])


def jaccard_area(weights: Weights, truth: Truth) -> float:
    """Jaccard index of all objects, k tokens, with the k heaviest tokens.

    >>> jaccard_area(np.array([0.5, 0.3, 0.2]), np.array([True, False, True]))
    0.3333333333333333
    """
    return jaccard(heaviest(weights, int(truth.sum())), truth)


def auc(weights: Weights, truth: Truth) -> float:
    """Area under the ROC curve of the weights as a detector of object tokens.

    The area is U / (n₁·n₀), for n₁ object tokens and n₀ others. U is the number of pairs of an
    object token and another token where the first has the larger weight; equal weights count one
    half (Mann & Whitney 1947). The result is NaN if all tokens, or none, belong to objects.

    >>> auc(np.array([0.5, 0.3, 0.2]), np.array([True, False, False]))
    1.0
    """
    inside = int(truth.sum())
    outside = len(truth) - inside
    if not inside or not outside:
        return float("nan")
    _, place, count = np.unique(weights, return_inverse=True, return_counts=True)
    ranks = count.cumsum() - (count - 1) / 2  # of each weight, the mean over equal ones, from 1
    return float((ranks[place][truth].sum() - inside * (inside + 1) / 2) / (inside * outside))
