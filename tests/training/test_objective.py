"""What the model is taught, against values made by hand."""

import math
from dataclasses import replace

import guide
import pytest
import torch
from guide import Seen
from objective import (
    HEAD_TARGETS,
    WEIGHTS,
    Teacher,
    Truth,
    _divergence,
    _over_keys,
    head_targets,
    loss,
)

from attnviz.models.tiny import HEADS, LABELS, VisionTransformer


def truth(cover: torch.Tensor, kind: int = 0) -> Truth:
    kinds = torch.zeros(len(cover), len(LABELS))
    kinds[:, kind] = 1
    places = torch.where(cover > 0.5, kind, -1)
    return Truth(cover, torch.zeros_like(cover), kinds, places)


def targets_of(cover: torch.Tensor) -> dict[str, torch.Tensor]:
    found = head_targets(truth(cover[None]))[0]
    return dict(zip(HEAD_TARGETS, found, strict=True))


def test_targets_of_a_box() -> None:
    cover = torch.zeros(8, 8)
    cover[2:6, 1:6] = 1
    found = targets_of(cover)
    assert torch.equal(found["whole"], cover)
    for target in found.values():
        assert (target[cover == 0] == 0).all()
    places = torch.arange(4) / 4 + 0.125
    for row, y in enumerate(places.tolist()):
        assert float(found["top"][2 + row, 3]) == pytest.approx(math.exp(-4 * y))
        assert float(found["bottom"][2 + row, 3]) == pytest.approx(math.exp(-4 * (1 - y)))
    assert torch.allclose(found["left"].flip(1)[:, 2:7], found["right"][:, 1:6])
    assert found["rim"][2, 1] == found["rim"][3, 5] == pytest.approx(1.02)
    assert found["rim"][3, 3] == pytest.approx(0.32)
    assert found["middle"].argmax() in (3 * 8 + 3, 4 * 8 + 3)
    assert torch.equal(found["details"], found["middle"])  # there are none


def test_details_are_looked_at_where_there_are_some() -> None:
    cover = torch.ones(1, 4, 4)
    details = torch.zeros(1, 4, 4)
    details[0, 1, 2] = 0.8
    without = truth(cover)
    target = head_targets(replace(without, details=details))[0, HEAD_TARGETS.index("details")]
    assert target.argmax() == 6
    assert float(target[0, 0]) == pytest.approx(0.03)


def test_targets_sum_to_one_and_fall_back_to_the_class_token() -> None:
    grid = torch.tensor([[[1.0, 3.0]], [[5.0, 5.0]]])
    keys = _over_keys(grid, torch.tensor([1.0, 0.0]), prefix=2)
    assert torch.allclose(keys[0, 0], torch.tensor([0, 0, 0.25, 0.75]))
    assert torch.allclose(keys[1, 0], torch.tensor([1.0, 0, 0, 0]))
    assert torch.allclose(_divergence(keys, keys), torch.zeros(2, 1), atol=1e-6)


def test_divergence_is_that_of_kullback_and_leibler() -> None:
    target, attention = torch.rand(2, 3, 9).softmax(-1), torch.rand(2, 3, 9).softmax(-1)
    expected = torch.nn.functional.kl_div(attention.log(), target, reduction="none").sum(-1)
    assert torch.allclose(_divergence(target, attention), expected, atol=1e-6)


def test_the_teacher_sees_what_the_model_sees() -> None:
    """Its explicit weights are those of the shipped forward pass, its scores the model's own."""
    import attnviz  # noqa: PLC0415

    torch.manual_seed(0)
    teacher = Teacher().eval()
    pixels = torch.randn(2, 3, 32, 48)
    with torch.no_grad(), attnviz.record() as recording:
        scores = teacher.model(pixels)
    with torch.no_grad():
        taught = teacher(pixels)
    assert torch.allclose(recording[-1].rows([0])[:, :, 0], taught.attention, atol=1e-5)
    assert torch.allclose(scores, taught.scores, atol=1e-5)
    assert taught.attention.shape == (2, HEADS, teacher.model.prefix + 24)
    assert all(logits.shape == (2, 24) for logits in taught.objects)
    assert taught.places.shape == (2, 24, len(LABELS))


def test_the_loss_falls_where_it_is_followed() -> None:
    torch.manual_seed(0)
    teacher = Teacher()
    pixels = torch.randn(4, 3, 32, 32)
    cover = torch.zeros(4, 4, 4)
    maps = torch.rand(2, 16).softmax(-1)  # of the last two, which are photographs here
    seen = Seen(torch.randn(2, 16, guide.FEATURES), maps)
    for number in range(4):
        cover[number, number, :2] = 1
        pixels[number, :, 8 * number : 8 * number + 8, :16] += 3
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-3)
    values = []
    for _ in range(12):
        total, parts = loss(teacher, pixels, truth(cover[:2]), seen)
        optimizer.zero_grad()
        torch.autograd.backward(total)
        optimizer.step()
        values.append(float(total.detach()))
    assert values[-1] < 0.8 * values[0]
    assert parts.keys() == WEIGHTS.keys()
    assert all(p.grad is not None for p in teacher.parameters())


def test_the_model_keeps_to_its_budget() -> None:
    count = sum(p.numel() for p in VisionTransformer().parameters())
    assert 2 * count < 8_000_000  # bytes in half precision


def test_what_nobody_knows_teaches_nothing() -> None:
    """Pictures without a known kind have no part in the losses of kinds."""
    torch.manual_seed(0)
    teacher, pixels, cover = Teacher().eval(), torch.randn(2, 3, 32, 32), torch.rand(2, 4, 4)
    known = truth(cover, 3)
    half = replace(known, kinds=known.kinds.clone(), places=known.places.clone())
    half.kinds[1], half.places[1] = 0, -1
    with torch.no_grad():
        _, alone = loss(teacher, pixels[:1], Truth(*(value[:1] for value in vars(known).values())))
        _, both = loss(teacher, pixels, half)
    assert both["kind"] == pytest.approx(alone["kind"], rel=1e-4)
    assert both["kinds"] == pytest.approx(alone["kinds"], rel=1e-4)
    assert "seen" not in both
