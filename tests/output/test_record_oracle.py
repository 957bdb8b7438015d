"""Every field of the record against float64 brute force, through the whole program."""

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pictures
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import attnviz
from attnviz.models.random import EmbeddedAttention
from attnviz.output.make_record import make_record

SHAPES = [(96, 96), (150, 70), (40, 130)]
FITS = ["keep", "crop", "pad", "squash"]
KINDS: list[dict[str, Any]] = [
    {"heads": 3, "features": 24, "patch": 16, "size": 96},
    {"heads": 8, "tokens": "pixels", "size": 9},
]


def weights_in_float64(seen: attnviz.Observation) -> NDArray[np.float64]:
    """A (H, N, N) by brute force from the model's own parameters and input."""
    module = copy.deepcopy(seen.model.module).double()
    assert isinstance(module, EmbeddedAttention)
    pixels = seen.model.pixels(seen.picture, seen.placement).double()
    layer = module.attention
    x = module.tokens(pixels)[0]
    q, k = (
        linear(x).reshape(len(x), layer.n_heads, -1).transpose(0, 1).numpy()
        for linear in (layer.q_linear, layer.k_linear)
    )
    bias = np.where(seen.taking_part, 0.0, -np.inf)[None, None]
    return oracle.attention(q, k, 1 / math.sqrt(q.shape[-1]), bias)


def a_mask(width: int, height: int) -> NDArray[np.bool_]:
    image = Image.new("L", (width, height), 0)
    ImageDraw.Draw(image).ellipse((width * 0.1, height * 0.1, width * 0.8, height * 0.95), fill=255)
    return np.asarray(image) > 127


@pytest.mark.parametrize(
    ("shape", "fit", "kind", "masked"),
    list(itertools.product(SHAPES, FITS, KINDS, [False, True])),
)
def test_each_field_equals_the_oracle(
    shape: tuple[int, int], fit: Any, kind: dict[str, Any], masked: bool, tmp_path: Path
) -> None:
    width, height = shape
    pictures.noise(width, height).save(tmp_path / "noise.png")
    picture = attnviz.load_image(tmp_path / "noise.png")
    model = attnviz.load_model("random", seed=3, **kind)
    mask = a_mask(width, height) if masked else None
    seen = attnviz.observe(picture, model, fit=fit, mask=mask)
    a = weights_in_float64(seen)
    grid = seen.placement.grid
    expected = oracle.statistics(a, grid.centres(), 0, seen.taking_part)
    for query, row_weights in queries(seen):
        record = make_record(attnviz.explain(seen, query=query)).data()
        for number, head in enumerate(record["heads"]):
            for name, values in expected.items():
                assert head[name] == pytest.approx(values[number], abs=1e-5, rel=1e-5), name
            drawn = np.einsum("i,ij->j", row_weights, a[number])[seen.drawn.ravel()]
            for name, value in oracle.map_numbers(drawn).items():
                assert head["map"][name] == pytest.approx(value, abs=1e-5), name
            assert peak(head) == pytest.approx(heaviest(seen, drawn), abs=1e-3)


def queries(seen: attnviz.Observation) -> list[tuple[str, NDArray[np.float64]]]:
    """Queries in words, with the weights over rows that they mean."""
    part = seen.taking_part.astype(np.float64)
    x, y = seen.picture.width // 2, seen.picture.height // 2
    token = seen.placement.token_at(x + 0.5, y + 0.5)
    assert token is not None
    one = np.zeros(len(part))
    one[token[0] * seen.placement.grid.columns + token[1]] = 1
    return [("auto", part / part.sum()), ("mean", part / part.sum()), (f"{x},{y}", one)]


def peak(head: dict[str, Any]) -> tuple[float, float]:
    return head["map"]["peak_x"], head["map"]["peak_y"]


def heaviest(seen: attnviz.Observation, drawn: NDArray[np.float64]) -> tuple[float, float]:
    row, column = np.argwhere(seen.drawn)[int(drawn.argmax())]
    box = seen.placement.token_box(int(row), int(column))
    x = (max(box.left, 0) + min(box.right, seen.picture.width)) / 2
    y = (max(box.top, 0) + min(box.bottom, seen.picture.height)) / 2
    return x, y


@pytest.mark.parametrize("fit", FITS)
def test_a_token_is_masked_when_less_than_half_of_it_is_white(fit: Any, tmp_path: Path) -> None:
    pictures.noise(97, 71).save(tmp_path / "noise.png")
    picture = attnviz.load_image(tmp_path / "noise.png")
    mask = a_mask(97, 71)
    seen = attnviz.observe(picture, attnviz.load_model("random", size=80), fit=fit, mask=mask)
    for token, part in enumerate(seen.taking_part):
        row, column = divmod(token, seen.placement.grid.columns)
        box = seen.placement.token_box(row, column)
        x = box.left + (np.arange(200) + 0.5) / 200 * box.width
        y = box.top + (np.arange(200) + 0.5) / 200 * box.height
        inside = ((x >= 0) & (x < 97))[None] & ((y >= 0) & (y < 71))[:, None]
        white = mask[np.clip(y.astype(int), 0, 70)][:, np.clip(x.astype(int), 0, 96)] & inside
        if abs(white.mean() - 0.5) > 0.02:
            assert part == (white.mean() > 0.5), (row, column)


def test_the_check_sees_that_weights_explain_the_output(tmp_path: Path) -> None:
    pictures.noise(80, 60).save(tmp_path / "noise.png")
    picture = attnviz.load_image(tmp_path / "noise.png")
    seen = attnviz.observe(picture, attnviz.load_model("random"))
    assert seen.unexplained == ()
    assert max(seen.errors) < 1e-5
    call = seen.recording[0]
    assert call.output is not None
    wrong = attnviz.AttentionCall(call.query * 1.5, call.key, call.value, call.scale,
                                  output=call.output)  # fmt: skip
    error = wrong.check()
    assert error is not None
    assert error > 1e-2


def test_a_single_token_has_no_entropy_ratio_and_no_distance(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    model = attnviz.load_model("random", size=16)
    seen = attnviz.observe(attnviz.load_image(tmp_path / "dot.png"), model)
    head = make_record(attnviz.explain(seen)).data()["heads"][0]
    assert head["entropy_ratio"] is None
    assert (head["entropy"], head["distance_px"], head["confidence"]) == (0, 0, 1)
    assert head["map"]["area60"] == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_verified_with_its_own_limit(dtype: str, tmp_path: Path) -> None:
    pictures.noise(80, 60).save(tmp_path / "noise.png")
    picture = attnviz.load_image(tmp_path / "noise.png")
    seen = attnviz.observe(picture, attnviz.load_model("random", dtype=dtype))
    assert seen.recording[0].query.dtype == getattr(torch, dtype)
    assert max(seen.errors) < 1e-2
    assert not seen.unexplained
    full = attnviz.observe(picture, attnviz.load_model("random"))
    half, whole = (attnviz.explain(each).numbers["entropy"] for each in (seen, full))
    np.testing.assert_allclose(half, whole, atol=0.05)
