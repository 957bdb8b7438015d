"""Maps lie exactly where their tokens lie, whatever was cut away, added or masked."""

import base64
import io
from typing import Any

import explored
import numpy as np
import pytest
from PIL import Image

pytest_plugins = ["browsing"]
CANVAS = "document.querySelector('#frame-a canvas').toDataURL()"
SETTINGS = "#pointer=reads&alpha=100&scale=head"


def pixels(page: Any) -> Any:
    """The large view as it is drawn, (height, width, 3)."""
    data = page.evaluate(CANVAS).partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def colours(held: Any, values: Any, drawn: Any) -> Any:
    """The colours of weights, each map with its own range."""
    table = np.frombuffer(base64.b64decode(held.about["colormaps"]["viridis"]), np.uint8)
    low, high = values[drawn].min(), values[drawn].max()
    places = np.clip((values - low) / (high - low) * 255, 0, 255)
    return table.reshape(256, 3)[np.rint(places).astype(int)].astype(int)


@pytest.mark.parametrize("ratio", [1, 1.5])
@pytest.mark.parametrize("name", ["vit", "registers", "padded", "cropped", "masked"])
def test_cells_are_drawn_where_their_tokens_are(
    name: str, ratio: float, new_page: Any, show: Any
) -> None:
    page = new_page(device_scale_factor=ratio)
    placement = explored.seen(name).placement
    held = show(name, SETTINGS + "&drawing=cells", on=page)
    entry = [*held.layers.values()][-1]
    values = held.on_cells(entry, held.row(entry, 0, 0, 0)[None])
    drawn = held.drawn(entry, "keys")
    wanted, seen = colours(held, values, drawn), pixels(page)
    scale = np.array(
        [seen.shape[1] / placement.picture_width, seen.shape[0] / placement.picture_height]
    )
    assert seen.shape[1] == pytest.approx(
        ratio * page.locator("#frame-a").bounding_box()["width"], abs=1
    )
    for row, column in np.argwhere(drawn):
        box = placement.token_box(row, column)
        left, top = np.maximum(0, np.round(np.array(box[:2]) * scale)).astype(int) + 1
        right, bottom = np.round(np.array(box[2:]) * scale).astype(int) - 1
        part = seen[top:bottom, left:right].astype(int)
        assert part.size, "a drawn cell is seen"
        assert np.abs(part - wanted[row, column]).max() <= 3, (row, column)


@pytest.mark.parametrize("name", ["vit", "padded", "cropped"])
def test_smooth_maps_have_each_weight_at_the_centre_of_its_token(
    name: str, page: Any, show: Any
) -> None:
    placement = explored.seen(name).placement
    held = show(name, SETTINGS + "&drawing=smooth")
    entry = [*held.layers.values()][-1]
    values = held.on_cells(entry, held.row(entry, 0, 0, 0)[None])
    drawn = held.drawn(entry, "keys")
    wanted, seen = colours(held, values, drawn), pixels(page)
    errors = []
    for row, column in np.argwhere(drawn):
        box = placement.token_box(row, column)
        if (
            min(box[:2]) < 0
            or box[2] > placement.picture_width
            or box[3] > placement.picture_height
        ):
            continue
        x = (box.left + box.right) / 2 / placement.picture_width * seen.shape[1]
        y = (box.top + box.bottom) / 2 / placement.picture_height * seen.shape[0]
        errors.append(np.abs(seen[int(y), int(x)].astype(int) - wanted[row, column]).max())
    # A shift by half a cell would be as wrong as another cell's colour.
    assert np.median(errors) <= 6
    assert np.quantile(errors, 0.95) <= 25


def test_what_is_masked_is_not_drawn_and_cannot_be_asked(
    page: Any, show: Any, settled: Any
) -> None:
    held = show("masked", SETTINGS + "&drawing=cells")
    before = pixels(page)
    drawn = held.drawn([*held.layers.values()][-1], "keys")
    assert 0 < drawn.sum() < drawn.size
    page.get_by_label("Colours").select_option("magma")
    settled(page)
    rows, columns = np.nonzero(np.any(before != pixels(page), axis=2))
    height, width = before.shape[:2]
    changed = np.zeros_like(drawn)
    changed[rows * drawn.shape[0] // height, columns * drawn.shape[1] // width] = True
    np.testing.assert_array_equal(changed, drawn)
    page.get_by_role("radio", name="looks").check()
    row, column = np.argwhere(~drawn)[0]
    box = page.locator("#frame-a").bounding_box()
    x = box["x"] + (column + 0.5) / drawn.shape[1] * box["width"]
    y = box["y"] + (row + 0.5) / drawn.shape[0] * box["height"]
    page.mouse.click(x, y)
    settled(page)
    assert page.evaluate("attnviz.state.a") == "class"
    assert page.locator("#view-a .reading").inner_text() == f"row {row}, column {column}: not drawn"
