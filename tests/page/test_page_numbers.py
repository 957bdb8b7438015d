"""The numbers that the page shows and saves, against a decoder and attnviz's own methods."""

import csv
import io
from typing import Any

import explored
import numpy as np
import pytest
from page_decoder import Decoded, Entry

from attnviz.geometry.placement import Placement
from attnviz.methods.attention import smallest_set

pytest_plugins = ["browsing"]
ALL_WEIGHTS = """async ([layer, heads, queries]) => {
    const found = [];
    for (const head of heads) {
        for (const query of queries) {
            found.push(Array.from(await attnviz.weights(layer, head, query)));
        }
    }
    return found;
}"""


def number(text: str) -> float:
    """A number as the page writes it."""
    return float(text.replace("−", "-"))


def origins(page: Decoded, entry: Entry) -> dict[str, list[tuple[int, int]]]:
    """Queries of a layer as the page names them: (window, token) that each looks from."""
    side, found = entry["queries"], {}
    cells, part = page.cells(entry, "queries"), page.taking_part(entry, "queries")
    for token, name in enumerate(side["prefix"]):
        found[name] = [(0, token)]
    for window, token in np.ndindex(cells.shape):
        if cells[window, token] >= 0 and part[window, token]:
            row, column = divmod(int(cells[window, token]), side["columns"])
            found.setdefault(f"{row},{column}", []).append((window, token))
    return found


def expected(page: Decoded, entry: Entry, head: int, tokens: list[tuple[int, int]]) -> Any:
    """Mean weights of some query tokens over the key tokens of all windows."""
    keys = entry["keys"]
    total = np.zeros((keys["windows"], keys["tokens"]))
    for window, token in tokens:
        total[window] += page.row(entry, window, head, token) / len(tokens)
    return total.ravel()


@pytest.mark.parametrize("name", explored.NAMES)
def test_weights_are_those_of_the_file(name: str, page: Any, show: Any) -> None:
    held = show(name)
    for layer, entry in held.layers.items():
        found = origins(held, entry)
        chosen = [*found][:: max(1, len(found) // 7)]
        got = page.evaluate(ALL_WEIGHTS, [layer, entry["heads"], chosen])
        wanted = [
            expected(held, entry, head, found[query])
            for head in range(len(entry["heads"]))
            for query in chosen
        ]
        np.testing.assert_allclose(got, wanted, atol=1e-6 * np.max(wanted), rtol=1e-4)
        for kind in ("mean", "received"):
            if kind in entry["parts"]:
                got = page.evaluate(ALL_WEIGHTS, [layer, entry["heads"], [kind]])
                wanted = held.part(entry, kind).swapaxes(0, 1).reshape(len(entry["heads"]), -1)
                np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", ["registers", "siglip", "masked"])
def test_rollout_is_that_of_the_file(name: str, page: Any, show: Any) -> None:
    held = show(name)
    for layer, entry in held.rollouts.items():
        for query, tokens in [*origins(held, entry).items()][::5]:
            got = page.evaluate(
                "([l, q]) => attnviz.rollout(l, q).then((r) => [...r])", [layer, query]
            )
            np.testing.assert_allclose(got, held.rolled(entry, tokens[0][1]), rtol=1e-5, atol=1e-9)


def saved_rows(page: Any) -> list[dict[str, str]]:
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save CSV").click()
    text = saved.value.path().read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("name", ["registers", "masked", "cropped", "swin"])
def test_csv_has_the_map_of_every_head_and_what_is_kept_of_it(
    name: str, page: Any, show: Any
) -> None:
    held = show(name, "#keep=60&a=2,5")
    entry = [*held.layers.values()][-1]
    rows = saved_rows(page)
    outside = [row for row in rows if row["token"] != "grid"]
    assert [row["token"] for row in outside] == entry["keys"]["prefix"]
    cells = [row for row in rows if row["token"] == "grid"]
    drawn = held.drawn(entry, "keys").ravel()
    assert [row["weight"] != "" for row in cells] == drawn.tolist()
    for position, head in enumerate(entry["heads"]):
        weights = expected(held, entry, position, origins(held, entry)["2,5"])
        shape = entry["keys"]["windows"], entry["keys"]["tokens"]
        wanted = held.on_cells(entry, weights.reshape(shape)).ravel()
        got = [float(row[f"head_{head}"] or "nan") for row in cells]
        np.testing.assert_allclose(got, np.where(drawn, wanted, np.nan), rtol=1e-4, atol=1e-8)
        for row, weight in zip(outside, weights, strict=False):
            assert float(row[f"head_{head}"]) == pytest.approx(weight, rel=1e-4)
    assert {row["from"] for row in rows} == {"2,5"}
    assert [row["weight"] for row in rows] == [row[f"head_{entry['heads'][0]}"] for row in rows]
    values = np.array([float(row["weight"] or 0) for row in cells], dtype=np.float32)
    kept = [row["kept"] == "1" for row in cells]
    assert kept == (smallest_set(values, drawn, keep=0.6) == 1).tolist()
    said = page.locator("#rest").inner_text()
    assert f"60 % of the mass on {sum(kept)} of {drawn.sum()} tokens" in said


def test_of_equal_weights_the_first_in_reading_order_are_kept(page: Any, show: Any) -> None:
    show("vit")
    kept = page.evaluate(
        "[0.6, 1, 0.001].map((share) => [...smallestSet(new Float32Array(196).fill(1 / 196),"
        " new Uint8Array(196).fill(1), share)])"
    )
    assert [sum(each) for each in kept] == [118, 196, 1]
    assert kept[0] == [1] * 118 + [0] * 78


def centre(placement: Placement, row: int, column: int) -> tuple[float, float]:
    """Of a token, as shares of the picture's width and height."""
    x, y = placement.visible_centre(row, column)
    return x / placement.picture_width, y / placement.picture_height


def point(page: Any, view: str, x: float, y: float) -> tuple[float, float]:
    box = page.locator(f"#frame-{view}").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


@pytest.mark.parametrize("name", ["registers", "padded", "cropped"])
def test_the_weight_under_the_pointer_is_read(
    name: str, page: Any, show: Any, settled: Any
) -> None:
    placement = explored.seen(name).placement
    held = show(name, "#pointer=reads")
    entry = [*held.layers.values()][-1]
    shape = entry["keys"]["rows"], entry["keys"]["columns"]
    values = held.row(entry, 0, 0, 0)
    wanted = held.on_cells(entry, values[None])
    for row, column in [(2, 1), (shape[0] // 2, shape[1] - 2)]:
        page.mouse.move(*point(page, "a", *centre(placement, row, column)))
        settled(page)
        where, _, weight = page.locator("#view-a .reading").inner_text().partition(": ")
        assert where == f"row {row}, column {column}"
        said = number(weight)
        assert said == pytest.approx(wanted[row, column], rel=6e-3)
    share = page.locator("#rest").inner_text().partition(" %")[0]
    prefix = len(entry["keys"]["prefix"])
    hidden = np.append(held.drawn(entry, "keys").ravel(), False)[held.cells(entry, "keys")[0]]
    assert prefix
    assert float(share) == pytest.approx(100 * values[~hidden].sum(), abs=0.06)


def test_the_colour_bar_says_the_range(page: Any, show: Any, settled: Any) -> None:
    held = show("registers", "#a=1,2&b=3,4")
    entry = [*held.layers.values()][-1]
    maps: Any = [
        [expected(held, entry, head, origins(held, entry)[query])[5:] for head in range(4)]
        for query in ("1,2", "3,4")
    ]
    heads = np.array([maps[0][0], maps[1][0]])
    ranges: dict[str, Any] = {"head": heads, "layer": maps, "log": heads[heads > 0]}
    for scale, among in ranges.items():
        page.get_by_label("Scale").select_option(scale)
        settled(page)
        low, high = (number(page.locator(f"#{end}").inner_text()) for end in ("low", "high"))
        assert (low, high) == pytest.approx((np.min(among), np.max(among)), rel=6e-3)
