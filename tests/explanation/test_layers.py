"""Layers of every kind against their whole matrix, stitched by hand in float64."""

import csv
import io
import itertools
from pathlib import Path

import layers
import numpy as np
import oracle
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import attnviz
from attnviz.cli.table import stats_tables
from attnviz.drawing.overlay import colour_table
from attnviz.errors import UsageError
from attnviz.explanation.layers import Layer
from attnviz.geometry.grid import Layout
from attnviz.output import encoding
from attnviz.output.make_record import make_record
from attnviz.output.write_pictures import write_maps, write_pictures
from attnviz.statistics.maps import describe

KINDS = list(layers.one_of_each())
WIDTH, HEIGHT = 192, 128
EVERYTHING = np.ones((8, 12), dtype=np.bool_)
Weights = NDArray[np.float64]


def stitched(layer: Layer) -> Weights:
    """A (H, all queries, all keys)."""
    call = layer.call
    assert call.bias is not None
    q, k, bias = (x.double().numpy() for x in (call.query, call.key, call.bias))
    rows = [
        oracle.attention(*each[:2], call.scale, each[2]) for each in zip(q, k, bias, strict=True)
    ]
    return oracle.stitch(np.array(rows))


def centres(layout: Layout) -> Weights:
    """Centres of cells in input pixels, by hand."""
    height, width = 64 / layout.rows, 96 / layout.columns
    return np.array(
        [
            ((x + 0.5) * width, (y + 0.5) * height)
            for y in range(layout.rows)
            for x in range(layout.columns)
        ]
    )


def parts(layer: Layer, part: NDArray[np.bool_]) -> tuple[list[bool], list[bool]]:
    """Who takes part, where the mask is one of the layer's own cells."""
    sides = (layer.queries.cells, layer.keys.cells)
    of = [[bool(cell < 0 or part.flat[cell]) for cell in cells.ravel()] for cells in sides]
    return of[0], of[1]


def statistics_by_hand(layer: Layer, part: NDArray[np.bool_]) -> dict[str, list[float]]:
    return oracle.layer_statistics(
        stitched(layer),
        (layer.queries.cells.ravel().tolist(), layer.keys.cells.ravel().tolist()),
        (centres(layer.queries), centres(layer.keys)),
        parts(layer, part),
        layer.keys.windows,
    )


def region(query: str, folder: Path) -> tuple[str, NDArray[np.bool_]]:
    """A query as it is typed, and the pixels that it means."""
    pixels = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    if query == "mask":
        image = Image.new("L", (WIDTH, HEIGHT))
        ImageDraw.Draw(image).ellipse((30, 20, 150, 90), fill=255)
        image.save(folder / "mask.png")
        return str(folder / "mask.png"), np.asarray(image) > 127
    if query == "mean":
        return query, ~pixels
    numbers = [int(n) for n in query.split(",")]
    left, top, right, bottom = (
        numbers if len(numbers) == 4 else [*numbers, *(n + 1 for n in numbers)]
    )
    pixels[top:bottom, left:right] = True
    return query, pixels


def weights_by_hand(layer: Layer, pixels: NDArray[np.bool_], part: NDArray[np.bool_]) -> Weights:
    """Weights over all queries: every pixel asks the token that it lies in."""
    layout = layer.queries
    cells = layout.cells.ravel().tolist()
    weights: Weights = np.zeros(len(cells))
    for y, x in np.argwhere(pixels):
        cell = (y * layout.rows // HEIGHT) * layout.columns + x * layout.columns // WIDTH
        if part.flat[cell]:
            weights[cells.index(cell)] += 1
    weights /= weights.sum()
    return weights


def map_by_hand(layer: Layer, weights: Weights) -> Weights:
    """(heads, rows, columns) of the keys' picture."""
    layout = layer.keys
    received = np.einsum("i,hij->hj", weights, stitched(layer))
    found = np.zeros((len(received), layout.rows * layout.columns))
    for j, cell in enumerate(layout.cells.ravel()):
        if cell >= 0:
            found[:, cell] += received[:, j]
    return found.reshape(-1, layout.rows, layout.columns)


def check_map(answer: attnviz.Answer, expected: Weights, heaviest: tuple[float, float]) -> None:
    np.testing.assert_allclose(answer.values, expected, atol=1e-6)
    found = describe(answer.values, answer.drawn, answer.placement)
    assert (found.peak_x, found.peak_y) == pytest.approx(heaviest)


def peak_by_hand(values: Weights) -> tuple[float, float]:
    """Centre of the heaviest cell in picture pixels."""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    rows, columns = values.shape
    return (column + 0.5) * WIDTH / columns, (row + 0.5) * HEIGHT / rows


@pytest.mark.parametrize("kind", KINDS)
def test_every_statistic_is_that_of_the_stitched_matrix(kind: str) -> None:
    layer = layers.one_of_each()[kind]
    expected = statistics_by_hand(layer, EVERYTHING)
    seen = layers.observation(layer)
    assert not seen.unexplained
    for answer in attnviz.explain(seen).answers:
        for name, values in expected.items():
            value = values[answer.head or 0]
            assert answer.numbers[name] == pytest.approx(value, rel=1e-5, abs=2e-6, nan_ok=True), (
                name
            )


@pytest.mark.parametrize(
    ("kind", "query"),
    list(
        itertools.product(
            [kind for kind in KINDS if kind != "pool"],
            ["mean", "40,30", "191,127", "0,64", "20,10,90,70", "mask"],
        )
    ),
)
def test_every_map_and_its_peak_are_those_of_the_stitched_matrix(
    kind: str, query: str, tmp_path: Path
) -> None:
    layer = layers.one_of_each()[kind]
    typed, pixels = region(query, tmp_path)
    expected = map_by_hand(layer, weights_by_hand(layer, pixels, EVERYTHING))
    answers = attnviz.explain(layers.observation(layer), query=typed).answers
    assert len(answers) == layer.call.heads
    for answer in answers:
        values = expected[answer.head]
        check_map(answer, values, peak_by_hand(values))


def test_the_map_of_a_pool_is_its_rows() -> None:
    layer = layers.one_of_each()["pool"]
    expected = stitched(layer)[:, 0].reshape(-1, 8, 12)
    for query in ("auto", "pool"):
        found = attnviz.explain(layers.observation(layer), query=query)
        assert found.query.kind == "pool"
        for answer in found.answers:
            check_map(answer, expected[answer.head], peak_by_hand(expected[answer.head]))


def test_masked_cells_count_nowhere_in_windows_either() -> None:
    part = np.random.default_rng(3).random((8, 12)) < 0.7
    cells = layers.windows(8, 12, side=4, shift=2)
    layer = layers.layer((8, 12, cells), (8, 12, cells), part=part)
    found = attnviz.explain(layers.observation(layer, part=part), query="20,10,90,70")
    expected = statistics_by_hand(layer, part)
    _, pixels = region("20,10,90,70", Path())
    maps = map_by_hand(layer, weights_by_hand(layer, pixels, part))
    for answer in found.answers:
        for name, values in expected.items():
            assert answer.numbers[name] == pytest.approx(
                values[answer.head or 0], rel=1e-5, abs=2e-6
            )
        np.testing.assert_allclose(answer.values, maps[answer.head], atol=1e-6)
        assert (answer.drawn == part).all()


@pytest.mark.parametrize("kind", ["windows", "shifted", "padded"])
def test_the_map_of_a_point_lies_in_the_window_of_its_token(kind: str) -> None:
    layer = layers.one_of_each()[kind]
    rows, columns = layer.queries.rows, layer.queries.columns
    seen = layers.observation(layer)
    for row, column in np.ndindex(rows, columns):
        x, y = (2 * column + 1) * WIDTH // (2 * columns), (2 * row + 1) * HEIGHT // (2 * rows)
        own = next(each for each in layer.keys.cells if row * columns + column in each)
        allowed = np.isin(layers.grid(rows, columns), own[own >= 0])
        for answer in attnviz.explain(seen, query=f"{x},{y}").answers:
            assert (answer.values[~allowed] == 0).all()
            assert answer.values[allowed].sum() > 0


def test_the_class_token_of_a_layer_is_its_first() -> None:
    behind = layers.one_of_each()["behind"]
    found = attnviz.explain(layers.observation(behind, class_token=True))
    assert found.query.kind == "cls"
    expected = stitched(behind)[:, 0, 1:97].reshape(-1, 8, 12)
    for answer in found.answers:
        np.testing.assert_allclose(answer.values, expected[answer.head], atol=1e-6)
    with pytest.raises(UsageError, match="layer 0 has no class token"):
        attnviz.explain(layers.observation(behind), query="cls")


def test_auto_is_asked_of_each_layer_as_it_is() -> None:
    kinds = layers.one_of_each()
    seen = layers.observation(
        kinds["behind"], kinds["windows"], kinds["pool"], kinds["plain"], class_token=True
    )
    found = attnviz.explain(seen, layers="0-2")
    assert [answers[0].query.kind for answers in found.by_layer.values()] == ["cls", "mean", "pool"]
    assert found.query.kind == "pool"
    assert attnviz.explain(seen).query.kind == "mean"


@pytest.mark.parametrize("query", ["mean", "40,30", "1,2,30,40"])
def test_a_place_asked_of_a_pool_is_refused_with_what_to_type(query: str) -> None:
    kinds = layers.one_of_each()
    seen = layers.observation(kinds["plain"], kinds["pool"])
    for which in ("all", "-1"):
        with pytest.raises(UsageError, match=r"layer 1 has no query on the picture.*--query auto"):
            attnviz.explain(seen, query=query, layers=which)
    assert attnviz.explain(seen, query=query, layers="0").answers
    for word in ("pool", "cls"):
        with pytest.raises(UsageError, match=r"layer 0 .*take --query auto, or other --layers"):
            attnviz.explain(seen, query=word, layers="all")


def test_heads_are_counted_in_each_layer() -> None:
    kinds = layers.one_of_each()
    seen = layers.observation(kinds["plain"], kinds["windows"], kinds["pool"])  # 3, 2, 4 heads
    found = attnviz.explain(seen, layers="all", heads="2")
    assert [(answer.layer, answer.head) for answer in found.answers] == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1),
    ]  # fmt: skip
    assert attnviz.explain(seen, layers="all").heads == (0, 1, 2, 3)
    assert len(attnviz.explain(seen, layers="2,0", heads="0,2").answers) == 4
    for heads in ("3", "0,2"):
        with pytest.raises(UsageError, match="--heads: layer 1 has 2 heads, numbered 0 to 1"):
            attnviz.explain(seen, layers="all", heads=heads)


def test_maps_are_one_array_where_layers_are_alike() -> None:
    kinds = layers.one_of_each()
    seen = layers.observation(kinds["windows"], kinds["shifted"], kinds["pyramid"])
    found = attnviz.explain(seen, layers="0,1")
    assert found.maps.shape == (2, 2, 8, 12)
    assert found.numbers["entropy"].shape == (2, 2)
    assert (found.maps[1, 0] == found.answers[2].values).all()
    assert found.numbers["entropy"][1, 0] == np.float32(found.answers[2].numbers["entropy"])
    differing = attnviz.explain(seen, layers="all", heads="2")
    with pytest.raises(UsageError, match="take the maps from `answers`, or --layers"):
        _ = differing.maps
    assert differing.numbers["entropy"].shape == (3, 2)
    with pytest.raises(UsageError, match="take the numbers from `answers`"):
        _ = attnviz.explain(seen, layers="all").numbers


def test_cells_that_are_no_squares_lie_where_they_are() -> None:
    odd = layers.layer(
        (4, 4, layers.grid(4, 4).reshape(1, -1)), (8, 12, layers.grid(8, 12).reshape(1, -1))
    )
    seen = layers.observation(layers.one_of_each()["plain"], odd)
    assert attnviz.explain(seen, layers="0").answers
    assert attnviz.explain(seen).answers[0].placement.grid.rows == 8
    grid = seen.placed(odd.queries).grid
    assert (grid.rows, grid.columns, grid.cell_width, grid.cell_height) == (4, 4, 24, 16)


def test_progress_runs_over_all_layers() -> None:
    kinds = layers.one_of_each()
    told: list[tuple[int, int]] = []
    seen = layers.observation(*kinds.values())
    rows = sum(layer.queries.cells.size for layer in kinds.values())
    attnviz.explain(seen, layers="all", progress=lambda done, of: told.append((done, of)))
    assert told == sorted(set(told))
    assert told[-1] == (rows, rows)


def test_the_limit_of_the_check_is_that_of_the_recorded_call() -> None:
    plain = layers.one_of_each()["plain"]
    call = plain.call
    assert call.output is not None
    near = attnviz.AttentionCall(
        call.query, call.key, call.value, call.scale, bias=call.bias, output=call.output * 1.005
    )
    half = attnviz.AttentionCall(
        call.query.bfloat16().float().bfloat16(), call.key, call.value, call.scale,
        bias=call.bias, output=None,
    )  # fmt: skip
    matrix = attnviz.AttentionCall(half.query.float(), half.key, half.value, half.scale, half.bias)
    half = attnviz.AttentionCall(
        half.query, half.key, half.value, half.scale, bias=half.bias,
        output=1.005 * (matrix.matrix() @ half.value),
    )  # fmt: skip
    calls = [Layer(each, plain.queries, plain.keys) for each in (call, near, half)]
    assert layers.observation(*calls).unexplained == (1,)


def several() -> attnviz.Explanation:
    """Layers of 3, 2 and 4 heads on two grids, the last a pool."""
    kinds = layers.one_of_each()
    seen = layers.observation(kinds["pyramid"], kinds["windows"], kinds["pool"])
    return attnviz.explain(seen, layers="all")


def test_the_record_tells_grid_and_query_of_each_head() -> None:
    found = several()
    record = make_record(found)
    data = record.data()
    assert data["model"] | {"layers": 3, "heads": 4, "features": None} == data["model"]
    assert (data["tokens"]["rows"], data["tokens"]["columns"]) == (8, 12)
    assert data["query"] == {"kind": "pool"}
    told = [(head["layer"], head["rows"], head["columns"]) for head in data["heads"]]
    assert told == [(0, 4, 6)] * 3 + [(1, 8, 12)] * 2 + [(2, 8, 12)] * 4
    assert [head.get("query") for head in data["heads"]] == [{"kind": "mean"}] * 5 + [None] * 4
    assert [head["distance_px"] is None for head in data["heads"]] == [False] * 5 + [True] * 4
    rows = list(csv.DictReader(io.StringIO(encoding.as_csv(record.rows()))))
    assert [row["query_kind"] for row in rows] == ["mean"] * 5 + ["pool"] * 4
    title = str(stats_tables(record)[0].title)
    assert "6x4, 12x8 patches  attention from mean, pool" in title


def test_all_files_are_written_where_layers_differ(tmp_path: Path) -> None:
    found = several()
    record, paths, sheet = write_pictures(found, tmp_path, attnviz.Drawing(scale="layer"))
    assert [head.file for head in record.heads] == [path.name for path in paths[:9]]
    overlays = attnviz.render(found)
    assert set(overlays) == {(answer.layer, answer.head) for answer in found.answers}
    assert all(image.size == (WIDTH, HEIGHT) for image in overlays.values())
    for answer, head in zip(found.answers, record.heads, strict=True):
        own = np.concatenate([other.values.ravel() for other in found.by_layer[answer.layer]])
        assert head.scale is not None
        span = head.scale.minimum, head.scale.maximum
        assert span == pytest.approx((own.min(), own.max()), rel=1e-6)
    assert sheet.width > 4 * 256
    with np.load(write_maps(found, tmp_path)) as arrays:
        assert arrays["layers"].tolist() == [0, 1, 2]
        shapes = [arrays[f"layer0{layer}"].shape for layer in range(3)]
        assert shapes == [(3, 4, 6), (2, 8, 12), (4, 8, 12)]
        assert (arrays["layer01"][1] == found.by_layer[1][1].values).all()
        assert arrays["layer01_heads"].tolist() == [0, 1]
        assert arrays["layer00_drawn"].shape == (4, 6)


def test_each_layer_has_a_row_of_the_sheet(tmp_path: Path) -> None:
    """Found by the colour bars, of which each row has one for each head."""
    _, _, sheet = write_pictures(several(), tmp_path, attnviz.Drawing())
    brightest = (np.asarray(sheet) == colour_table("viridis")[-1]).all(-1)
    lines = np.flatnonzero(brightest.any(1))
    runs = np.split(lines, np.flatnonzero(np.diff(lines) > 1) + 1)
    bars = [rows for rows in runs if len(rows) == 8]
    ends = [int((np.diff(brightest[rows[0]].astype(int)) == 1).sum()) for rows in bars]
    assert ends == [3, 2, 4]
