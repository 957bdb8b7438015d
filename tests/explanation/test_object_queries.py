# mypy: disable-error-code="no-untyped-call,no-any-return"
"""Queries of detectors and segmenters: rows against eager attention, boxes against processors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import detectors
import numpy as np
import pictures
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import attnviz
from attnviz.errors import UsageError
from attnviz.output.make_record import make_record

transformers = pytest.importorskip("transformers")
SIZES = {"wide": (150, 60), "tall": (64, 130)}
COUNT = detectors.OBJECTS


class Detector:
    """A saved detector as attnviz loads it, and the same model with eager attention."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        detectors.save(transformers, name, folder)
        self.model = attnviz.load_model(str(folder))
        kind: Any = type(self.model.module.model)
        self.eager = kind.from_pretrained(folder, attn_implementation="eager").eval()

    def observed(self, size: tuple[int, int], **options: Any) -> Any:
        path = self.folder / f"{size[0]}x{size[1]}.png"
        pictures.noise(*size).save(path)
        return attnviz.observe(attnviz.load_image(path), self.model, **options)

    def output(self, seen: Any, **options: Any) -> Any:
        pixels = self.model.pixels(seen.picture, seen.placement)
        with torch.no_grad():
            return self.eager(pixel_values=pixels, **options)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Detector]:
    made: dict[str, Detector] = {}

    def get(name: str) -> Detector:
        if name not in made:
            made[name] = Detector(name, tmp_path_factory.mktemp("detector"))
        return made[name]

    return get


def crossing(output: Any) -> list[Tensor]:
    return list(output.cross_attentions)


def sampling(output: Any) -> list[Tensor]:
    """(1, objects, heads, levels, points) → (1, heads, objects, levels·points)."""
    return [weights.flatten(3).transpose(1, 2) for weights in output.cross_attentions]


def behind(output: Any) -> list[Tensor]:
    """YOLOS: a class token, patches, then objects."""
    return [weights[:, :, -COUNT:, 1:-COUNT] for weights in output.attentions]


def before(output: Any) -> list[Tensor]:
    """EoMT: in its last two layers objects, a class token, two registers, then patches."""
    return [weights[:, :, :COUNT, COUNT + 3 :] for weights in output.attentions[2:]]


DRAWN = {
    "DETR": crossing, "Conditional DETR": crossing, "DAB-DETR": crossing, "YOLOS": behind,
    "EoMT": before,
}  # fmt: skip
SAMPLED = ("Deformable DETR", "RT-DETR", "D-FINE")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DRAWN)
def test_the_map_of_each_object_is_its_row_of_eager_attention(
    name: str, size: str, detector: Callable[[str], Detector]
) -> None:
    its = detector(name)
    seen = its.observed(SIZES[size])
    expected = DRAWN[name](its.output(seen, output_attentions=True))
    asked = [f"object:{number}" for number in range(COUNT)]
    found = attnviz.explain(seen, query=asked, layers="all")
    assert len(found.layers) == len(expected)
    assert len(found.answers) == len(expected) * 4 * COUNT
    for answer in found.answers:
        weights = expected[found.layers.index(answer.layer)][0, answer.head, answer.question]
        assert np.abs(answer.values.ravel() - weights.numpy()).max() < 1e-5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SAMPLED)
def test_objects_of_deformable_attention_have_their_points(
    name: str, size: str, detector: Callable[[str], Detector]
) -> None:
    its = detector(name)
    seen = its.observed(SIZES[size])
    expected = sampling(its.output(seen, output_attentions=True))
    drawn = [
        n for n, layer in seen.layers.items() if layer.objects and layer.call.points is not None
    ]
    assert len(drawn) == len(expected)
    calls = ",".join(map(str, drawn))
    found = attnviz.explain(seen, query=[f"object:{n}" for n in range(COUNT)], layers=calls)
    assert any(answer.points for answer in found.answers)
    for answer in found.answers:
        number = answer.layer, answer.question, answer.head
        weights = expected[found.layers.index(answer.layer)][0, answer.head, answer.question]
        points = seen.layers[answer.layer].call.points[answer.question, answer.head]
        inside = points.reshape(-1, 2).isfinite().all(-1)  # others lie beyond the picture
        given = torch.tensor([point.weight for point in answer.points])
        ranked = weights[inside].sort(descending=True).values
        torch.testing.assert_close(given, ranked, atol=1e-5, rtol=0, msg=str(number))
        assert answer.values.sum() == pytest.approx(ranked.sum().item(), abs=1e-5)


@pytest.mark.parametrize("name", ["MaskFormer", "Mask2Former"])
def test_the_row_of_each_object_of_a_segmenter_is_that_of_its_cross_attention(
    name: str, detector: Callable[[str], Detector]
) -> None:
    """Neither returns the weights: they are taken from its modules."""
    its = detector(name)
    seen = its.observed(SIZES["wide"])
    expected: list[Tensor] = []

    def keep(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        weights = output[1]
        if isinstance(module, nn.MultiheadAttention):
            again = {**kwargs, "need_weights": True, "average_attn_weights": False}
            weights = module.forward(*args, **again)[1]
        expected.append(weights)

    endings = "encoder_attn", "cross_attn"
    for path, module in its.eager.named_modules():
        if path.endswith(endings):
            module.register_forward_hook(keep, with_kwargs=True)
    its.output(seen)
    found = attnviz.explain(seen, query=[f"object:{n}" for n in range(COUNT)], layers="all")
    assert len(found.layers) == len(expected) > 1
    for answer in found.answers:
        weights = expected[found.layers.index(answer.layer)][0, answer.head, answer.question]
        assert np.abs(answer.values.ravel() - weights.numpy()).max() < 1e-5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [*list(DRAWN)[:4], *SAMPLED])
def test_boxes_and_labels_are_those_of_the_processor(
    name: str, size: str, detector: Callable[[str], Detector]
) -> None:
    its = detector(name)
    seen = its.observed(SIZES[size])
    assert len(seen.objects) == COUNT
    processor = transformers.AutoImageProcessor.from_pretrained(its.folder, backend="pil")
    width, height = SIZES[size]
    (theirs,) = processor.post_process_object_detection(
        its.output(seen), threshold=0.0, target_sizes=[(height, width)]
    )
    found = list(zip(*(theirs[key].tolist() for key in ("scores", "labels", "boxes")), strict=True))
    few = min(score for score, _, _ in found)  # of some models, the best classes of all objects
    checked = [one for one in seen.objects if one.score >= few]
    assert checked
    for one in checked:
        same = [
            box
            for score, label, box in found
            if abs(score - one.score) < 1e-5 and detectors.LABELS[label] == one.label
        ]
        box = one.on_picture(seen.placement)
        assert any(np.abs(np.subtract(box, other)).max() < 0.01 for other in same)
        region = seen.region(one)
        assert region.box == box
        assert region.mask is None


@pytest.mark.parametrize("fit", ["pad", "crop", "squash"])
def test_padding_and_crop_are_undone(fit: str, detector: Callable[[str], Detector]) -> None:
    its = detector("DETR")
    seen = its.observed(SIZES["wide"], fit=fit)
    assert seen.placement.fit == fit
    grid, target, source = seen.placement.grid, seen.placement.target, seen.placement.source
    for one, (x, y, w, h) in zip(
        seen.objects, its.output(seen).pred_boxes[0].tolist(), strict=True
    ):
        left = source.left + ((x - w / 2) * grid.input_width - target.left) * (
            source.width / target.width
        )
        bottom = source.top + ((y + h / 2) * grid.input_height - target.top) * (
            source.height / target.height
        )
        assert one.on_picture(seen.placement)[0::3] == pytest.approx((left, bottom), abs=1e-3)


@pytest.mark.parametrize("name", ["MaskFormer", "Mask2Former"])
def test_masks_lie_where_the_model_puts_them(
    name: str, detector: Callable[[str], Detector]
) -> None:
    its = detector(name)
    seen = its.observed(SIZES["tall"])
    logits = its.output(seen).masks_queries_logits
    width, height = SIZES["tall"]
    expected = F.interpolate(logits, (height, width), mode="bilinear")[0] > 0
    for one, mask in zip(seen.objects, expected.numpy(), strict=True):
        region = seen.region(one)
        assert region.mask is not None
        assert (region.mask != mask).mean() < 0.002
        assert (region.box is None) == (not (logits[0, one.index] > 0).any())
        if region.box is not None and mask.any():
            rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
            sides = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            cell = max(height / logits.shape[2], width / logits.shape[3])
            assert np.abs(np.subtract(region.box, sides)).max() <= cell


def test_numbers_compare_the_map_with_the_box(detector: Callable[[str], Detector]) -> None:
    seen = detector("Conditional DETR").observed(SIZES["wide"])
    found = attnviz.explain(seen, query="object:2")
    record = make_record(found)
    box = seen.objects[2].on_picture(seen.placement)
    data = record.data()
    assert data["query"]["kind"] == "object"
    assert (data["query"]["index"], data["query"]["label"]) == (2, seen.objects[2].label)
    assert [data["query"][key] for key in ("x0", "y0", "x1", "y1")] == pytest.approx(box)
    width, height = SIZES["wide"]
    for answer, head in zip(found.answers, data["heads"], strict=True):
        rows, columns = answer.values.shape
        # A pixel of the picture has the weight of its cell, shared out.
        y, x = np.mgrid[: height * 10, : width * 10] / 10 + 0.05
        cell = (y * rows // height).astype(int), (x * columns // width).astype(int)
        density = answer.values[cell].astype(np.float64)
        inside = (box[0] <= x) & (x < box[2]) & (box[1] <= y) & (y < box[3])
        density /= density.sum()
        assert head["map"]["object_mass"] == pytest.approx(density[inside].sum(), abs=5e-3)
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        away = np.hypot((density * x).sum() - middle[0], (density * y).sum() - middle[1])
        assert head["map"]["object_distance"] == pytest.approx(away, abs=0.1)
        peak = head["map"]["peak_x"] - middle[0], head["map"]["peak_y"] - middle[1]
        assert head["map"]["object_peak_distance"] == pytest.approx(np.hypot(*peak), abs=1e-3)
    assert all(row["query_label"] == seen.objects[2].label for row in record.rows())


def test_without_a_query_objects_over_the_threshold_are_taken(
    detector: Callable[[str], Detector],
) -> None:
    seen = detector("RT-DETR").observed(SIZES["wide"])
    ranked = sorted(seen.objects, key=lambda one: -one.score)
    between = (ranked[1].score + ranked[2].score) / 2
    found = attnviz.explain(seen, threshold=between)
    assert [each.query.found for each in found.questions] == ranked[:2]
    alone = attnviz.explain(seen, threshold=1.0)  # nothing is over it
    assert [each.query.found for each in alone.questions] == ranked[:1]
    one = attnviz.explain(seen, threshold=0.0, one_object=True)
    assert [each.query.found for each in one.questions] == ranked[:1]
    assert attnviz.explain(seen, query="pool").query.kind == "pool"


def test_layers_without_objects_keep_their_own_query(detector: Callable[[str], Detector]) -> None:
    """A mean over object queries is never drawn unless it is asked for."""
    seen = detector("DETR").observed(SIZES["wide"])
    every = attnviz.explain(seen, layers="all")
    kinds = {answer.layer: answer.query.kind for answer in every.answers}
    assert kinds == {0: "mean", 1: "mean", 3: "object", 5: "object"}
    asked = attnviz.explain(seen, query="objects", threshold=0.0, layers="all")
    assert asked.layers == (3, 5)
    with pytest.raises(UsageError, match="layer 0 has no object queries"):
        attnviz.explain(seen, query="object:1", layers="0,5")


def test_what_is_not_there_is_named(detector: Callable[[str], Detector]) -> None:
    seen = detector("D-FINE").observed(SIZES["wide"])
    labels = {one.label for one in seen.objects}
    missing = next(label for label in (*detectors.LABELS.values(), "fox") if label not in labels)
    with pytest.raises(UsageError, match=r"there are .*; give one of these") as error:
        attnviz.explain(seen, query=f"object:{missing}")
    assert all(label in str(error.value) for label in labels)
    with pytest.raises(UsageError, match="has 5 object queries, object:0 to object:4"):
        attnviz.explain(seen, query="object:999")
    with pytest.raises(UsageError, match=r"threshold 1\.5 is no score: give 0 to 1"):
        attnviz.explain(seen, threshold=1.5)
    best = max(seen.objects, key=lambda one: one.score)
    with pytest.raises(UsageError, match="no object has a score over 1; the best is object:"):
        attnviz.explain(seen, query="objects", threshold=1.0)
    advice = "object:.* take --threshold 0"
    with pytest.raises(UsageError, match=advice):
        attnviz.explain(seen, query=f"object:{best.label}", threshold=1.0)
    upper = best.label.upper()
    assert attnviz.explain(seen, query=f"object:{upper}").query.found == best


OWN = '''
import torch
from torch import nn
from torch.nn import functional as F


class Own(nn.Module):
    """Objects stand between two other tokens and the patches, in each block."""

    labels = ["cat", "dog"]

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Conv2d(3, 16, 8, stride=8)
        self.extra = nn.Parameter(torch.randn(1, 5, 16))
        block = lambda: nn.ModuleList([nn.Linear(16, 48), nn.Linear(16, 16)])
        self.blocks = nn.ModuleList(block() for _ in range(2))
        self.classes, self.boxes = nn.Linear(16, 3), nn.Linear(16, 4)

    def forward(self, pixels):
        patches = self.embed(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.extra.expand(len(pixels), -1, -1), patches], 1)
        for qkv, out in self.blocks:
            q, k, v = qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
            x = x + out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        objects = x[:, 2:5]
        return {"pred_logits": self.classes(objects), "pred_boxes": self.boxes(objects).sigmoid()}


def make():
    return Own().eval()
'''


def test_objects_among_other_tokens_of_an_own_module_are_measured(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    pictures.noise(64, 48).save(tmp_path / "noise.png")
    model = attnviz.load_model(f"py:{tmp_path / 'own.py'}:make", patch=8, size=56)
    seen = attnviz.observe(attnviz.load_image(tmp_path / "noise.png"), model)
    assert {number: layer.objects for number, layer in seen.layers.items()} == {
        0: (2, 3, 4),
        1: (2, 3, 4),
    }
    with torch.no_grad():
        output = model.module(model.pixels(seen.picture, seen.placement))
    scores = output["pred_logits"][0].softmax(-1)[:, :-1].max(-1)
    assert [one.score for one in seen.objects] == pytest.approx(scores.values.tolist())
    assert [one.label for one in seen.objects] == [("cat", "dog")[n] for n in scores.indices]
    for number in range(3):
        found = attnviz.explain(seen, query=f"object:{number}")
        rows = seen.layers[1].call.matrix()[0, :, 2 + number, 5:]
        np.testing.assert_allclose(found.maps[0].reshape(2, -1), rows.numpy(), atol=1e-6)


def test_a_head_without_weights_predicts_nothing(tmp_path: Path) -> None:
    detectors.save(transformers, "YOLOS", tmp_path)
    file = tmp_path / "model.safetensors"
    state = {name: t for name, t in load_file(file).items() if "class_labels" not in name}
    save_file(state, file, {"format": "pt"})
    model = attnviz.load_model(str(tmp_path))
    assert any("it predicts no objects" in note for note in model.notes)
    pictures.noise(96, 64).save(tmp_path / "noise.png")
    seen = attnviz.observe(attnviz.load_image(tmp_path / "noise.png"), model)
    assert seen.objects == ()
    with pytest.raises(UsageError, match="this model predicts no objects"):
        attnviz.explain(seen, query="objects")


def test_an_encoder_with_as_many_tokens_as_objects_has_no_objects(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detectors.detr(transformers, "Detr", num_queries=15).save_pretrained(tmp_path)
    pictures.noise(150, 90).save(tmp_path / "noise.png")
    model = attnviz.load_model(str(tmp_path), size=125)
    seen = attnviz.observe(attnviz.load_image(tmp_path / "noise.png"), model)
    assert {layer.call.shape[2] for layer in seen.layers.values()} == {15}
    objects = {number: bool(layer.objects) for number, layer in seen.layers.items()}
    assert objects == {0: False, 1: False, 3: True, 5: True}


DECODER = OWN.replace('"""Objects stand', '"""A decoder. Objects stand').replace(
    "x = torch.cat([self.extra.expand(len(pixels), -1, -1), patches], 1)",
    "x = self.extra.expand(len(pixels), -1, -1)",
).replace(
    "q, k, v = qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)",
    "q, k, v = (qkv(y).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)[i]"
    " for i, y in enumerate((x, patches, patches)))",
)  # fmt: skip


def test_objects_among_other_queries_of_a_decoder_are_measured(tmp_path: Path) -> None:
    """Two of the five queries are no objects; those have no self-attention that mixes them."""
    (tmp_path / "own.py").write_text(DECODER)
    pictures.noise(64, 48).save(tmp_path / "noise.png")
    model = attnviz.load_model(f"py:{tmp_path / 'own.py'}:make", patch=8, size=56)
    seen = attnviz.observe(attnviz.load_image(tmp_path / "noise.png"), model)
    assert [layer.call.shape[2] for layer in seen.layers.values()] == [5, 5]
    assert [layer.objects for layer in seen.layers.values()] == [(2, 3, 4)] * 2


@pytest.mark.parametrize("name", ["DETR", "YOLOS"])
def test_the_score_of_an_object_is_the_logit_of_its_label(
    name: str, detector: Callable[[str], Detector]
) -> None:
    its = detector(name)
    seen = its.observed(SIZES["wide"], gradients=True)
    found = attnviz.explain(seen, query=["object:3", "object:1"], method="gradient-attention")
    output = its.eager(
        pixel_values=its.model.pixels(seen.picture, seen.placement), output_attentions=True
    )
    weights = (output.attentions if name == "YOLOS" else output.cross_attentions)[-1]
    for number, answer in zip((3, 1), found.answers, strict=True):
        label = seen.objects[number].label
        (index,) = [n for n, one in detectors.LABELS.items() if one == label]
        logit = output.logits[0, number, index]
        target = found.questions[answer.question].target
        assert target is not None
        assert target.value.item() == pytest.approx(logit.item(), abs=1e-4)
        (gradient,) = torch.autograd.grad(logit, weights, retain_graph=True)
        row = (gradient * weights).clamp(min=0).mean(1)[0].detach()
        row = row[-COUNT + number, 1:-COUNT] if name == "YOLOS" else row[number]
        assert np.abs(answer.values.ravel() - row.numpy()).max() < 1e-5
    norm = attnviz.explain(seen, query="object:3", method="gradient-attention", target="norm")
    assert norm.questions[0].target is not None
    assert norm.questions[0].target.target.kind == "norm"
    if name == "YOLOS":  # its objects are tokens among the others
        own = attnviz.explain(seen, query=["object:3", "object:1"], method="attribution")
        scores = [each.target.value.item() for each in own.questions if each.target is not None]
        logits = [each.target.value.item() for each in found.questions if each.target is not None]
        assert scores == pytest.approx(logits, abs=1e-4)
        assert not np.allclose(own.answers[0].values, own.answers[1].values)
