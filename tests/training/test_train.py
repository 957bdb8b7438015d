"""The training: the same from the same seed, also when it is cut off."""

from argparse import Namespace
from pathlib import Path

import lessons
import pytest
import torch
import train_tiny
from lessons import STAGES, USES, Lessons, Stage, truth_of
from safetensors.torch import load_file
from scenes import Batch
from train_tiny import Training, rate

STEPS = 7


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "STAGES", (Stage(1.0, (32,), 8),))
    monkeypatch.setattr(train_tiny, "measure", lambda *_: {})


def training(out: Path, seed: int = 0) -> Training:
    out.mkdir(exist_ok=True)
    return Training(
        Namespace(out=out, steps=STEPS, seed=seed, device="cpu", threads=1, workers=0, rate=1e-3)
    )


def test_a_training_that_was_cut_off_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training(tmp_path / "whole").run()
    cut = training(tmp_path / "cut")
    learn = cut._learn

    def until_the_lights_go_out(lesson: lessons.Lesson) -> dict[str, float]:
        if cut.step == USES + 1:
            cut._save()
            raise KeyboardInterrupt
        return learn(lesson)

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


def test_lessons_depend_on_their_number_alone() -> None:
    first, other = Lessons(3, 10)[4], Lessons(3, 10)
    other[1]
    for a, b in zip(first, other[4], strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.truth.cover, b.truth.cover)
    assert not torch.equal(first[0].pixels, other[5][0].pixels)
    assert len(first) == USES
    assert all(lesson.pixels.shape == first[0].pixels.shape for lesson in first)


def test_truth_is_that_of_the_mask() -> None:
    objects = torch.zeros(2, 16, 24, dtype=torch.uint8)
    objects[0, :8, :8] = 1
    objects[0, 8:12, 8:16] = 2
    kinds = torch.tensor([[3, 5, -1], [-1, -1, -1]])
    details = torch.ones(2, 16, 24)
    truth = truth_of(Batch(torch.zeros(2, 3, 16, 24), objects, details, kinds), (2, 3))
    assert torch.equal(truth.cover[0], torch.tensor([[1, 0, 0], [0, 0.5, 0]]))
    assert torch.equal(truth.details, truth.cover)  # outside of objects there are none
    assert truth.label.tolist() == [3, -1]


def test_the_rate_rises_and_falls() -> None:
    rates = [rate(step, 1000) for step in range(1001)]
    assert max(rates) == rates[train_tiny.WARMUP - 1] > 0.9
    assert rates[-1] == pytest.approx(0.02)
    assert [stage.until for stage in STAGES] == sorted(stage.until for stage in STAGES)
    assert STAGES[-1].until == 1
