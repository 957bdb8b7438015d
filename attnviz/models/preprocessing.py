"""What is usual in the preprocessing of pretrained models."""

from typing import Any

Triple = tuple[float, float, float]
IMAGENET: tuple[Triple, Triple] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STATISTICS: dict[str, tuple[Triple, Triple]] = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": IMAGENET,
    "clip": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
}
"""Mean and standard deviation of pixel values 0…1, per channel."""
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
"""Pillow's numbers."""


def triple(values: Any, default: float) -> Triple:
    """Three numbers from what a config says: a list of them, one for all, or nothing.

    >>> triple(None, 0.5)
    (0.5, 0.5, 0.5)
    """
    if values is None:
        return default, default, default
    if isinstance(values, int | float):
        return float(values), float(values), float(values)
    red, green, blue = (float(value) for value in values)
    return red, green, blue
