"""The page by keyboard and by ear."""

from typing import Any

import pytest

pytest_plugins = ["browsing"]
SPOKEN = "document.querySelector('#spoken').textContent !== ''"


def state(page: Any) -> Any:
    return page.evaluate("attnviz.state")


def focused(page: Any) -> str:
    """What has the focus: its id, or its words."""
    return str(
        page.evaluate(
            "document.activeElement.id || document.activeElement.getAttribute('aria-label')"
            " || document.activeElement.value || document.activeElement.textContent"
        )
    )


def test_every_part_is_reached_by_tab_and_shows_its_focus(page: Any, show: Any) -> None:
    show("registers")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(focused(page))
        if reached[-1] == "rows":
            break
        outlined = page.evaluate(
            """() => {
                const on = document.activeElement;
                const seen = on.type === "radio" ? on.nextElementSibling : on;
                return getComputedStyle(seen).outlineStyle;
            }"""
        )
        assert outlined == "solid", reached
    assert reached[:4] == ["Skip to the picture", "save-picture", "save-numbers", "keys"]
    wanted = ["attention", "one", "class", "looks", "compare", "frame-a", "scale", "colours",
              "drawing", "alpha", "keep", "layer 2, head 0", "rows"]  # fmt: skip
    assert [name for name in reached if name in wanted] == wanted
    page.keyboard.press("Tab")
    assert focused(page) == "layer · head"


def test_the_skip_link_leads_to_the_picture_and_keeps_the_address(page: Any, show: Any) -> None:
    show("registers", "#head=2")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert focused(page) == "frame-a"
    assert page.url.endswith("#head=2")


# Keys pressed one after another on the picture, and the token that is looked from then.
WALKS = [
    ("ArrowRight", "2,3"),  # from the class token to the middle
    ("ArrowRight ArrowRight", "2,4"),
    ("ArrowUp ArrowUp ArrowLeft", "1,2"),
    ("ArrowUp ArrowUp ArrowUp ArrowUp ArrowUp", "0,3"),
    ("ArrowDown End", "2,5"),
    ("ArrowDown Home ArrowDown ArrowDown ArrowDown", "3,0"),
]


@pytest.mark.parametrize(("keys", "query"), WALKS)
def test_arrows_move_the_token_that_is_looked_from(
    keys: str, query: str, page: Any, show: Any, settled: Any
) -> None:
    show("registers")
    page.locator("#frame-a").focus()
    for key in keys.split():
        page.keyboard.press(key)
    settled(page)
    assert state(page)["a"] == query
    row, column = query.split(",")
    assert page.locator("#view-a .words").inner_text().endswith(f"row {row}, column {column}")


def test_arrows_pass_over_masked_tokens(page: Any, show: Any) -> None:
    held = show("masked")
    entry = [*held.layers.values()][-1]
    part = held.taking_part(entry, "queries")[0][5:].reshape(7, 11)
    page.locator("#frame-a").focus()
    for key in ["ArrowDown", *["ArrowLeft"] * 4, "ArrowDown", "ArrowDown"]:
        page.keyboard.press(key)
        row, column = map(int, state(page)["a"].split(","))
        assert part[row, column]


def test_shift_and_arrows_read_another_token(
    page: Any, show: Any, settled: Any, until: Any
) -> None:
    show("registers", "#a=1,1")
    page.locator("#frame-a").focus()
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    settled(page)
    assert state(page)["a"] == "1,1"
    assert page.locator("#view-a .reading").inner_text().startswith("row 2, column 2: ")
    until(page, SPOKEN)
    assert "read at row 2, column 2: " in page.get_by_role("status").inner_text()


# Keys, and what is chosen then that was not before.
KEYS: list[tuple[str, dict[str, Any]]] = [
    ("[", {"layer": 1}),
    ("[ [ ]", {"layer": 1}),
    (".", {"head": 1}),
    (",", {"head": 3}),
    ("2", {"merge": "mean"}),
    ("3", {"merge": "max"}),
    ("3 1", {}),
    ("r", {"show": "received"}),
    ("r a", {}),
    ("o", {"show": "rollout"}),
    ("t", {"a": "2,3"}),
    ("t c", {}),
    ("g", {"a": "register 0"}),
    ("g g", {"a": "register 1"}),
    ("m", {"a": "mean"}),
    ("p", {"pointer": "reads"}),
    ("b", {"b": "class", "active": "b"}),
    ("b v", {"b": "class"}),
    ("b v b", {}),
    ("-", {"alpha": 45}),
    ("+ =", {"alpha": 60}),
    ("k", {"keep": 95}),
    ("k k K", {"keep": 95}),
    ("s", {"scale": "layer"}),
    ("l", {"colours": "magma"}),
    ("d", {"drawing": "cells"}),
]


@pytest.mark.parametrize(("keys", "changed"), KEYS)
def test_a_key_does_what_the_list_says(
    keys: str, changed: dict[str, Any], page: Any, show: Any
) -> None:
    show("registers")
    before = state(page)
    for key in keys.split():
        page.keyboard.press(key)
        page.evaluate("load(layerOf(attnviz.state.layer)).then(() => 0)")
    assert state(page) == {**before, **changed}


def test_the_list_of_keys_has_every_key(page: Any, show: Any) -> None:
    show("registers")
    page.keyboard.press("?")
    listed = page.locator("#help kbd").all_inner_texts()
    known = page.evaluate("[...actions.keys()]")
    assert set(known) - {"="} <= set(listed)
    assert {key for keys, _ in KEYS for key in keys.split()} | {"?", "e", "n"} == set(known)
    assert page.evaluate("document.activeElement.closest('dialog').id") == "help"
    page.keyboard.press("]")
    assert state(page)["layer"] == 2
    page.get_by_label("Single letters and signs are keys").uncheck()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    page.keyboard.press("2")
    assert state(page)["merge"] == "one"
    page.keyboard.press("?")
    page.get_by_role("button", name="Close").click()
    assert not page.locator("#help").is_visible()


def test_keys_save_too(page: Any, show: Any) -> None:
    show("registers")
    for key, ending in (("e", ".png"), ("n", ".csv")):
        with page.expect_download() as saved:
            page.keyboard.press(key)
        assert saved.value.suggested_filename == f"noise-layer02-head00{ending}"


def test_grids_have_one_tab_stop_and_arrows_choose_in_them(
    page: Any, show: Any, settled: Any
) -> None:
    show("registers")
    for grid in ("#multiples > *", "#matrix .thumb", "#table tbody button"):
        stops = page.locator(grid).evaluate_all("all => all.filter((e) => e.tabIndex === 0).length")
        assert stops == 1, grid
    page.locator(".small[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    settled(page)
    assert page.evaluate("document.activeElement.dataset.head") == "2"
    assert state(page)["head"] == 2
    page.locator(".thumb[tabindex='0']").focus()
    for key in ("ArrowUp", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    settled(page)  # what has the tab stop is drawn
    assert focused(page) == "layer 1, head 3"
    assert (state(page)["layer"], state(page)["head"]) == (1, 3)
    page.locator("#table tbody button[tabindex='0']").focus()
    page.keyboard.press("ArrowUp")
    settled(page)
    assert focused(page) == "1 · 2"
    assert state(page)["head"] == 2


def test_what_is_shown_is_said(page: Any, show: Any, until: Any) -> None:
    held = show("registers", "#a=1,1")
    until(page, SPOKEN)
    said = page.get_by_role("status").inner_text()
    entry = [*held.layers.values()][-1]
    values = held.row(entry, 0, 0, 5 + 1 * entry["keys"]["columns"] + 1)
    row, column = divmod(int(values[5:].argmax()), entry["keys"]["columns"])
    assert said.startswith(
        f"layer 2, head 0, from token at row 1, column 1; most on row {row}, column {column}: "
    )
    assert said.endswith(f"{100 * values[:5].sum():.1f} % on class token and registers")
    heard = page.locator("body").aria_snapshot()
    for part in ('radio "attention" [checked]', 'group "Look from"', 'columnheader "entropy"',
                 'radiogroup "Heads of layer 2"', 'rowheader "layer 0"', 'combobox "Scale"',
                 'gridcell "layer 2, head 0" [selected]',
                 'application "Picture A, 4 rows'):  # fmt: skip
        assert part in heard, part
