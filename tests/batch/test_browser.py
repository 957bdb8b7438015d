"""The gallery in a browser, opened as a file: what a person sees, clicks and hears."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import folders
import pytest

from attnviz.batch.entries import readable
from attnviz.batch.gallery import write_gallery

pytest_plugins = ["browsing"]

EVIL = ['"><img src=x onerror=alert(1)>.jpg', "x\ny.png", "100%#1?.png", "c:d.png", "猫 🐈.png"]
BROKEN = {"<script>alert(1)</script>": "<b>broken</b>", "sub/late.jpg": "my/sub/late.jpg: cut off"}


@pytest.fixture
def page(new_page: Callable[..., Any]) -> Any:
    return new_page(viewport={"width": 1000, "height": 800})


def show(page: Any, out: Path, names: list[str], **more: Any) -> list[Any]:
    records = folders.batch(out, names, **more)
    write_gallery(out)
    page.goto((out / "index.html").as_uri())
    return records


def names(page: Any) -> list[str]:
    return [str(text) for text in page.locator("#pictures .name").all_inner_texts()]


def test_odd_names_are_text_and_lead_to_their_sheets(page: Any, tmp_path: Path) -> None:
    show(page, tmp_path, EVIL, failed=BROKEN)
    assert names(page) == [readable(name) for name in sorted(EVIL)]
    widths = page.evaluate(
        "Promise.all([...document.images].map(async (i) => (await i.decode(), i.naturalWidth)))"
    )
    assert widths == [240] * len(EVIL)
    links = page.locator("#pictures a").evaluate_all("all => all.map((a) => a.href)")
    failed = page.locator("#errors li").all_inner_texts()
    assert [text.split("\n")[-1] for text in failed] == ["<b>broken</b>", "cut off"]
    for link in links:
        page.goto(link)
        assert page.evaluate("document.images[0].naturalWidth") == 640


def test_it_sorts_by_any_number_and_filters_by_name(page: Any, tmp_path: Path) -> None:
    records = show(page, tmp_path, [f"{i}.png" for i in range(12)])
    page.get_by_label("Number").select_option("distance_px")
    page.get_by_label("Layer").select_option("layer 5")
    page.get_by_label("Head").select_option("head 1")
    found = {
        record.image.path: head.distance_px
        for record in records
        for head in record.heads
        if (head.layer, head.head) == (5, 1)
    }
    known = sorted((name for name in found if found[name] is not None), key=lambda n: found[n])
    unknown = [name for name in found if found[name] is None]
    assert unknown
    page.get_by_label("Order").select_option("lowest first")
    assert names(page) == known + sorted(unknown)
    page.get_by_label("Order").select_option("highest first")
    assert names(page) == known[::-1] + sorted(unknown)
    assert page.locator(".value").last.inner_text() == "not defined"
    page.get_by_label("Order").select_option("name, Z to A")
    assert names(page) == sorted(found, reverse=True)
    page.get_by_label("Name contains").fill("1.P")
    assert names(page) == ["11.png", "1.png"]
    assert page.get_by_role("status").inner_text() == "2 of 12 pictures match"


def test_what_was_chosen_is_there_after_a_look_at_a_picture(page: Any, tmp_path: Path) -> None:
    show(page, tmp_path, ["a.png", "b.png"])
    page.get_by_label("Order").select_option("highest first")
    page.get_by_label("Number").select_option("map_area60")
    before = names(page)
    page.locator("#pictures a").first.click()
    page.go_back()
    assert page.get_by_label("Number").input_value() == "map_area60"
    assert names(page) == before


def test_many_are_shown_a_page_at_a_time(page: Any, tmp_path: Path) -> None:
    show(page, tmp_path, [f"{i:03}.png" for i in range(200)], drawn=False)
    assert len(names(page)) == 96
    assert page.get_by_role("button", name="Previous").is_disabled()
    following = page.get_by_role("button", name="Next")
    following.click()
    assert page.evaluate("document.activeElement.id") == "found"
    following.click()
    assert names(page) == [f"{i:03}.png" for i in range(192, 200)]
    assert following.is_disabled()
    page.reload()
    assert names(page)[0] == "192.png"
    page.get_by_label("Name contains").fill("00")
    assert page.locator("#page").inner_text() == "Page 1 of 1"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("drawn", [True, False])
def test_it_fits_a_phone_in_both_themes(theme: str, drawn: bool, page: Any, tmp_path: Path) -> None:
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": 380, "height": 700})
    show(page, tmp_path, [*EVIL, "long" * 40 + ".png"], failed=BROKEN, drawn=drawn)
    assert page.evaluate("document.documentElement.scrollWidth") == 380
    for selector in ("#run", "label", ".name", ".folder", "#errors p", "#ends", "button"):
        ink, paper = page.locator(selector).first.evaluate(
            """(element) => {
                const paper = (on) => getComputedStyle(on).backgroundColor;
                let on = element;
                while (paper(on) === "rgba(0, 0, 0, 0)") on = on.parentNode;
                return [getComputedStyle(element).color, paper(on)];
            }"""
        )
        assert contrast(ink, paper) >= 4.5, selector
        assert (luminance(paper) > 0.5) == (theme == "light")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of `rgb(r, g, b)`."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_it_can_be_used_by_keys_and_by_ear(page: Any, tmp_path: Path) -> None:
    show(page, tmp_path, ["a.png", "sub/b.png"], failed=BROKEN)
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.innerText")
        )
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert style == "solid", reached
    assert reached[:6] == ["Skip to the pictures", "2 failed", "filter", "order", "number", "layer"]
    heard = page.locator("body").aria_snapshot()
    for said in ('heading "Attention over a folder" [level=1]', 'heading "Pictures" [level=2]',
                 'searchbox "Name contains"', 'combobox "Number"', 'img "Attention on sub/b.png"',
                 'img "Histogram of 2 pictures from', 'heading "Failed (2)" [level=2]',
                 'link "Attention on a.png"'):  # fmt: skip
        assert said in heard


def test_nothing_else_runs_and_nothing_is_asked_of_the_network(
    browser: Any, refused: Callable[[Any], list[str]], tmp_path: Path
) -> None:
    folders.batch(tmp_path, ["a.png"])
    write_gallery(tmp_path)
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    forbidden = ["connect-src", "img-src", "script-src-elem", "style-src-attr"]
    assert refused(page) == forbidden
    page.close()


def test_of_no_picture_there_is_a_page_that_says_so(page: Any, tmp_path: Path) -> None:
    show(page, tmp_path, [], failed=BROKEN)
    assert page.locator("#counts").inner_text() == "0 pictures, 2 failed"
    assert not page.locator("#spread").is_visible()
