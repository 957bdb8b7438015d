import itertools
import math
from typing import Any

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import attnviz
from attnviz.drawing.overlay import Style, colour_table, overlay, spread_out
from attnviz.drawing.scale import Range, parse_scale, ranges
from attnviz.geometry.placement import place
from attnviz.io.picture import Picture

SHAPES = [(61, 47), (20, 90), (7, 5), (130, 130), (4, 1), (13, 4), (3000, 3)]
FITS: list[Any] = ["keep", "crop", "pad", "squash"]


def picture(width: int, height: int) -> Picture:
    rng = np.random.default_rng(1)
    return Picture("noise.png", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def random_map(rows: int, columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(2).random((rows, columns), dtype=np.float32)


@pytest.mark.parametrize(("shape", "fit"), list(itertools.product(SHAPES, FITS)))
def test_a_cell_covers_exactly_its_tokens_pixels(shape: tuple[int, int], fit: Any) -> None:
    width, height = shape
    placement = place(width, height, size=48, patch=8, fit=fit)
    grid = placement.grid
    values = random_map(grid.rows, grid.columns).astype(np.float64)
    drawn = np.ones((grid.rows, grid.columns), dtype=bool)
    spread, seen = spread_out(values, drawn, placement, "nearest")(
        slice(0, placement.picture_width)
    )
    for y, x in np.ndindex(height, width):
        token = placement.token_at(x + 0.5, y + 0.5)
        column, row = placement.to_grid(x + 0.5, y + 0.5)
        on_a_border = min(abs(column - round(column)), abs(row - round(row))) < 1e-4
        if on_a_border:
            continue  # either neighbour is right
        assert seen[y, x] == (token is not None)
        if token is not None:
            assert spread[y, x] == pytest.approx(values[token], abs=1e-6)


@pytest.mark.parametrize(("shape", "fit"), list(itertools.product(SHAPES, FITS)))
def test_smooth_maps_agree_with_their_tokens_at_the_centres(
    shape: tuple[int, int], fit: Any
) -> None:
    """A map that grows evenly to the right and down lies at every pixel where it should."""
    width, height = shape
    placement = place(width, height, size=48, patch=8, fit=fit)
    grid = placement.grid
    rows, columns = np.mgrid[0 : grid.rows, 0 : grid.columns] + 0.5
    values = (columns + rows) / (grid.columns + grid.rows)
    spread, seen = spread_out(values, np.ones_like(values, dtype=bool), placement, "bicubic")(
        slice(0, placement.picture_width)
    )
    for y, x in np.argwhere(seen)[:: max(1, seen.size // 300)]:
        column, row = placement.to_grid(x + 0.5, y + 0.5)
        inside = 2 <= column <= grid.columns - 2 and 2 <= row <= grid.rows - 2
        if inside:
            expected = (column + row) / (grid.columns + grid.rows)
            assert spread[y, x] == pytest.approx(expected, abs=2e-2)


@pytest.mark.parametrize("peak", [0.001, 0.5, 1.0])
def test_the_blend_is_the_published_formula_whatever_the_maps_maximum(peak: float) -> None:
    photo = picture(32, 32)
    placement = place(32, 32, size=32, patch=8)
    values = random_map(4, 4) * peak
    colours = colour_table("viridis")
    style = Style(colours, alpha=0.3, interpolation="nearest")
    drawn = np.ones((4, 4), dtype=bool)
    scale = Range("fixed", 0.0, peak)
    result = overlay(photo, values, drawn=drawn, placement=placement, scale=scale, style=style)
    index = np.rint(values / peak * (len(colours) - 1)).astype(int)
    colour = np.kron(index, np.ones((8, 8), dtype=int))
    expected = 0.7 * photo.pixels.astype(float) + 0.3 * colours[colour]
    assert np.abs(np.asarray(result).astype(float) - expected).max() <= 1.0


def test_alpha_0_is_the_photograph_itself() -> None:
    photo, placement = picture(40, 30), place(40, 30, size=32, patch=8)
    values = random_map(placement.grid.rows, placement.grid.columns)
    drawn = np.ones_like(values, dtype=bool)
    style = Style(colour_table("magma"), alpha=0.0)
    result = overlay(
        photo, values, drawn=drawn, placement=placement, scale=Range("head", 0, 1), style=style
    )
    assert (np.asarray(result) == photo.pixels).all()


def test_masked_tokens_are_grey_and_do_not_bleed_into_their_neighbours() -> None:
    photo, placement = picture(64, 64), place(64, 64, size=64, patch=8)
    drawn = np.ones((8, 8), dtype=bool)
    drawn[2:5, 3:6] = False
    values = np.where(drawn, 0.9, 0.0)
    spread, seen = spread_out(values, drawn, placement, "bicubic")(
        slice(0, placement.picture_width)
    )
    assert (seen == np.kron(drawn, np.ones((8, 8), dtype=bool))).all()
    np.testing.assert_allclose(spread[seen], 0.9, atol=1e-4)
    result = np.asarray(
        overlay(
            photo,
            values.astype(np.float32),
            drawn=drawn,
            placement=placement,
            scale=Range("fixed", 0, 1),
            style=Style(colour_table("viridis")),
        )
    )
    assert (result[~seen] == result[~seen][:, :1]).all()
    assert (result[seen] != result[seen][:, :1]).any()


def test_ranges_of_each_scale() -> None:
    maps = np.arange(1, 17, dtype=np.float32).reshape(2, 2, 1, 4)
    drawn = np.array([[True, True, True, False]])

    def bounds(text: str) -> list[list[tuple[float, float]]]:
        weights = [maps[layer, head][drawn] for layer in (0, 1) for head in (0, 1)]
        found = ranges(parse_scale(text), weights, [0, 0, 1, 1])
        bounds = [(each.minimum, each.maximum) for each in found]
        return [bounds[:2], bounds[2:]]

    assert bounds("head") == [[(1, 3), (5, 7)], [(9, 11), (13, 15)]]
    assert bounds("layer") == [[(1, 7), (1, 7)], [(9, 15), (9, 15)]]
    assert bounds("all") == [[(1, 15), (1, 15)], [(1, 15), (1, 15)]]
    assert bounds("0:0.5") == [[(0, 0.5)] * 2] * 2
    assert bounds("log") == bounds("head")


def test_positions_on_the_colour_map() -> None:
    values = np.array([0.0, 0.01, 0.1, 1.0], dtype=np.float32)
    assert Range("head", 0.0, 1.0).position(values).tolist() == pytest.approx([0, 0.01, 0.1, 1])
    assert Range("log", 0.01, 1.0).position(values).tolist() == pytest.approx([0, 0, 0.5, 1])
    assert Range("fixed", 0.0, 0.1).position(values).tolist() == pytest.approx([0, 0.1, 1, 1])


def test_a_flat_map_is_drawn_in_the_middle_and_not_as_noise() -> None:
    values = np.float32(1 / 196) + np.array([0, 1e-9, -1e-9], dtype=np.float32)
    scale = Range("head", float(values.min()), float(values.max()))
    assert scale.position(values).tolist() == [0.5, 0.5, 0.5]


def test_an_unknown_colour_map_is_named() -> None:
    with pytest.raises(attnviz.AttnvizError, match="'plasmb'"):
        colour_table("plasmb")


def test_colours_are_matplotlibs() -> None:
    table = colour_table("viridis", 256)
    assert table[0].tolist() == [68, 1, 84]
    assert table[-1].tolist() == [253, 231, 37]
    assert math.isclose(len(table), 256)
    for size in (7, 256, 1024):  # what lies beside the code is what matplotlib would give
        found = matplotlib.colormaps["viridis"](np.linspace(0, 1, size))[:, :3]
        assert np.array_equal(colour_table("viridis", size), np.rint(255 * found))


@pytest.mark.parametrize("interpolation", ["bicubic", "nearest"])
@pytest.mark.parametrize(("masked", "fit"), [(False, "keep"), (True, "pad"), (True, "crop")])
def test_strips_are_the_whole_byte_for_byte(
    interpolation: Any, fit: Any, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where grey is half-way between two levels, which other sums would round elsewhere."""
    pixels = picture(203, 91).pixels.copy()
    pixels[:50] = pixels[:50, :, :1]
    placement = place(203, 91, size=48, patch=8, fit=fit)
    shape = placement.grid.rows, placement.grid.columns
    drawn = random_map(*shape) > 0.3 if masked else np.ones(shape, dtype=bool)
    found = []
    for strip in (1 << 30, 2000):
        monkeypatch.setattr("attnviz.drawing.overlay.STRIP", strip)
        style = Style(colour_table("viridis"), interpolation=interpolation)
        settings: dict[str, Any] = {"placement": placement, "scale": Range("head", 0, 1)}
        photo = Picture("grey.png", pixels)
        found.append(
            np.asarray(overlay(photo, random_map(*shape), drawn=drawn, style=style, **settings))
        )
    assert np.array_equal(found[0], found[1])


def test_a_map_is_resized_as_pillow_does_it_at_once() -> None:
    placement = place(203, 91, size=48, patch=8)
    values = random_map(placement.grid.rows, placement.grid.columns)
    drawn = np.ones_like(values, dtype=bool)
    spread, _ = spread_out(values.astype(np.float64), drawn, placement, "bicubic")(slice(0, 203))
    x1, y1 = placement.to_grid(203, 91)
    padded = Image.fromarray(np.pad(values, 3, mode="edge"))
    box = (3.0, 3.0, x1 + 3, y1 + 3)
    whole = np.asarray(padded.resize((203, 91), Image.Resampling.BICUBIC, box=box))
    assert np.array_equal(spread, np.clip(whole.astype(np.float64), 0, 1))
