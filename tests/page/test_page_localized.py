"""The most localized heads of a page: which they are, and that they are seen and heard."""

from pathlib import Path
from typing import Any

import explored
import pytest
from page_decoder import Decoded

import attnviz
from attnviz.cli import main
from attnviz.errors import UsageError
from attnviz.output.make_record import make_record

pytest_plugins = ["browsing"]
CAT = str(Path(__file__).parents[2] / "sample_images" / "cat.jpg")


def expected(name: str, layers: str, **question: Any) -> list[tuple[int, int]]:
    """All heads of these layers by the numbers of their records, the lowest score first."""
    explanation = attnviz.explain(explored.seen(name), layers=layers, **question)
    scored = []
    for head in make_record(explanation).heads:
        entropy, border = head.map.spatial_entropy, head.map.border_mass
        assert entropy is not None
        assert border is not None
        scored.append((entropy + 2 * border, head.layer, head.head or 0))
    return [(layer, head) for _, layer, head in sorted(scored)]


def marked(about: Any) -> list[tuple[int, int]]:
    return [(each["layer"], each["head"]) for each in about["localized"]]


@pytest.mark.parametrize("query", ["auto", "70,40"])
def test_a_page_marks_the_most_localized_heads_and_opens_on_the_first(query: str) -> None:
    seen = explored.seen("tiny")
    page = Decoded(attnviz.explore(seen, query=query).html)
    heads = expected("tiny", "3-5", query=query)[:3]
    assert marked(page.about) == heads
    assert (page.about["start"]["layer"], page.about["start"]["head"]) == heads[0]
    one = Decoded(attnviz.explore(seen, query=query, localized=1).html)
    assert marked(one.about) == heads[:1]


def test_only_heads_of_the_page_are_marked() -> None:
    seen = explored.seen("tiny")
    page = Decoded(attnviz.explore(seen, layers="1,2", heads="0-4").html)
    assert marked(page.about) == [h for h in expected("tiny", "1,2") if h[1] < 5][:3]
    nothing: list[dict[str, Any]] = [{"localized": 0}, {"layers": "5", "heads": "2"}]
    for none in nothing:
        page = Decoded(attnviz.explore(seen, **none).html)
        assert (marked(page.about), page.about["start"]["head"]) == ([], 0)
        assert page.about["start"]["layer"] == 5


def test_a_page_of_the_most_localized_heads_holds_no_others() -> None:
    page = Decoded(attnviz.explore(explored.seen("tiny"), heads="localized:2").html)
    heads = expected("tiny", "3-5")[:2]
    held = [(each["layer"], head) for each in page.about["layers"] for head in each["heads"]]
    assert held == sorted(heads)
    assert marked(page.about) == heads
    with pytest.raises(UsageError, match="have 24 heads; give at most localized:24"):
        attnviz.explore(explored.seen("tiny"), heads="localized:25")


def test_where_nothing_can_be_chosen_a_page_opens_as_without() -> None:
    for name in ("pixels", "made up"):
        about = Decoded(attnviz.explore(explored.seen(name), query="auto").html).about
        if not about["localized"]:
            assert about["start"]["layer"] == about["layers"][-1]["layer"]
    assert marked(Decoded(attnviz.explore(explored.seen("pixels")).html).about) == []


def test_stars_are_seen_and_heard(page: Any, show: Any, settled: Any) -> None:
    held = show("tiny", localized=3)
    (layer, head), *_ = heads = marked(held.about)
    assert page.evaluate("[attnviz.state.layer, attnviz.state.head]") == [layer, head]
    chosen = page.locator(f"#multiples [data-head='{head}']")
    assert "★" in chosen.inner_text()
    here = [h for n, h in heads if n == layer]
    assert page.locator("#multiples .star").count() == len(here)
    assert page.locator("#matrix .star").count() == 3
    heard = page.locator("body").aria_snapshot()
    assert f'gridcell "layer {layer}, head {head}, most localized" [selected]' in heard
    assert f'radio "head {head} , most localized , largest weight' in heard.replace("★", "")
    assert f"★ most localized: {', '.join(f'{n} · {h}' for n, h in heads)}" in heard
    page.locator("#rows").select_option("all")
    settled(page)
    assert page.locator("#table .star").count() == 3


def test_the_command_writes_such_a_page(tmp_path: Path) -> None:
    line = ["explore", CAT, "--size", "48", "-o", str(tmp_path / "a.html")]
    assert main([*line, "--heads", "localized:2"]) == 0
    about = Decoded((tmp_path / "a.html").read_text(encoding="utf-8")).about
    assert sum(len(layer["heads"]) for layer in about["layers"]) == 2
