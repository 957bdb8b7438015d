"""Several pictures in one run of the model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import many
import numpy as np
import planned
import pytest
import torch
from torch import Tensor, nn

import attnviz
from attnviz.attention.sweep import Sweep
from attnviz.attention.sweep_together import TOGETHER
from attnviz.errors import UsageError
from attnviz.explanation.observe_batch import observe_many
from attnviz.explanation.request import Questions, answer, look_many
from attnviz.models.tiny import VisionTransformer


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each run of `tiny` was given."""
    found: list[int] = []
    real = VisionTransformer.forward

    def forward(self: VisionTransformer, pixels: Tensor, *rest: Any) -> Tensor:
        found.append(len(pixels))
        return real(self, pixels, *rest)

    monkeypatch.setattr(VisionTransformer, "forward", forward)
    return found


def test_on_a_device_pictures_of_one_shape_share_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, model = many.load(tmp_path), attnviz.load_model()
    questions = Questions(layers="all", queries=("mean",))
    alone = [answer(each, questions) for each in look_many(pictures, model, questions)]
    swept: list[int] = []
    sweep = attnviz.AttentionCall.sweep

    def counted(call: attnviz.AttentionCall, *given: Any, **more: Any) -> Sweep:
        swept.append(len(call.query))
        return sweep(call, *given, **more)

    monkeypatch.setattr(attnviz.AttentionCall, "sweep", counted)
    monkeypatch.setitem(TOGETHER, "cpu", 1 << 30)
    together = [answer(each, questions) for each in look_many(pictures, model, questions)]
    assert sorted(swept) == [6, 24]  # one for each number of tokens, of six layers
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other.maps, one.maps, rtol=1e-5, atol=1e-8)
        for name, values in one.numbers.items():
            np.testing.assert_allclose(other.numbers[name], values, rtol=1e-5)
    swept.clear()
    wrong = look_many(pictures, model, Questions(queries=("4000,4000",)))
    assert not any(each.inputs for each in wrong)
    assert not swept


def test_pictures_of_one_shape_share_a_run(tmp_path: Path, runs: list[int]) -> None:
    model = attnviz.load_model()
    observe_many(many.load(tmp_path), model)
    assert runs == [3, 1, 1]
    runs.clear()
    many.check(model, tmp_path, tokens=True)


@pytest.mark.parametrize("spec", ["tiny", "random"])
def test_each_picture_has_its_own_mask(tmp_path: Path, spec: str) -> None:
    model, shown = attnviz.load_model(spec, size=64), many.load(tmp_path)
    masks: list[Any] = []
    for i, picture in enumerate(shown):
        mask = np.ones((picture.height, picture.width), dtype=np.bool_)
        mask[:, : 20 + 10 * i] = False
        masks.append(None if i == 2 else mask)
    for picture, mask, seen in zip(
        shown, masks, observe_many(shown, model, masks=masks), strict=True
    ):
        alone = attnviz.observe(picture, model, mask=mask)
        np.testing.assert_array_equal(seen.taking_part, alone.taking_part)
        many.same(seen, alone)


def test_gradients_are_of_a_run_of_its_own(tmp_path: Path, runs: list[int]) -> None:
    shown = many.load(tmp_path)
    found = observe_many(shown, attnviz.load_model(), gradients=True)
    assert runs == [1] * 5
    for picture, seen in zip(shown, found, strict=True):
        alone = attnviz.observe(picture, seen.model, gradients=True)
        one, other = (attnviz.explain(each, method="relevance").maps for each in (seen, alone))
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no"), RuntimeError("can't allocate")])
def test_what_does_not_fit_is_run_in_halves(
    tmp_path: Path, runs: list[int], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    model = attnviz.load_model()
    counted = VisionTransformer.forward

    def forward(self: VisionTransformer, pixels: Tensor, *rest: Any) -> Tensor:
        if len(pixels) > 1:
            runs.append(-len(pixels))
            raise error
        return counted(self, pixels, *rest)

    monkeypatch.setattr(VisionTransformer, "forward", forward)
    many.check(model, tmp_path)
    assert runs[:6] == [-3, 1, -2, 1, 1, 1]


class Lonely(nn.Module):
    """Takes one picture at a time; the calls of more are not to be told apart."""

    patch_size = 8

    def __init__(self, *, refuses: bool) -> None:
        super().__init__()
        self.embed, self.refuses = nn.Conv2d(3, 8, 8, 8), refuses
        self.seen = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen += 1
        if self.refuses and len(pixels) > 1:
            raise ValueError("one at a time")
        x = self.embed(pixels).flatten(2).mT.flatten(0, 1)[None, None]  # all pictures see all
        return nn.functional.scaled_dot_product_attention(x, x, x)[0]


@pytest.mark.parametrize("refuses", [True, False])
def test_models_that_take_no_batches_are_run_one_by_one(tmp_path: Path, refuses: bool) -> None:
    made = attnviz.load_model("random", size=64, patch=8)
    module = Lonely(refuses=refuses).requires_grad_(False)
    model = replace(made, module=module, plain=False, takes_mask=False)
    many.check(model, tmp_path)
    module.seen = 0
    observe_many(many.load(tmp_path), model)
    assert module.seen == 5  # several are not tried again


def test_a_model_of_one_shape_is_shown_the_centres_at_once(tmp_path: Path) -> None:
    model = attnviz.load_model()
    real, seen = model.module.forward, []

    def forward(pixels: Tensor, *rest: Any) -> Any:
        if pixels.shape[2] != pixels.shape[3]:
            raise ValueError("squares only")
        seen.append(len(pixels))
        return real(pixels, *rest)

    model.module.forward = forward
    shown = many.load(tmp_path)
    found = observe_many(shown, model)
    assert seen == [1, 2, 1, 1]
    assert [each.placement.fit for each in found] == ["crop", "crop", "crop", "keep", "crop"]
    for picture, each in zip(shown, found, strict=True):
        many.same(each, attnviz.observe(picture, model))


def test_what_was_laid_before_is_not_laid_again(tmp_path: Path) -> None:
    model, shown = attnviz.load_model(), many.load(tmp_path)
    laid = [model.lay(picture, model.place(picture)) for picture in shown]
    bare = [
        attnviz.Picture(p.path, np.broadcast_to(np.uint8(0), (p.height, p.width, 3))) for p in shown
    ]
    found = observe_many(bare, model, lay=lambda number, _: laid[number])
    for picture, seen in zip(shown, found, strict=True):
        expected = attnviz.explain(attnviz.observe(picture, model)).maps
        np.testing.assert_allclose(attnviz.explain(seen).maps, expected, atol=1e-6)


def test_errors_are_those_of_one_picture(tmp_path: Path) -> None:
    shown = many.load(tmp_path)
    nothing = [np.zeros((p.height, p.width), dtype=np.bool_) for p in shown]
    with pytest.raises(UsageError, match="leaves no token"):
        observe_many(shown, attnviz.load_model(), masks=nothing)
    assert observe_many([], attnviz.load_model()) == []


def test_later_runs_of_a_checkpoint_are_watched_lightly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    checkpoints.build(transformers, "ViTModel", tmp_path / "vit", **checkpoints.SMALL)
    model, photos = attnviz.load_model(str(tmp_path / "vit")), many.load(tmp_path)
    same = [photos[0]] * 3
    with planned.counted(monkeypatch) as seen:
        for _ in range(2):
            attnviz.observe(photos[0], model)
        for pictures in (same, same[:2]):
            observe_many(pictures, model)
    assert seen == ["learning", "light", "learning", "light"]
