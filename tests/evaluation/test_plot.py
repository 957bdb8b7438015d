"""What is drawn: which points, lines and bands, read back from the axes."""

import io
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from attnviz.evaluation.metric_plot import draw, plot
from attnviz.output.schema import EvaluationRow


def row(metric: dict[str, float | None], **place: Any) -> EvaluationRow:
    values = {
        name: None if mean is None else {"mean": mean, "low": mean - 0.1, "high": mean + 0.2}
        for name, mean in metric.items()
    }
    empty: dict[str, Any] = {"baseline": None, "method": None, "layer": None, "head": None}
    data = {"model": "m", "weights": "w", "pictures": 3, **empty, **place, "metrics": values}
    return EvaluationRow.model_validate(data)


def rows(layers: int) -> list[EvaluationRow]:
    made = []
    for layer in range(layers):
        of = {"method": "attention", "layer": layer}
        made += [
            row({"auc": 0.5 + layer / 10, "road": None}, head=0, **of),
            row({"auc": 0.6, "road": 0.1}, head="mean", **of),
            row({"auc": 0.4, "road": -0.1}, head="mean", baseline="random weights", **of),
        ]
    return [*made, row({"auc": 0.7, "road": 0.0}, baseline="gaussian")]


def panels(figure: Figure) -> dict[str, Any]:
    found = {ax.get_title(loc="left").split()[0]: ax for ax in figure.get_axes() if ax.axison}
    return dict(found)


def test_a_png_is_what_is_written() -> None:
    image = Image.open(io.BytesIO(plot(rows(2))))
    image.load()
    assert image.format == "PNG"
    assert len(np.unique(np.asarray(image.convert("L")))) > 50


def test_of_one_layer_every_map_is_listed() -> None:
    found = panels(draw(rows(1)))
    auc, road = found["auc"], found["road"]
    means = [
        float(line.get_xdata(orig=False)[0])
        for line in auc.get_lines()
        if len(line.get_xdata(orig=False)) == 1
    ]
    assert means == [0.5, 0.6, 0.4, 0.7]
    ends = [segment[:, 0] for bars in auc.collections for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[0.4, 0.7], [0.5, 0.8], [0.3, 0.6], [0.6, 0.9]])
    labels = [label.get_text() for label in auc.get_yticklabels()]
    assert labels == ["attention: head 0", "attention: mean of heads",
                      "attention, random weights: mean of heads", "gaussian"]  # fmt: skip
    assert auc.get_xlim()[0] == 0
    assert road.get_xlim()[0] < -0.2  # a negative number is not cut off


def test_of_several_layers_means_are_lines_and_baselines_bands() -> None:
    auc = panels(draw(rows(3)))["auc"]
    handles, labels = auc.get_legend_handles_labels()
    kinds = dict(zip(labels, handles, strict=True))
    assert set(kinds) == {"gaussian", "attention: mean of heads",
                          "attention, random weights: mean of heads"}  # fmt: skip
    np.testing.assert_allclose(kinds["attention: mean of heads"][0].get_ydata(orig=False), 0.6)
    np.testing.assert_allclose(kinds["gaussian"].get_ydata(orig=False), 0.7)
    heads = [line.get_xydata()[0] for line in auc.get_lines() if line.get_marker() == "."]
    np.testing.assert_allclose(heads, [(0, 0.5), (1, 0.6), (2, 0.7)])


def test_models_have_rows_of_panels_and_their_names() -> None:
    other = [each.model_copy(update={"model": "x" * 80}) for each in rows(1)]
    titles = [part.get_suptitle() for part in draw([*rows(1), *other]).subfigs]
    assert titles[0].startswith("m, 3 pictures")
    assert titles[2].startswith("…" + "x" * 39 + ", 3 pictures")
    assert len(titles) == 4  # two groups of metrics each
