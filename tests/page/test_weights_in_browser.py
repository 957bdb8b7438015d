"""Tokens hovered in a browser, offline, against call.rows of what the model did."""

from pathlib import Path
from typing import Any

import explored
import numpy as np
import pytest

import attnviz
from attnviz.geometry.grid import Box
from attnviz.page import page_weights

pytest_plugins = ["browsing"]
TOKENS = 20
SHOWN = """() => {
    const { query, map } = shownIn("a");
    return { query, map: [...map] };
}"""
WEIGHTS = "(asked) => Promise.all(asked.map((each) => attnviz.weights(...each)))"
FRAME = "requestAnimationFrame(() => requestAnimationFrame(done))"


def choose(seen: attnviz.Observation, number: int) -> list[tuple[int, int, Box]]:
    """Windows and tokens that take part, spread over the picture, and where they lie."""
    layout = seen.layers[number].queries
    part, placed = seen.tokens_taking_part(layout), seen.placed(layout)
    drawn = seen.drawn_on(layout).ravel()
    found = []
    for window, token in np.argwhere(part & layout.on_picture):
        cell = layout.cells[window, token]
        if drawn[cell]:
            found.append((int(window), int(token), placed.token_box(*divmod(cell, layout.columns))))
    return found[:: max(1, len(found) // TOKENS)][:TOKENS]


def expected(seen: attnviz.Observation, number: int, window: int, token: int) -> tuple[Any, Any]:
    """The maps of all heads of one query, (heads, cells), and which cells are drawn."""
    layer = seen.layers[number]
    rows = layer.call.rows([token])[window, :, 0].double().numpy()
    cells, count = layer.keys.cells[window], layer.keys.rows * layer.keys.columns
    there = cells >= 0
    maps = [np.bincount(cells[there], row[there], minlength=count) for row in rows]
    return np.array(maps), seen.drawn_on(layer.keys).ravel()


def hover(page: Any, seen: attnviz.Observation, box: Box) -> None:
    """The middle of a token's part of the picture."""
    frame = page.locator("#frame-a").bounding_box()
    width, height = seen.picture.width, seen.picture.height
    x = (max(box.left, 0) + min(box.right, width)) / 2 / width
    y = (max(box.top, 0) + min(box.bottom, height)) / 2 / height
    page.mouse.move(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])
    page.evaluate(f"new Promise((done) => {FRAME})")


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("vit", "weights8"),
        ("vit", "keys16"),
        ("registers", "keys16"),
        ("siglip", "keys16"),
        ("swin", "weights8"),
        ("masked", "keys16"),
    ],
)
def test_hovered_tokens_look_where_they_looked(
    name: str, encoding: str, page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_weights, "smaller", lambda _: encoding)
    seen = explored.seen(name)
    made = attnviz.explore(seen)
    assert {layer["encoding"] for layer in made.about["layers"]} == {encoding}
    path = made.save(tmp_path / "page.html")
    heads = {number: seen.layers[number].call.heads for number in seen.layers}
    grids = [n for n, layer in seen.layers.items() if layer.queries.on_picture.any()]
    assert len(grids) >= 3
    for number in grids[:3]:
        head = number % heads[number]
        page.goto(f"{path.as_uri()}#layer={number}&head={head}")
        page.reload()  # another # alone is no other page
        page.evaluate("attnviz.drawn")
        chosen = choose(seen, number)
        assert len(chosen) >= min(TOKENS, 14)
        for window, token, box in chosen:
            hover(page, seen, box)
            shown = page.evaluate(SHOWN)
            maps, drawn = expected(seen, number, window, token)
            check(shown["map"], maps[head], drawn, encoding)
            if seen.layers[number].keys.windows == 1:
                where = f"{shown['query']['row']},{shown['query']['column']}"
                asked = [[number, other, where] for other in range(heads[number])]
                for other, values in enumerate(page.evaluate(WEIGHTS, asked)):
                    check(values[-len(drawn) :], maps[other], drawn, encoding)


def check(found: Any, expected: Any, drawn: Any, encoding: str) -> None:
    """To 1/255 of the map's largest weight, or 1 % of each."""
    found, expected = np.array(found)[drawn], expected[drawn]
    top = expected.max()
    if encoding == "weights8":
        assert np.abs(found - expected).max() <= top / 255
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-6 * top)
