"""What a page holds, read by a decoder of its own, against what the observation says."""

from functools import cache
from pathlib import Path
from typing import Any

import explored
import numpy as np
import pytest
from page_decoder import Decoded

import attnviz
from attnviz import explore
from attnviz.output.make_record import make_record
from attnviz.page import page_weights

ENCODINGS = ("weights8", "keys16")


@cache
def decoded(name: str, encoding: str = "") -> tuple[attnviz.Observation, Decoded]:
    """An observation and its page, which is made with an encoding that can be forced."""
    with pytest.MonkeyPatch.context() as patch:
        if encoding:
            patch.setattr(page_weights, "smaller", lambda _: encoding)
        seen = explored.seen(name)
        return seen, Decoded(explore(seen).html)


def order(cells: np.ndarray[Any, Any]) -> list[int]:
    """Tokens of a window as the format says: those that lie nowhere, then cell by cell."""
    return sorted(range(len(cells)), key=lambda token: (max(int(cells[token]), -1), token))


def orders(layout: Any) -> np.ndarray[Any, Any]:
    """The same of all windows; several stay as they are."""
    if layout.windows > 1:
        return np.tile(np.arange(layout.cells.shape[1]), (layout.windows, 1))
    return np.array([order(layout.cells[0])])


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", explored.NAMES)
def test_every_row_is_what_call_rows_gives(name: str, encoding: str) -> None:
    seen, page = decoded(name, encoding)
    assert list(page.layers) == list(seen.layers)
    found = {entry["encoding"] for entry in page.layers.values()}
    if name in ("vit", "registers", "siglip", "tiny", "masked", "pixels"):
        assert found == {encoding}
    if name in ("swin", "beit"):
        assert found == {"weights8"}  # biases cannot be said by queries and keys
    for number, entry in page.layers.items():
        layer = seen.layers[number]
        queries, keys = orders(layer.queries), orders(layer.keys)
        drawn = np.append(page.drawn(entry, "keys").ravel(), False)
        part = page.taking_part(entry, "queries")
        rows = layer.call.rows(range(layer.call.shape[2])).double().cpu().numpy()
        for window, head, query in np.ndindex(rows.shape[:3]):
            if not part[window, query] or query % 5 > 0:
                continue
            expected = rows[window, head, queries[window, query], keys[window]]
            row = page.row(entry, window, head, query)
            outside = len(entry["keys"]["prefix"])
            seen_tokens = drawn[page.cells(entry, "keys")[window]]
            top = expected[seen_tokens].max(initial=0)
            if entry["encoding"] == "weights8":
                np.testing.assert_allclose(row[:outside], expected[:outside], rtol=1e-6)
                assert (
                    np.abs(row - expected)[seen_tokens].max(initial=0) <= top * 0.502 / 255 + 1e-30
                )
            else:
                large = expected > 1e-6 * expected.max()
                np.testing.assert_allclose(row[large], expected[large], rtol=1e-2)
                assert row[~large].max(initial=0) < 2e-6 * expected.max()


@pytest.mark.parametrize("name", explored.NAMES)
def test_received_and_mean_are_those_of_explain(name: str) -> None:
    seen, page = decoded(name)
    for number, entry in page.layers.items():
        asked = {"received": {"method": "received"}}
        if seen.layers[number].queries.on_picture.any():
            asked["mean"] = {"query": "mean"}
        assert asked.keys() == {"received", "mean"} & entry["parts"].keys()
        for part, question in asked.items():
            answers = attnviz.explain(seen, layers=str(number), **question).answers  # type: ignore[arg-type]
            values = page.part(entry, part)
            for head, answer in enumerate(answers):
                found = page.on_cells(entry, values[:, head])
                np.testing.assert_allclose(found, answer.values, rtol=1e-5, atol=1e-9)
                assert np.array_equal(page.drawn(entry, "keys"), answer.drawn)


@pytest.mark.parametrize("name", explored.NAMES)
def test_rollout_is_that_of_the_method(name: str) -> None:
    seen, page = decoded(name)
    if name in ("swin", "made up"):
        assert "layer" in page.about["rollout"]["why"]
        expected = {"swin": 0, "made up": 1}[name]
        assert len(page.rollouts) == expected
    else:
        assert list(page.rollouts) == list(page.layers)
        assert page.about["rollout"]["why"] is None
    for number, end in page.rollouts.items():
        side, placement = end["queries"], seen.placement
        rows, columns = side["rows"], side["columns"]
        kinds = {"class": "cls", "register 1": "register1", "pool": "pool"}
        asked = {i: kinds[n] for i, n in enumerate(side["prefix"]) if n in kinds}
        drawn = page.drawn(end, "queries")
        for row, column in [(0, 0), (rows - 1, columns // 2), (rows // 2, columns - 1)]:
            if rows and drawn[row, column]:
                x, y = placement.visible_centre(row, column)
                asked[len(side["prefix"]) + row * columns + column] = f"{x},{y}"
        assert asked
        for query, question in asked.items():
            (answer,) = attnviz.explain(
                seen, method="rollout", query=question, layers=str(number)
            ).answers
            found = page.on_cells(end, page.rolled(end, query)[None])
            others = answer.values.copy()
            if query >= len(side["prefix"]):
                others.flat[query - len(side["prefix"])] = 0
            limit = others[answer.drawn].max(initial=0) * 0.502 / 255 + 1e-6 * answer.values.max()
            assert np.abs(found - answer.values)[answer.drawn].max() <= limit


@pytest.mark.parametrize("name", ["vit", "swin", "masked", "made up"])
def test_numbers_are_those_of_the_record(name: str) -> None:
    seen, page = decoded(name)
    record = make_record(attnviz.explain(seen, layers="all")).data()
    names = [name for name, _ in page.about["statistics"]]
    for head in record["heads"]:
        entry = page.layers[head["layer"]]
        found = entry["numbers"][entry["heads"].index(head["head"])]
        for number, value in zip(names, found, strict=True):
            assert value == (head[number] and pytest.approx(head[number], rel=1e-6))
    found = page.about["model"]
    assert found == {**record["model"], "spec": found["spec"]}
    assert found["spec"] == Path(record["model"]["spec"]).name
    assert page.about["check"] == record["check"]
    assert page.about["image"] == record["image"]


@pytest.mark.parametrize("name", ["vit", "swin", "padded", "cropped", "made up"])
def test_cells_lie_where_their_tokens_lie(name: str) -> None:
    seen, page = decoded(name)
    for number, entry in page.layers.items():
        for role in ("queries", "keys"):
            side, layout = entry[role], getattr(seen.layers[number], role)
            assert (side["windows"], side["tokens"]) == layout.cells.shape
            if not layout.on_picture.any():
                assert (side["rows"], side["columns"]) == (0, 0)
                continue
            for row, column in np.ndindex(side["rows"], side["columns"]):
                box = seen.placed(layout).token_box(row, column)
                found = [side["edges_x"][column], side["edges_y"][row],
                         side["edges_x"][column + 1], side["edges_y"][row + 1]]  # fmt: skip
                np.testing.assert_allclose(found, box, atol=1e-3)


def test_tokens_that_lie_nowhere_are_named() -> None:
    names = {
        "vit": ["class"],
        "registers": ["class", "register 0", "register 1", "register 2", "register 3"],
        "siglip": [],
        "swin": [],
    }
    for name, prefix in names.items():
        _, page = decoded(name)
        assert page.layers[0]["queries"]["prefix"] == page.layers[0]["keys"]["prefix"] == prefix
    _, page = decoded("siglip")
    assert page.layers[3]["queries"]["prefix"] == ["pool"]
    _, page = decoded("made up")
    assert page.layers[6]["keys"]["prefix"] == ["register 0", "other 0", "other 1", "other 2"]


def test_some_heads_of_some_layers() -> None:
    seen = explored.seen("vit")
    page = Decoded(explore(seen, layers="-1,0", heads="1,3").html)
    assert [(n, e["heads"], e["of"]) for n, e in page.layers.items()] == [
        (0, [1, 3], 4),
        (2, [1, 3], 4),
    ]
    expected = seen.layers[2].call.rows([7])[0, 3, 0].numpy()
    assert np.abs(page.row(page.layers[2], 0, 1, 7) - expected).max() <= expected.max() / 255
    assert list(page.rollouts) == [0, 2]
