"""The page of a model that answers in words: its rows, and how words and cells are chosen."""

from typing import Any

import explored
import numpy as np
import pytest
from page_decoder import Decoded

import attnviz
from attnviz.errors import OutputError, UsageError
from attnviz.page import page_words

pytest_plugins = ["browsing"]
ANSWER = ["a", "black", "mug", "left", "of", "an", "orange", "bird"]
SPOKEN = "document.querySelector('#spoken').textContent.includes('words that looked there')"


@pytest.mark.parametrize("name", ["scene", "tiles"])
def test_rows_are_those_that_explain_draws(name: str) -> None:
    seen = explored.seen(name)
    page = Decoded(attnviz.explore(seen).html)
    listed = page.about["text"]["words"]
    for number, entry in page.layers.items():
        names = entry["queries"]["prefix"]
        assert names == [word["name"] for word in listed]
        asked = attnviz.explain(seen, query=names, layers=str(number))
        drawn = page.drawn(entry, "keys")
        maxima = page.part(entry, "maximum")[0]
        for answer in asked.answers:
            row = page.row(entry, 0, answer.head or 0, answer.question)
            found = page.on_cells(entry, row[None])
            step = maxima[answer.head or 0, answer.question] / 255
            assert answer.row is not None
            assert np.abs(found - answer.values)[drawn].max() <= 1.01 * step
            outside = row[: len(entry["keys"]["prefix"])].sum()
            np.testing.assert_allclose(outside, 1 - answer.row.image, atol=1e-5)
        exact = [
            page.on_cells(entry, page.part(entry, "received")[0, head][None])
            for head in entry["heads"]
        ]
        of_answer = [i for i, word in enumerate(listed) if word["of"] == "answer"]
        for head, received in enumerate(exact):
            maps = [a.values for a in asked.answers if a.head == head and a.question in of_answer]
            np.testing.assert_allclose(received[drawn], np.mean(maps, 0)[drawn], atol=1e-6)


def test_prompt_and_answer_are_told_and_the_heads_are_those_of_show() -> None:
    seen = explored.seen("tiles")
    assert seen.text is not None
    page = attnviz.explore(seen, query="word:A#2")
    about = page.about["text"]
    assert (about["prompt"], about["answer"]) == ("What is it?", seen.text.answer)
    names = ["word:a", "word:red", "word:mat", "word:a#2", "word:mug"]
    assert [word["name"] for word in about["words"]][:5] == names
    assert [word["word"] for word in about["words"][5:]] == ["What", "is", "it"]
    for word in about["words"]:
        assert about[word["of"]][word["start"] : word["end"]] == word["word"]
    assert page.about["start"]["query"] == {"kind": "prefix", "index": 3}
    of_all = attnviz.explore(seen).about
    shown = attnviz.explain(seen, heads="localized").questions[0].localized
    assert [(e["layer"], e["head"]) for e in of_all["localized"]] == [
        (e.layer, e.head) for e in shown
    ]
    assert (of_all["start"]["layer"], of_all["start"]["head"]) == (shown[0].layer, shown[0].head)
    asked = attnviz.explore(seen, query="prompt:it").about["start"]["query"]
    assert asked == {"kind": "prefix", "index": 7}


def test_what_cannot_be_shown_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = explored.seen("tiles")
    for query in ("1,1", "mean", "token:3"):
        with pytest.raises(UsageError, match="looks from words; give word:NAME or prompt:NAME"):
            attnviz.explore(seen, query=query)
    with pytest.raises(UsageError, match="not in the answer; its words are a, red, mat, mug"):
        attnviz.explore(seen, query="word:cat")
    monkeypatch.setattr(page_words, "MOST", 0)
    about = attnviz.explore(seen).about["text"]
    assert [word["of"] for word in about["words"]] == ["answer"] * 5
    assert about["why"] == "the rows of its 3 words would be too large"
    monkeypatch.setattr("attnviz.page.explore.LIMIT", 1_000_100)
    with pytest.raises(OutputError, match=r"over the limit of 1 MB; take .*--max-words \d"):
        attnviz.explore(seen)


def state(page: Any) -> Any:
    return page.evaluate("attnviz.state")


def word(page: Any, name: str) -> Any:
    return page.get_by_role("radio", name=name, exact=True)


def captions(page: Any) -> str:
    return str(page.locator("#view-a .words").inner_text())


def test_words_are_hovered_chosen_and_stepped(page: Any, show: Any, settled: Any) -> None:
    held = show("scene", localized=3)
    start = held.about["start"]
    assert (state(page)["layer"], state(page)["head"]) == (start["layer"], start["head"])
    listed = page.get_by_role("radiogroup", name="Words")
    assert listed.get_by_role("radio").all_inner_texts() == ANSWER
    assert captions(page).endswith("from “a”")
    word(page, "mug").hover()
    settled(page)
    assert captions(page).endswith("from “mug”")
    assert word(page, "a").get_attribute("aria-checked") == "true"
    page.mouse.move(640, 890)
    settled(page)
    assert captions(page).endswith("from “a”")
    word(page, "bird").click()
    page.mouse.move(640, 890)
    settled(page)
    assert captions(page).endswith("from “bird”")  # it stays when the pointer leaves
    for key, name in [("ArrowLeft", "orange"), ("Home", "a"), ("ArrowDown", "black")]:
        page.keyboard.press(key)
        settled(page)
        assert state(page)["a"] == f"word:{name}"
        assert page.evaluate("document.activeElement.textContent") == name
    assert listed.locator("[tabindex='0']").all_inner_texts() == ["black"]
    assert word(page, "black").get_attribute("title").startswith("log-probability −")
    with page.expect_download() as saved:
        page.keyboard.press("n")
    rows = saved.value.path().read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[1:3] for row in rows[1:3]] == [
        ["word:black", "other tokens"],
        ["word:black", "grid"],
    ]
    page.keyboard.press("w")
    page.keyboard.press("r")
    page.keyboard.press("W")
    assert (state(page)["a"], state(page)["show"]) == ("word:black", "attention")


def test_a_cell_shows_which_words_looked_at_it(
    page: Any, show: Any, settled: Any, until: Any
) -> None:
    held = show("scene", "#merge=mean")
    number = state(page)["layer"]
    entry = held.layers[number]
    maps = np.array(
        [
            np.mean([held.on_cells(entry, held.row(entry, 0, head, query)[None])
                     for head in range(len(entry["heads"]))], 0)
            for query in range(len(ANSWER))
        ]
    )  # fmt: skip
    row, column = divmod(int(maps[7].argmax()), maps.shape[2])
    box = page.locator("#frame-a").bounding_box()
    side = entry["keys"]
    x = np.mean(side["edges_x"][column : column + 2]) / held.about["image"]["width"] * box["width"]
    y = np.mean(side["edges_y"][row : row + 2]) / held.about["image"]["height"] * box["height"]
    page.mouse.click(box["x"] + x, box["y"] + y)
    page.mouse.move(640, 890)
    settled(page)
    assert state(page)["cell"] == f"{row},{column}"
    weights = maps[:, row, column]
    shares = page.locator(".word").evaluate_all(
        "(all) => all.map((each) => Number(each.style.getPropertyValue('--share')))"
    )
    np.testing.assert_allclose(shares, weights / weights.max(), atol=6e-4)
    rows = page.get_by_role("table").first.get_by_role("row").all()[1:]
    texts = [each.get_by_role("cell").last.inner_text() for each in rows]
    numbers = [float(text.replace("−", "-")) for text in texts]
    np.testing.assert_allclose(numbers, weights, rtol=5e-3)
    assert rows[7].get_by_role("rowheader").inner_text() == "“bird”"
    assert f"row {row}, column {column}" in page.locator("#looked").inner_text()
    until(page, SPOKEN)
    page.locator("#frame-a").focus()
    page.keyboard.press("ArrowLeft")
    assert state(page)["cell"] == f"{row},{column - 1}"
    page.keyboard.press("]" if number == 0 else "[")
    settled(page)
    assert state(page)["cell"] == f"{row},{column - 1}"  # of another layer, too
    page.get_by_role("button", name="No cell").click()
    assert state(page)["cell"] == ""
    page.keyboard.press("ArrowRight")
    assert state(page)["cell"] != ""
    page.keyboard.press("x")
    settled(page)
    assert page.locator("#words.shaded").count() == 0


def test_what_is_not_of_words_is_hidden_or_says_why(page: Any, show: Any, settled: Any) -> None:
    show("tiles")
    assert page.locator("#from").is_hidden()
    assert page.locator("#pointer").is_hidden()
    assert page.get_by_role("radio", name="rollout").is_disabled()
    assert "rows of words alone" in page.locator("#why").inner_text()
    word(page, "What").click()
    settled(page)
    assert captions(page).endswith("from “What” of the prompt")
    page.get_by_role("button", name="Compare two").click()
    word(page, "mat").click()
    settled(page)
    assert (state(page)["a"], state(page)["b"]) == ("prompt:What", "word:mat")
    page.keyboard.press("?")
    terms = page.locator("#key-list").inner_text()
    assert "word after, word before" in terms
    assert "class token" not in terms


def test_an_address_of_what_is_not_there_opens_on_the_first_word(page: Any, show: Any) -> None:
    show("tiles", "#a=word%3Anone&cell=99,99")
    assert captions(page).endswith("from “a”")
    assert page.locator("#words.shaded").count() == 0


def test_a_page_without_words_shows_no_text(page: Any, show: Any) -> None:
    show("tiny")
    assert page.locator("#text").is_hidden()
    assert page.locator("#word-numbers").is_hidden()
