"""The page's controls in a browser: what a person clicks, and what then is there."""

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import explored
import numpy as np
import pytest
from PIL import Image

from attnviz import explore

pytest_plugins = ["browsing"]
CANVAS = "document.querySelector('#frame-a canvas').toDataURL()"
BAR = "document.querySelector('#bar').toDataURL()"
SMALL = "document.querySelector('.small canvas').toDataURL()"
LOADED = "Promise.all(layers.map(load)).then(() => 0)"
THUMBNAILS = "[...document.querySelectorAll('.thumb canvas')]"
EVIL = '"><img src=x onerror=alert(1)>.jpg'


def at(page: Any, x: float, y: float, view: str = "a") -> tuple[float, float]:
    """A place of the picture, as shares of it, in pixels of the window."""
    box = page.locator(f"#frame-{view}").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def words(page: Any, view: str = "a") -> str:
    return str(page.locator(f"#view-{view} .words").inner_text())


def state(page: Any, key: str) -> Any:
    return page.evaluate("(key) => attnviz.state[key]", key)


def slide(page: Any, name: str, value: int) -> None:
    page.get_by_label(re.compile(name)).fill(str(value))


def choose(group: str, value: str) -> Callable[[Any], None]:
    return lambda page: page.locator(f"#{group} label:has([value='{value}'])").click()


def select(name: str, value: str) -> Callable[[Any], None]:
    return lambda page: page.get_by_label(name).select_option(value)


# What is done, the part of the page that is another then, and what the caption says.
CONTROLS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "received": (choose("show", "received"), CANVAS, "attention received, layer 2, head 0"),
    "rollout": (choose("show", "rollout"), CANVAS, "rollout to layer 2 · from"),
    "mean of heads": (choose("merge", "mean"), CANVAS, "layer 2, mean of heads"),
    "maximum of heads": (choose("merge", "max"), CANVAS, "layer 2, maximum of heads"),
    "register": (choose("from", "register 2"), CANVAS, "from register 2"),
    "mean": (choose("from", "mean"), CANVAS, "from mean of all grid tokens"),
    "token": (choose("from", "cell"), CANVAS, "from token at row 2, column 3"),
    "small head": (lambda page: page.locator(".small").nth(2).click(), CANVAS, "layer 2, head 2"),
    "matrix": (
        lambda page: page.get_by_role("gridcell", name="layer 1, head 3").click(),
        CANVAS,
        "layer 1, head 3",
    ),
    "table": (
        lambda page: page.locator("#table tbody tr").nth(3).locator("td").first.click(),
        CANVAS,
        "layer 2, head 3",
    ),
    "layer's scale": (select("Scale", "layer"), CANVAS, "layer 2, head 0"),
    "scale of all": (select("Scale", "all"), CANVAS, "layer 2, head 0"),
    "logarithmic": (select("Scale", "log"), CANVAS, "layer 2, head 0"),
    "scale of small heads": (select("Scale", "layer"), SMALL, "layer 2, head 0"),
    "colours": (select("Colours", "magma"), BAR, "layer 2, head 0"),
    "colours of small heads": (select("Colours", "magma"), SMALL, "layer 2, head 0"),
    "cells": (select("Drawing", "cells"), CANVAS, "layer 2, head 0"),
    "opacity": (lambda page: slide(page, "Opacity", 90), CANVAS, "layer 2, head 0"),
    "keep": (lambda page: slide(page, "Keep mass", 60), CANVAS, "layer 2, head 0"),
    "keep in small heads": (lambda page: slide(page, "Keep mass", 60), SMALL, "layer 2, head 0"),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_changes_what_it_says_and_a_link_shows_it(
    *, control: str, page: Any, show: Any, settled: Any, until: Any, new_page: Any
) -> None:
    do, drawn, says = CONTROLS[control]
    show("registers")
    assert words(page) == "layer 2, head 0 · from class token"
    page.evaluate(LOADED)
    before = page.evaluate(drawn)
    do(page)
    page.mouse.move(0, 0)
    settled(page)
    after = page.evaluate(drawn)
    assert after != before
    assert says in words(page)
    until(page, "location.hash !== ''")  # it follows when changes pause
    other = new_page()
    other.goto(page.url)
    other.evaluate("attnviz.drawn")
    other.evaluate(LOADED)
    settled(other)
    assert other.evaluate("attnviz.state") == page.evaluate("attnviz.state")
    assert other.evaluate(drawn) == after
    assert words(other) == words(page)


def test_hovering_looks_from_there_until_the_pointer_leaves(
    page: Any, show: Any, settled: Any
) -> None:
    show("registers")
    before = page.evaluate(CANVAS)
    page.mouse.move(*at(page, 0.9, 0.9))
    settled(page)
    assert words(page).endswith("from token at row 3, column 5")
    assert page.evaluate(CANVAS) != before
    page.mouse.move(0, 0)
    settled(page)
    assert words(page).endswith("from class token")
    assert page.evaluate(CANVAS) == before
    page.mouse.click(*at(page, 0.1, 0.1))
    page.mouse.move(0, 0)
    settled(page)
    assert words(page).endswith("from token at row 0, column 0")
    page.mouse.move(*at(page, 0.9, 0.9))
    page.mouse.move(0, 0)
    settled(page)
    assert state(page, "a") == "0,0"


def test_two_tokens_are_compared_on_one_scale(page: Any, show: Any, settled: Any) -> None:
    show("registers")
    page.mouse.click(*at(page, 0.1, 0.1))
    page.get_by_role("button", name="Compare two").click()
    page.mouse.click(*at(page, 0.9, 0.9, "b"))
    page.mouse.move(0, 0)
    settled(page)
    assert (state(page, "a"), state(page, "b")) == ("0,0", "3,5")
    assert [words(page, view).rpartition("from ")[2] for view in "ab"] == [
        "token at row 0, column 0", "token at row 3, column 5",
    ]  # fmt: skip
    both = [page.locator(f"#{end}").inner_text() for end in ("low", "high")]
    seen = {float(page.locator(".small .most").first.inner_text().replace("−", "-"))}
    page.get_by_role("button", name="View A: show its heads").click()
    settled(page)
    seen.add(float(page.locator(".small .most").first.inner_text().replace("−", "-")))
    assert len(seen) == 2
    assert float(both[1].replace("−", "-")) == max(seen)
    assert [page.locator(f"#{end}").inner_text() for end in ("low", "high")] == both
    page.get_by_role("button", name="Compare two").click()
    settled(page)
    assert not page.locator("#view-b").is_visible()


def test_a_tap_and_a_stroke_of_a_finger_look_from_there(
    new_page: Any, show: Any, settled: Any
) -> None:
    page = new_page(has_touch=True, is_mobile=True, viewport={"width": 380, "height": 700})
    show("registers", on=page)
    page.locator("#frame-a").scroll_into_view_if_needed()
    page.touchscreen.tap(*at(page, 0.9, 0.9))
    settled(page)
    assert state(page, "a") == "3,5"
    assert words(page).endswith("from token at row 3, column 5")
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [dict(zip("xy", at(page, x, y), strict=True)) for x, y in places]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (0.9, 0.4))
    for step in range(1, 8):
        touch("touchMove", (0.9 - 0.1 * step, 0.4))
    settled(page)
    assert words(page).endswith("from token at row 1, column 1")  # while it is stroked
    touch("touchEnd")
    settled(page)
    assert state(page, "a") == "1,1"


def test_the_table_sorts_and_marks_the_head(page: Any, show: Any, settled: Any) -> None:
    held = show("registers")
    names = [name for name, _ in held.about["statistics"]]
    rows = [
        (layer, head, numbers)
        for layer, entry in held.layers.items()
        for head, numbers in zip(entry["heads"], entry["numbers"], strict=True)
    ]
    page.get_by_label("Heads of", exact=True).select_option("all")
    column = names.index("distance_px")
    for down in (False, True):
        page.get_by_role("button", name="distance px").click()
        settled(page)
        wanted = sorted(rows, key=lambda row: row[2][column], reverse=down)
        shown = page.locator("#table tbody th").all_inner_texts()
        assert shown == [f"{layer} · {head}" for layer, head, _ in wanted]
        header = page.locator("th", has=page.get_by_role("button", name="distance px"))
        assert header.get_attribute("aria-sort") == ("descending" if down else "ascending")
    assert page.locator("#meaning").inner_text().startswith("distance px: ")
    page.locator("#table tbody tr").nth(4).click()
    settled(page)
    layer, head, _ = wanted[4]
    assert (state(page, "layer"), state(page, "head")) == (layer, head)
    current = page.locator("tr[aria-current]")
    assert current.locator("th").all_inner_texts() == [f"{layer} · {head}"]
    chosen = page.locator(".thumb[aria-selected='true']")
    assert chosen.get_attribute("aria-label") == f"layer {layer}, head {head}"
    assert page.locator(".small[aria-checked='true']").get_attribute("data-head") == str(head)


def test_the_matrix_shows_every_head_of_every_layer(page: Any, show: Any, until: Any) -> None:
    held = show("swin")
    page.evaluate(LOADED)
    until(page, f"{THUMBNAILS}.every((canvas) => canvas.width > 1)")
    sizes = page.locator(".thumb canvas").evaluate_all("all => all.map((c) => [c.height, c.width])")
    assert sizes == [
        [entry["keys"]["rows"], entry["keys"]["columns"]]
        for entry in held.layers.values()
        for _ in entry["heads"]
    ]
    drawn = page.locator(".thumb canvas").evaluate_all(
        """all => all.every((canvas) => canvas.getContext("2d")
            .getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean))"""
    )
    assert drawn


def test_what_cannot_be_asked_says_why(page: Any, show: Any) -> None:
    held = show("swin")
    control = page.get_by_role("radio", name="rollout")
    assert control.is_disabled()
    assert held.about["rollout"]["why"] in page.locator("#why").inner_text()
    assert page.locator("#from label").all_inner_texts() == ["token", "mean"]  # no class token


def test_a_query_goes_along_to_layers_of_another_grid(page: Any, show: Any, settled: Any) -> None:
    held = show("swin", "#layer=0&a=13,19")
    assert held.layers[0]["queries"]["rows"] == 14
    page.get_by_role("gridcell", name="layer 3, head 0").click()
    page.mouse.move(0, 0)
    page.evaluate(LOADED)
    settled(page)
    assert words(page).endswith("from token at row 6, column 9")


def test_an_attention_pool_is_asked_as_what_it_is(page: Any, show: Any, settled: Any) -> None:
    show("siglip")
    assert words(page) == "layer 3, head 0 · from pool"
    page.mouse.move(*at(page, 0.5, 0.5))
    settled(page)
    assert words(page) == "layer 3, head 0 · from pool"
    assert page.locator("#view-a .reading").inner_text() != ""
    page.get_by_role("gridcell", name="layer 1, head 0").click()
    page.evaluate(LOADED)
    settled(page)
    assert words(page) == "layer 1, head 0 · from mean of all grid tokens"


@pytest.mark.parametrize(
    "fragment",
    ["#layer=99&head=x&show=nothing&keep=0&alpha=1000&colours=__proto__&a=99,99&b=nobody",
     "#a=&scale=fixed&sort=-constructor&rows=1&merge=&pointer=%00", "#%E0%A4%A", "#a=1e9,2&b=-1,0"],
)  # fmt: skip
def test_a_broken_link_shows_what_it_can(fragment: str, page: Any, show: Any) -> None:
    show("registers", fragment)
    assert words(page) == "layer 2, head 0 · from class token"
    assert state(page, "keep") == 100


def test_an_address_typed_in_is_followed(page: Any, show: Any, settled: Any) -> None:
    show("registers")
    page.evaluate("location.hash = 'head=2&a=1,1'")
    settled(page)
    assert words(page) == "layer 2, head 2 · from token at row 1, column 1"


def test_the_picture_is_saved_with_its_words(page: Any, show: Any, tmp_path: Path) -> None:
    show("registers", "#a=1,1&b=2,2&head=3")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save PNG").click()
    assert saved.value.suggested_filename == "noise-layer02-head03.png"
    saved.value.save_as(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as image:
        seen = np.asarray(image.convert("RGB")).astype(int)
    assert seen.shape[1] == 2 * 1024 + 3 * 24
    views = seen[48:731, 24:1048], seen[48:731, 1072:2096]
    assert all(view.std() > 10 for view in views)
    assert np.abs(views[0] - views[1]).max() > 50
    table = np.frombuffer(
        base64.b64decode(page.evaluate("about.colormaps.viridis")), np.uint8
    ).reshape(256, 3)
    bar = seen[48 + 683 + 18, 24:504]
    assert np.abs(bar[2] - table[1]).max() < 8
    assert np.abs(bar[-3] - table[254]).max() < 8


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone(theme: str, page: Any, show: Any, settled: Any) -> None:
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": 380, "height": 700})
    for fragment in ("", "#b=1,1&keep=60&show=rollout"):
        show("registers", fragment)
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 380
        assert page.locator("#frame-a").bounding_box()["width"] > 340


def test_a_hostile_name_does_nothing(page: Any, tmp_path: Path) -> None:
    seen = explored.seen("registers")
    named = replace(seen, picture=replace(seen.picture, path=EVIL))
    file = tmp_path / "page.html"
    file.write_text(explore(named, localized=0).html, encoding="utf-8")
    page.goto(file.as_uri())
    page.evaluate("attnviz.drawn")
    assert page.locator("h1").inner_text() == EVIL
    assert page.title() == f"{EVIL} – attnviz"
    assert page.evaluate("document.images.length") == 0
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save PNG").click()
    assert re.fullmatch(r"[\w.-]+-layer02-head00\.png", saved.value.suggested_filename)


def test_nothing_else_runs_and_nothing_is_asked_of_the_network(
    browser: Any, refused: Callable[[Any], list[str]], tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(explore(explored.seen("registers")).html, encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    forbidden = ["connect-src", "img-src", "script-src-elem", "style-src-attr"]
    assert refused(page) == forbidden
    page.close()


def test_some_layers_and_heads_are_named_by_their_numbers(
    page: Any, show: Any, settled: Any
) -> None:
    show("registers", layers="0,2", heads="1,3")
    assert words(page) == "layer 2, head 1 · from class token"
    assert page.locator(".small .number").all_inner_texts() == ["1", "3"]
    assert page.locator("#heads-note").inner_text() == "2 of its 4 heads are in this file"
    assert page.locator(".row-name").all_inner_texts() == ["0", "2"]
    page.keyboard.press("[")
    page.keyboard.press(".")
    page.evaluate("load(layers[0]).then(() => 0)")
    settled(page)
    assert words(page) == "layer 0, head 3 · from class token"
    assert page.locator("#table tbody th").all_inner_texts() == ["0 · 1", "0 · 3"]


def test_the_pointer_goes_on_looking_through_layers(page: Any, show: Any, settled: Any) -> None:
    show("swin", "#layer=3")
    page.evaluate(LOADED)
    page.mouse.move(*at(page, 0.99, 0.99))
    settled(page)
    assert words(page) == "layer 3, head 0 · from token at row 6, column 9"
    page.keyboard.press("[")
    page.keyboard.press("[")
    settled(page)
    assert words(page) == "layer 1, head 0 · from token at row 13, column 19"
    page.mouse.move(0, 0)
    settled(page)
    assert words(page) == "layer 1, head 0 · from mean of all grid tokens"


def test_the_last_token_comes_back(page: Any, show: Any, settled: Any) -> None:
    show("registers", "#a=1,4")
    for value, wanted in (("class", "class token"), ("mean", "mean of all grid tokens"),
                          ("cell", "token at row 1, column 4")):  # fmt: skip
        choose("from", value)(page)
        settled(page)
        assert words(page).endswith(f"from {wanted}")
