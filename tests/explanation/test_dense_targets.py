# mypy: disable-error-code="no-untyped-call,no-any-return"
"""Scores of places and of objects, held to autograd on the models of transformers themselves."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import detectors
import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import attnviz
from attnviz.cli import main
from attnviz.errors import AttnvizError, UsageError
from attnviz.explanation.request import Questions, check, look
from attnviz.explanation.score_gradients import score_of
from attnviz.models import resolve_target, targets
from attnviz.models.own import describe_in_training

transformers = pytest.importorskip("transformers")
CAT = Path(__file__).parents[2] / "sample_images" / "cat.jpg"
NAMES = {0: "road", 1: "sky", 2: "blue mug"}
PLAIN = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
    "patch_size": 8, "image_size": 64,
}  # fmt: skip
NECK = {
    "neck_hidden_sizes": [8] * 4, "backbone_out_indices": [0, 1, 2, 3], "fusion_hidden_size": 16,
    "reassemble_factors": [4, 2, 1, 0.5],
}  # fmt: skip


def segformer() -> Any:
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=16, id2label=NAMES,
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config)


def depth() -> Any:
    return transformers.DPTForDepthEstimation(transformers.DPTConfig(**PLAIN, **NECK))


def dpt() -> Any:
    config = transformers.DPTConfig(**PLAIN, **NECK, id2label=NAMES)
    return transformers.DPTForSemanticSegmentation(config)


def beit() -> Any:
    config = transformers.BeitConfig(
        **PLAIN, out_indices=[1, 2, 3, 4], pool_scales=[1, 2], id2label=NAMES
    )
    return transformers.BeitForSemanticSegmentation(config)


def upernet() -> Any:
    config = transformers.UperNetConfig(
        backbone_config=detectors.swin(transformers), hidden_size=16, pool_scales=[1, 2],
        auxiliary_in_channels=48, id2label=NAMES,
    )  # fmt: skip
    return transformers.UperNetForSemanticSegmentation(config)


BUILT: dict[str, Callable[[], Any]] = {
    "Segformer": segformer, "depth": depth, "DPT": dpt, "BEiT": beit, "UperNet": upernet,
}  # fmt: skip
OF_OBJECTS = ("MaskFormer", "Mask2Former", "YOLOS")


@cache
def folder(name: str, root: Path) -> Path:
    """A checkpoint with weights that make scores differ from place to place."""
    if name in OF_OBJECTS:
        detectors.save(transformers, name, root / name)
        return root / name
    torch.manual_seed(0)
    model = BUILT[name]().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        for part in model.modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(part.weight, generator=generator)
        if name == "depth":
            model.head.head[-2].bias.fill_(9.0)  # the ReLU behind it lets all through
    model.save_pretrained(root / name)
    return root / name


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dense")


@cache
def seen(name: str, root: Path) -> attnviz.Observation:
    model = attnviz.load_model(str(folder(name, root)), head="dense")
    model = replace(model, module=model.module.double(), dtype=torch.float64)  # less is rounded
    picture = attnviz.load_image(CAT)
    return attnviz.observe(picture, model, layers="all", gradients=True, tokens=True)


def own(name: str, root: Path) -> tuple[Any, Tensor, Any]:
    """The model of transformers with eager attention, the pixels and its output."""
    kind: Any = type(seen(name, root).model.module.model)
    model = kind.from_pretrained(folder(name, root), attn_implementation="eager")
    model = model.double().eval()
    run = seen(name, root).run
    assert run is not None
    pixels = run.inputs[0].detach().clone().requires_grad_()
    return model, pixels, model(pixels, output_attentions=name not in ("UperNet", *OF_OBJECTS))


def scores(name: str, output: Any) -> Tensor:
    """(classes, h, w), as the model's own post-processing has them."""
    if name == "depth":
        return output.predicted_depth
    if name not in OF_OBJECTS:
        return output.logits[0]
    sure = output.class_queries_logits.softmax(-1)[0, :, :-1]
    masks = output.masks_queries_logits[0].sigmoid()
    return (sure[:, :, None, None] * masks[:, None]).sum(0)


def at(name: str, root: Path, of_class: int, point: tuple[int, int], values: Tensor) -> Tensor:
    """The score of a class in the cell that holds a pixel of the picture."""
    (x, y), place = point, seen(name, root).placement
    left, top, right, bottom = place.source
    across = (x + 0.5 - left) / (right - left) * place.grid.input_width
    down = (y + 0.5 - top) / (bottom - top) * place.grid.input_height
    _, rows, columns = values.shape
    row = math.floor(down / place.grid.input_height * rows)
    return values[of_class, row, math.floor(across / place.grid.input_width * columns)]


@pytest.mark.parametrize("name", [*BUILT, "MaskFormer", "Mask2Former"])
def test_the_score_of_a_pixel_and_its_gradient_are_those_of_autograd(name: str, root: Path) -> None:
    observation = seen(name, root)
    _, pixels, output = own(name, root)
    values = scores(name, output)
    of_class = 0 if name == "depth" else 2
    asked = "pixel:300,120" if name == "depth" else "class:blue mug@300,120"
    expected = at(name, root, of_class, (300, 120), values)
    assert observation.run is not None
    target = resolve_target.resolve(observation.model, targets.parse(asked))
    with torch.enable_grad():
        found = score_of(observation, observation.run.output, target).value
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)
    own_pixels = observation.run.inputs[0]
    (gradient,) = torch.autograd.grad(found, [own_pixels], retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, [pixels])
    assert wanted.any()
    assert float((gradient - wanted).norm()) <= 1e-5 * float(wanted.norm())


@pytest.mark.parametrize("name", ["Segformer", "DPT", "depth"])
def test_maps_are_those_of_eager_attention_and_autograd(name: str, root: Path) -> None:
    asked = "pixel:300,120" if name == "depth" else "class:sky@300,120"
    _, _, output = own(name, root)
    score = at(name, root, 0 if name == "depth" else 1, (300, 120), scores(name, output))
    weights = output.attentions[-1]
    (gradient,) = torch.autograd.grad(score, [weights])
    kept = (weights * gradient).relu().mean(1)[0]
    row = kept.mean(0) if name == "Segformer" else kept[0, 1:]
    found = attnviz.explain(
        seen(name, root), method="gradient-attention", target=asked,
        query="mean" if name == "Segformer" else "cls",
    )  # fmt: skip
    expected = row.detach().reshape(found.maps.shape[2:]).numpy()
    assert expected.max() > 0
    np.testing.assert_allclose(found.maps[0, 0], expected, atol=1e-5 * expected.max())


def test_a_mask_is_the_mean_over_what_its_cells_hold(root: Path, tmp_path: Path) -> None:
    observation = seen("Segformer", root)
    _, _, output = own("Segformer", root)
    width, height = observation.picture.width, observation.picture.height
    mask = np.zeros((height, width), np.uint8)
    mask[30:111, 71:300] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    values = scores("Segformer", output)[0].detach().double()
    # each pixel has the score of its cell; `keep` shows the whole picture
    rows, columns = values.shape
    fine = 8
    down = np.repeat(np.arange(height * fine) * rows // (height * fine), 1)
    across = np.arange(width * fine) * columns // (width * fine)
    large = values.numpy()[down][:, across]
    expected = large[30 * fine : 111 * fine, 71 * fine : 300 * fine].mean()
    for asked in (f"class:road@{tmp_path / 'mask.png'}", "class:road@71,30,300,111"):
        found = attnviz.explain(observation, method="gradient-attention", target=asked)
        assert found.questions[0].target is not None
        assert float(found.questions[0].target.value) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    whole = attnviz.explain(observation, method="gradient-attention", target="class:road")
    assert whole.questions[0].target is not None
    assert float(whole.questions[0].target.value) == pytest.approx(float(values.mean()), rel=1e-4)


def test_a_pixel_alone_is_of_the_class_that_wins_there(root: Path) -> None:
    observation = seen("DPT", root)
    _, _, output = own("DPT", root)
    place = [at("DPT", root, k, (110, 40), scores("DPT", output)) for k in range(3)]
    best = int(torch.stack(place).argmax())
    found = attnviz.explain(observation, method="relevance", target="pixel:110,40")
    assert found.questions[0].target is not None
    assert found.questions[0].target.target.index == best
    assert found.questions[0].target.target.label == NAMES[best]
    named = attnviz.explain(observation, method="relevance", target=f"class:{best}@110,40")
    np.testing.assert_array_equal(found.maps, named.maps)
    elsewhere = attnviz.explain(observation, method="relevance", target="pixel:380,200")
    assert np.abs(found.maps - elsewhere.maps).max() > 0.01 * np.abs(found.maps).max()


@pytest.mark.parametrize("way", ["1", "rest"])
def test_a_class_of_a_place_is_compared_with_others_there(way: str, root: Path) -> None:
    observation = seen("DPT", root)
    _, _, output = own("DPT", root)
    each = [at("DPT", root, k, (200, 90), scores("DPT", output)) for k in range(3)]
    expected = each[0] - (each[1] if way == "1" else (each[1] + each[2]) / 2)
    found = attnviz.explain(
        observation, method="gradient-attention", target="class:road@200,90", against=way
    )
    assert found.questions[0].target is not None
    assert float(found.questions[0].target.value) == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("method", ["legrad", "attnlrp", "grad-cam", "integrated-gradients"])
def test_methods_that_run_again_take_the_same_score(method: str, root: Path) -> None:
    one = attnviz.explain(seen("DPT", root), method=method, target="class:road@100,60")
    two = attnviz.explain(seen("DPT", root), method=method, target="class:road@380,250")
    assert np.isfinite(one.maps).all()
    assert one.maps.any()
    assert np.abs(one.maps - two.maps).max() > 0.01 * np.abs(one.maps).max()


@pytest.mark.parametrize("name", ["YOLOS", "MaskFormer"])
def test_an_object_has_the_logit_of_its_label(name: str, root: Path) -> None:
    observation = seen(name, root)
    _, _, output = own(name, root)
    logits = (output.logits if name == "YOLOS" else output.class_queries_logits)[0, 3, :3].detach()
    label = int(logits.argmax())
    found = attnviz.explain(observation, method="gradient-attention", target="object:3")
    question = found.questions[0]
    assert question.target is not None
    assert question.query.found is not None  # the map looks from the object itself
    assert question.query.found.index == 3
    assert float(question.target.value) == pytest.approx(float(logits[label]), rel=1e-4)
    from_it = attnviz.explain(observation, method="gradient-attention", query="object:3")
    np.testing.assert_array_equal(found.maps, from_it.maps)
    less = attnviz.explain(
        observation, method="gradient-attention", target="object:3", against="rest"
    )
    assert less.questions[0].target is not None
    others = (logits.sum() - logits[label]) / 2
    assert float(less.questions[0].target.value) == pytest.approx(
        float(logits[label] - others), rel=1e-4
    )


def test_other_methods_take_the_score_of_an_object(root: Path) -> None:
    observation = seen("YOLOS", root)
    maps = [
        attnviz.explain(observation, method="grad-cam", target=f"object:{n}").maps for n in (0, 3)
    ]
    assert not np.allclose(maps[0], maps[1])


def test_objects_are_smoothed_by_noise_alone(root: Path) -> None:
    observation = seen("YOLOS", root)
    request: Any = {"method": "gradient-attention", "query": "object:3"}
    plain = attnviz.explain(observation, **request)
    noisy = attnviz.explain(observation, **request, smooth="noise:1", sigma=1e-6)
    np.testing.assert_allclose(noisy.maps, plain.maps, atol=1e-3 * plain.maps.max())
    with pytest.raises(UsageError, match="has object queries of its own; take --smooth noise:N"):
        attnviz.explain(observation, **request, smooth="flips")


def test_your_own_module_may_return_a_score_of_each_place() -> None:
    class Net(nn.Module):
        labels = ("road", "sky")

        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 16, 16, 16)
            self.attend = nn.MultiheadAttention(16, 4, batch_first=True)
            self.head = nn.Conv2d(16, 2, 1)

        def forward(self, pixels: Tensor) -> dict[str, Tensor]:
            x = self.patch(pixels)
            tokens = x.flatten(2).transpose(1, 2)
            tokens = self.attend(tokens, tokens, tokens)[0]
            return {"out": self.head(tokens.transpose(1, 2).reshape(x.shape))}

    torch.manual_seed(1)
    model = describe_in_training(Net().eval(), shape=(64, 96))
    observation = attnviz.observe(attnviz.load_image(CAT), model, gradients=True)
    found = attnviz.explain(observation, method="gradient-attention", target="class:sky@100,100")
    assert found.questions[0].target is not None
    assert found.questions[0].target.target.label == "sky"
    with pytest.raises(UsageError, match="'skye' is no label of this model; give one of road, sky"):
        attnviz.explain(observation, method="relevance", target="class:skye@100,100")


@pytest.mark.parametrize(
    ("name", "target", "against", "told"),
    [
        ("DPT", "class:rod@3,3", (), "'rod' is no label of this model; give one of road, sky"),
        ("DPT", "class:7@100,60", (), "has 3 classes; give 0 to 2"),
        ("DPT", "class:road@600,3", (), "--target class:0@600,3 lies outside the picture"),
        ("DPT", "class:road@99,9", "road", "--against 0: road is the target itself"),
        ("DPT", "road", (), "give --target class:road@X,Y or class:road@MASK"),
        ("DPT", "object:3", (), "--target object:3: this model predicts no objects"),
        (
            "depth",
            "class:1@200,90",
            (),
            "predicts a depth, and no classes; give --target pixel:200",
        ),
        ("YOLOS", "pixel:9,9", (), "boxes and no masks; give --target object:N"),
        ("YOLOS", "object:9", (), "--target object:9: this model has 5 object queries"),
    ],
)
def test_what_is_not_there_is_said(
    name: str, target: str, against: Any, told: str, root: Path
) -> None:
    with pytest.raises(AttnvizError, match=told):
        attnviz.explain(seen(name, root), method="grad-cam", target=target, against=against)


def test_what_cannot_have_places_is_refused_before_the_run(root: Path, tmp_path: Path) -> None:
    picture = attnviz.load_image(CAT)
    classifier = attnviz.load_model("tiny", head="class")
    asked = Questions(methods=("relevance",), targets=(targets.parse("pixel:9,9"),))
    with pytest.raises(UsageError, match="tiny has one score for the whole picture"):
        check(picture, classifier, asked)
    with pytest.raises(AttnvizError, match="tiny has no score of each place"):
        attnviz.load_model("tiny", head=asked.head)
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**PLAIN))
    vit.save_pretrained(tmp_path / "vit")
    with pytest.raises(AttnvizError, match="its checkpoint is a ViTForImageClassification"):
        attnviz.load_model(str(tmp_path / "vit"), head="dense")
    black = Image.new("L", (picture.width, picture.height))
    black.save(tmp_path / "black.png")
    model = attnviz.load_model(str(folder("DPT", root)), head="dense")
    empty = targets.parse(f"class:road@{tmp_path / 'black.png'}")
    with pytest.raises(UsageError, match=r"black\.png covers nothing; paint white"):
        look(picture, model, Questions(methods=("relevance",), targets=(empty,)))


def test_the_command_line_says_what_was_scored(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mask = CAT.parent / "masks" / "cat.png"
    options = ["-m", str(folder("DPT", root)), "--method", "relevance"]
    asked = ["--target", f"class:sky@{mask}", "--target", "pixel:200,100", "--against", "road"]
    assert main(["show", str(CAT), *options, *asked, "-o", str(tmp_path), "--no-preview"]) == 0
    assert f"sky at {mask} against road (0)" in capfd.readouterr().out.replace("\n", " ")
    written = json.loads((tmp_path / "cat.jpg" / "stats.json").read_text())
    assert main(["schema"]) == 0
    jsonschema.validate(written, json.loads(capfd.readouterr().out))
    first = written["heads"][0]["target"]
    assert (first["kind"], first["label"], first["against"]) == ("region", "sky", "road (0)")
    assert first["query"] == {"kind": "mask", "path": str(mask)}
    assert main(["stats", str(CAT), *options, "--target", "pixel:2,2"]) == 2
    assert "--target pixel:2,2 was cropped off; take --fit keep or pad" in capfd.readouterr().err
