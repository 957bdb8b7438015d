"""The training: the same from the same seed, also when it is cut off."""

import time
from argparse import Namespace
from pathlib import Path

import guide
import lessons
import numpy as np
import pytest
import torch
from composites import Composites
from guide import Guide, localized
from lessons import USES, Lessons, truth_of
from material import Material
from safetensors.torch import load_file, save_file
from scenes import Batch
from train_tiny import COOLDOWN, WARMUP, Training, rate

from attnviz.models.tiny import LABELS

STEPS = 7


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "SIDES", (32,))
    monkeypatch.setattr(lessons, "COUNT", 2)


def material() -> Material:
    """Two things of one colour with round alpha, two grounds and a photograph."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    alpha = 255 * (x**2 + y**2 < 1)
    cutouts = [np.stack([np.full_like(alpha, c) for c in (250, 250 * n, 9)] + [alpha], -1)
               for n in (0, 1)]  # fmt: skip
    grounds = [rng.integers(90, 110, (60, 80, 3)).astype(np.uint8) for _ in range(3)]
    kinds = np.array([2, -1])
    return Material(
        [one.astype(np.uint8) for one in cutouts], kinds, np.full(2, 0.5), grounds[:2], grounds[2:]
    )


def training(out: Path, seed: int = 0) -> Training:
    out.mkdir(exist_ok=True)
    return Training(
        Namespace(
            out=out, steps=STEPS, seed=seed, device="cpu", workers=0, rate=1e-3, until=None,
            init=None, material=None, teacher=None, no_half=True,
        )
    )  # fmt: skip


def test_a_training_that_was_cut_off_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training(tmp_path / "whole").run()
    cut = training(tmp_path / "cut")
    learn = cut._learn

    def until_the_lights_go_out(lesson: lessons.Lesson, left: float) -> dict[str, float]:
        if cut.step == USES + 1:
            cut._save()
            raise KeyboardInterrupt
        return learn(lesson, left)

    monkeypatch.setattr(cut, "_learn", until_the_lights_go_out)
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    assert not (tmp_path / "cut" / "tiny.safetensors").exists()
    resumed = training(tmp_path / "cut")
    assert resumed.step == USES + 1
    resumed.run()
    assert resumed.step == STEPS
    whole, again = (load_file(tmp_path / name / "tiny.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert all(value.dtype == torch.float16 for value in whole.values())


def test_a_training_starts_from_given_weights(tmp_path: Path) -> None:
    first = training(tmp_path, seed=1)
    save_file(first.teacher.model.state_dict(), tmp_path / "given.safetensors")
    options = Namespace(**vars(first.options) | {"init": tmp_path / "given.safetensors", "seed": 2})
    again = Training(options).teacher.model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in load_file(options.init).items())


def test_an_end_by_the_clock_is_a_share_of_the_whole_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = training(tmp_path)
    going.options.until, going.seconds = "12:00", 3600
    clock = time.mktime(time.strptime(time.strftime("%Y-%m-%d") + " 11:00", "%Y-%m-%d %H:%M"))
    monkeypatch.setattr(time, "time", lambda: clock)
    assert going._left() == pytest.approx(0.5, rel=1e-3)
    monkeypatch.setattr(time, "time", lambda: clock + 3600)
    assert going._left() == 0


@pytest.mark.parametrize("given", [None, material()])
def test_lessons_depend_on_their_number_alone(given: Material | None) -> None:
    first, other = Lessons(3, given)[4], Lessons(3, given)
    other[1]
    for a, b in zip(first, other[4], strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.truth.cover, b.truth.cover)
        assert (a.photographs is None) == (given is None)
        if a.photographs is not None and b.photographs is not None:
            assert torch.equal(a.photographs, b.photographs)
            assert a.photographs.shape[2:] == (2 * a.pixels.shape[2], 2 * a.pixels.shape[3])
    assert not torch.equal(first[0].pixels, other[5][0].pixels)
    assert len(first) == USES
    assert all(lesson.pixels.shape == first[0].pixels.shape for lesson in first)


def test_composites_have_exact_masks() -> None:
    """Where an object stands, pictures have its colour; elsewhere that of the ground."""
    drawn = Composites(material(), 1).draw(60, height=48, width=64)
    assert 0 < (drawn.objects == 0).flatten(1).all(1).sum() < 20  # some are empty
    assert set(drawn.kinds.flatten().tolist()) == {-1, 2}
    assert not drawn.details[drawn.objects == 0].any()
    pictures = drawn.pictures.float()
    yellow = (pictures[:, :2].amax(1) - pictures[:, 2]) > 70
    inside, outside = drawn.objects > 0, drawn.objects == 0
    assert yellow[inside].float().mean() > 4 * yellow[outside].float().mean()
    again = Composites(material(), 1)
    again.draw(2, height=8, width=8, number=5)
    assert torch.equal(again.draw(60, height=48, width=64).pictures, drawn.pictures)


def test_truth_is_that_of_the_mask() -> None:
    objects = torch.zeros(2, 16, 24, dtype=torch.uint8)
    objects[0, :8, :8] = 1
    objects[0, 8:12, 8:16] = 2
    kinds = torch.tensor([[3, 5, -1], [-1, -1, -1]])
    details = torch.ones(2, 16, 24)
    truth = truth_of(Batch(torch.zeros(2, 3, 16, 24), objects, details, kinds), (2, 3))
    assert torch.equal(truth.cover[0], torch.tensor([[1, 0, 0], [0, 0.5, 0]]))
    assert torch.equal(truth.details, truth.cover)  # outside of objects there are none
    share = 2**0.5 / (1 + 2**0.5)  # by the roots of the areas
    assert truth.kinds[0, [3, 5]].tolist() == pytest.approx([share, 1 - share])
    assert truth.kinds.sum(1).tolist() == pytest.approx([1, 0])
    assert truth.places[0].tolist() == [[3, -1, -1], [-1, -1, -1]]
    assert truth.kinds.shape[1] == len(LABELS)


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [rate(step, 1 - step / 1000) for step in range(1001)]
    assert rates[WARMUP - 1 : round(1000 * (1 - COOLDOWN))] == [1] * (501 - WARMUP)
    assert rates[:WARMUP] == sorted(rates[:WARMUP])
    assert rates[-1] == 0


def test_the_guides_map_is_the_mean_of_the_most_localized() -> None:
    """Three of five heads look at one place each, the others everywhere or at the border."""
    maps = torch.full((1, 5, 49), 0.01)
    for head, place in ((0, 24), (2, 17), (3, 31)):
        maps[0, head, place] = 3
    maps[0, 4, [0, 6, 42, 48]] = 1
    shares = maps / maps.sum(-1, keepdim=True)
    assert torch.allclose(localized(maps, 7, 7)[0], shares[0, [0, 2, 3]].mean(0))


def test_the_guide_sees_what_transformers_computes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768
    )
    torch.manual_seed(0)
    oracle = transformers.ViTForImageClassification(config).eval()
    oracle.set_attn_implementation("eager")
    oracle.save_pretrained(tmp_path)
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (guide.MEAN, guide.DEVIATION))
    with torch.no_grad():
        told = oracle.vit(
            (pixels / 255 - mean) / deviation, output_hidden_states=True, output_attentions=True
        )
    seen = Guide(tmp_path).see(pixels)
    expected = torch.nn.functional.layer_norm(told.hidden_states[10][:, 1:], (192,))
    assert torch.cosine_similarity(seen.tokens, expected, dim=-1).min() > 0.99
    assert seen.maps.shape == (2, 196)
    assert seen.maps.sum(1).tolist() == pytest.approx([1, 1], rel=1e-3)
