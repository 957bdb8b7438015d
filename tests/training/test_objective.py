"""What the model is taught, against values made by hand."""

import math

import pytest
import torch
from objective import HEAD_TARGETS, Teacher, Truth, _divergence, _over_keys, head_targets, loss

from attnviz.models.tiny import HEADS, VisionTransformer


def truth(cover: torch.Tensor) -> Truth:
    count = len(cover)
    return Truth(cover, torch.zeros_like(cover), torch.zeros(count, dtype=torch.long))


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
    target = head_targets(Truth(cover, details, torch.zeros(1)))[0, HEAD_TARGETS.index("details")]
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
        attention, taught, objects = teacher(pixels)
    assert torch.allclose(recording[-1].rows([0])[:, :, 0], attention, atol=1e-5)
    assert torch.allclose(scores, taught, atol=1e-5)
    assert attention.shape == (2, HEADS, teacher.model.prefix + 24)
    assert all(logits.shape == (2, 24) for logits in objects)


def test_the_loss_falls_where_it_is_followed() -> None:
    torch.manual_seed(0)
    teacher = Teacher()
    pixels = torch.randn(4, 3, 32, 32)
    cover = torch.zeros(4, 4, 4)
    for number in range(4):
        cover[number, number, :2] = 1
        pixels[number, :, 8 * number : 8 * number + 8, :16] += 3
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-3)
    values = []
    for _ in range(12):
        total, _ = loss(teacher, pixels, truth(cover))
        optimizer.zero_grad()
        torch.autograd.backward(total)
        optimizer.step()
        values.append(float(total.detach()))
    assert values[-1] < 0.6 * values[0]
    assert all(p.grad is not None for p in teacher.parameters())


def test_the_model_keeps_to_its_budget() -> None:
    count = sum(p.numel() for p in VisionTransformer().parameters())
    assert 2 * count < 6_000_000  # bytes in half precision
