"""Boxes of objects on the page: chosen by mouse and keyboard, by their accessible names."""

from typing import Any

import explored
import numpy as np
import pytest
from page_decoder import Decoded

import attnviz

pytest_plugins = ["browsing"]


def state(page: Any) -> Any:
    return page.evaluate("attnviz.state")


@pytest.mark.parametrize("name", ["DETR", "Deformable DETR", "YOLOS"])
def test_boxes_lie_where_the_record_says_and_rows_are_those_of_explain(name: str) -> None:
    seen = explored.seen(name)
    page = attnviz.explore(seen, threshold=0.0)
    held = Decoded(page.html)
    found = held.about["objects"]["found"]
    best = sorted(seen.objects, key=lambda each: -each.score)
    assert [each["index"] for each in found] == [each.index for each in best if each.score > 0]
    for each in found:
        box = seen.region(seen.objects[each["index"]]).box
        assert box is not None
        np.testing.assert_allclose(each["box"], box, atol=0.01)
    number = max(held.layers)
    entry = held.layers[number]
    asked = attnviz.explain(seen, query=f"object:{found[1]['index']}", layers=str(number))
    token = entry["queries"]["prefix"].index(found[1]["name"])
    assert page.about["start"]["query"]["kind"] == "prefix"
    windows = entry["queries"]["windows"]
    for answer in asked.answers:
        window, query = (token, 0) if windows > 1 else (0, token)
        row = held.row(entry, window, answer.head or 0, query)
        values = np.zeros(held.cells(entry, "keys").shape)
        values[window] = row
        share = np.abs(held.on_cells(entry, values) - answer.values).max()
        assert share <= 0.02 * row.max()


def test_objects_are_chosen_by_mouse_and_keyboard(page: Any, show: Any, settled: Any) -> None:
    held = show("DETR", threshold=0.0)
    found = held.about["objects"]["found"]
    names = [f"{one['label']}, score {one['score']:.2f}, object {one['index']}" for one in found]
    boxes = page.locator("#frame-a").get_by_role("radiogroup", name="Objects")
    listed = boxes.get_by_role("radio").evaluate_all("(all) => all.map((one) => one.ariaLabel)")
    assert listed == names
    assert state(page)["a"] == found[0]["name"]
    boxes.locator("[aria-checked='true']").focus()
    for key, at in [("ArrowRight", 1), ("End", len(found) - 1), ("Home", 0), ("ArrowDown", 1)]:
        page.keyboard.press(key)
        settled(page)
        assert state(page)["a"] == found[at]["name"]
        assert page.evaluate("document.activeElement.ariaLabel") == names[at]
        assert page.locator("#view-a .words").inner_text().endswith(found[at]["name"])
    boxes.get_by_role("radio", name=names[0]).dispatch_event("click")
    settled(page)
    assert state(page)["a"] == found[0]["name"]
    page.keyboard.press("w")
    assert state(page)["a"] == found[1]["name"]
    page.get_by_label("Object", exact=True).select_option(found[2]["name"])
    assert state(page)["a"] == found[2]["name"]
    page.keyboard.press("Tab")
    page.get_by_role("gridcell", name="layer 0, head 0").click()
    settled(page)
    assert boxes.is_hidden()  # the encoder's queries are tokens


def test_a_box_is_pointed_at_and_its_map_goes_with_the_pointer(
    page: Any, show: Any, settled: Any
) -> None:
    held = show("YOLOS", "#a=mean", threshold=0.0)
    one = held.about["objects"]["found"][0]
    chip = page.locator("#frame-a .box").first.locator(".chip")
    chip.hover(force=True)
    settled(page)
    seen = page.locator("#view-a .words").inner_text()
    assert "from object" in seen
    page.mouse.move(640, 890)
    settled(page)
    assert page.locator("#view-a .words").inner_text().endswith("mean of all grid tokens")
    box = page.locator("#frame-a").bounding_box()
    page.mouse.click(box["x"] + 3, box["y"] + 3)  # a token can be asked, too
    assert state(page)["a"] == "0,0"
    assert one["name"] in held.layers[0]["queries"]["prefix"]


def test_without_an_object_over_the_threshold_the_page_says_so(page: Any, show: Any) -> None:
    show("DETR", threshold=1.0)
    assert (
        "No boxes: no object has a score over 1; the best is" in page.locator("#why").inner_text()
    )
    assert page.locator(".box").count() == 0
