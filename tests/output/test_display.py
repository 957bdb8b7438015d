"""How notebooks show what was asked and what was recorded."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pictures
import pytest
import torch
from PIL import Image

import attnviz
from attnviz.drawing.sheet import cells_on, sheet, small
from attnviz.output.notebook import LARGEST
from attnviz.output.write_pictures import Drawing
from attnviz.recording import recorded as markup


class _Page(HTMLParser):
    """Cells of tables, row by row, and the tags that are open at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        if tag != "img":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


@pytest.fixture(scope="module")
def seen() -> attnviz.Observation:
    name = "<script>alert('cat')</script>.png"
    picture = attnviz.Picture(name, np.asarray(pictures.noise(300, 200)))
    return attnviz.observe(picture, attnviz.load_model(size=48))


def test_an_explanation_shows_its_sheet(seen: attnviz.Observation) -> None:
    explanation = attnviz.explain(seen, query="100,50")
    image = Image.open(io.BytesIO(explanation._repr_png_()))
    assert image.format == "PNG"
    drawing = Drawing()
    style, shown = drawing.style(), small(seen.picture)
    cells = cells_on(explanation, shown, drawing.ranges(explanation), style)
    expected = sheet(explanation, cells, style, preview=shown)
    assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_a_sheet_of_many_layers_is_of_a_modest_size(seen: attnviz.Observation) -> None:
    explanation = attnviz.explain(seen, layers="all", query=["cls", "mean", "50,50"])
    assert max(Image.open(io.BytesIO(explanation._repr_png_())).size) == LARGEST


@pytest.mark.parametrize("method", ["attention", "rollout"])
def test_its_page_holds_the_picture_and_every_number_and_nothing_of_a_name(
    seen: attnviz.Observation, method: str
) -> None:
    explanation = attnviz.explain(seen, method=method)
    text = explanation._repr_html_()
    assert "<script>" not in text
    data = re.search(r'src="data:image/png;base64,([^"]+)"', text)
    assert data is not None
    assert base64.b64decode(data[1]) == explanation._repr_png_()
    page = _Page(text)
    assert page.open == []
    headings, *rows = page.rows
    assert len(rows) == len(explanation.answers)
    for row, answer in zip(rows, explanation.answers, strict=True):
        said = dict(zip(headings, row, strict=True))
        assert said["map maximum"] == f"{answer.values.max():.4g}"
        assert method == "rollout" or said["entropy"] == f"{answer.numbers['entropy']:.4g}"


def test_in_words_they_are_one_line(seen: attnviz.Observation) -> None:
    explanation = attnviz.explain(seen)
    assert "\n" not in repr(explanation) + repr(seen)
    assert "attention from cls" in repr(explanation)
    assert "tiny" in repr(seen)


def test_an_observation_has_a_row_a_layer(seen: attnviz.Observation) -> None:
    page = _Page(seen._repr_html_())
    headings, *rows = page.rows
    assert headings[:3] == ["layer", "batch", "heads"]
    assert [row[:3] for row in rows] == [[str(n), "1", "8"] for n in range(6)]
    assert _Page(seen.without_run()._repr_html_()).rows[-1][-1] == rows[-1][-1]


def test_a_recording_has_a_row_a_call() -> None:
    attention = torch.nn.functional.scaled_dot_product_attention
    q, k, v = (torch.randn(2, 4, n, 8) for n in (5, 7, 7))
    with attnviz.record(calls=[0, 1, 3]) as recording:
        attention(q, k, v)
        attention(q, k, v, attn_mask=torch.ones(5, 7, dtype=torch.bool))
        attention(q, q, q)
        attention(q, q, q, is_causal=True, scale=0.5)
    page = _Page(recording._repr_html_())
    headings, *rows = page.rows
    said = [dict(zip(headings, row, strict=True)) for row in rows]
    assert [row["call"] for row in said] == ["0", "1", "2", "3"]
    assert [row["batch"] for row in said] == ["2", "2", "not kept", "2"]
    assert [row["queries × keys"] for row in said] == ["5 × 7", "5 × 7", "–", "5 × 5"]
    assert [row["bias"] for row in said] == [
        "–",
        "bias",
        "–",
        "causal",
    ]  # as the kernel is given it
    assert (said[0]["scale"], said[3]["scale"]) == ("0.3536", "0.5")
    assert float(said[0]["error of A·V"]) == pytest.approx(recording[0].check() or 0, rel=0.1)


def test_an_empty_recording_is_an_empty_table() -> None:
    assert len(_Page(attnviz.Recording()._repr_html_()).rows) == 1


def test_markup_escapes_what_it_is_given() -> None:
    text = markup.table("<b>", ["a & b"], [["<i>", 1.23456, None, 7, float("nan")]])
    assert _Page(text).rows == [["a & b"], ["<i>", "1.235", "–", "7", "–"]]
    assert "<b>" not in text
    assert "<i>" not in text
