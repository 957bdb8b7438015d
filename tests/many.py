"""Pictures observed at once, held to each observed by itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pictures
import torch

import attnviz
from attnviz.explanation.observe_batch import observe_many

SIZES = ((200, 120), (200, 120), (120, 200), (90, 90), (200, 120))


def load(folder: Path) -> list[attnviz.Picture]:
    """Pictures of three shapes."""
    found = []
    for i, (width, height) in enumerate(SIZES):
        path = folder / f"many{i}.png"
        pictures.noise(width, height, seed=i).save(path)
        found.append(attnviz.load_image(path))
    return found


def check(model: attnviz.Model, folder: Path, *, count: int = 5, **settings: Any) -> None:
    """Whether all that can be asked is the same to 1e-5."""
    shown = load(folder)[:count]
    for picture, seen in zip(shown, observe_many(shown, model, **settings), strict=True):
        same(seen, attnviz.observe(picture, model, **settings))


def same(seen: attnviz.Observation, alone: attnviz.Observation) -> None:
    """Whether two observations are equal, layer by layer."""
    assert (seen.picture, seen.placement) == (alone.picture, alone.placement)
    assert (seen.count, list(seen.layers)) == (alone.count, list(alone.layers))
    assert max(seen.errors.values()) < 1e-4
    for number, layer in seen.layers.items():
        other = alone.layers[number]
        assert layer.call.shape == other.call.shape
        for mine, theirs in ((layer.queries, other.queries), (layer.keys, other.keys)):
            assert (mine.rows, mine.columns) == (theirs.rows, theirs.columns)
            np.testing.assert_array_equal(mine.cells, theirs.cells)
        torch.testing.assert_close(layer.call.matrix(), other.call.matrix(), rtol=0, atol=1e-5)
        assert (layer.tokens is None) == (other.tokens is None)
        if layer.tokens is not None and other.tokens is not None:
            torch.testing.assert_close(layer.tokens, other.tokens, rtol=1e-4, atol=1e-4)
    for layers in ("0", "-1"):
        found, expected = (attnviz.explain(each, layers=layers) for each in (seen, alone))
        np.testing.assert_allclose(found.maps, expected.maps, atol=1e-5)
        for name, numbers in expected.numbers.items():
            np.testing.assert_allclose(found.numbers[name], numbers, rtol=1e-5, atol=1e-5)
