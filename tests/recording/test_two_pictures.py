"""Models of two pictures: each call says which picture its tokens come from."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import attnviz
from attnviz.errors import UsageError
from attnviz.recording import Recording

Watch = Callable[..., tuple[Recording, Any]]


def patches(picture: Tensor) -> Tensor:
    torch.manual_seed(1)
    return F.conv2d(picture, torch.randn(12, 3, 8, 8) / 20, stride=8).flatten(2).mT


def attend(x: Tensor, y: Tensor) -> Tensor:
    """One head by hand, (B, N, 12) and (B, M, 12)."""
    output: Tensor = (x @ y.mT).softmax(-1) @ y
    return output


def fused(x: Tensor, y: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x[:, None], y[:, None], y[:, None])[:, 0]


def centres(columns: int) -> Tensor:
    return torch.tensor([[4.0 + 8 * x, 4.0 + 8 * y] for y in range(2) for x in range(columns)])


@pytest.mark.parametrize("attention", [attend, fused])
def test_tokens_name_the_picture_that_they_come_from(
    attention: Callable[[Tensor, Tensor], Tensor], watch: Watch
) -> None:
    one, two = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 16, 24)

    def run() -> Tensor:
        x, y = patches(one), patches(two)
        y = attention(y, y)
        x = attention(x, y)
        return attention(torch.cat([y, x], 1), x)

    recording, _ = watch(run, picture=[one, two])
    of_two, across, of_both = recording
    for call, queries, keys in (
        (of_two, [1] * 6, [1] * 6),
        (across, [0] * 4, [1] * 6),
        (of_both, [1] * 6 + [0] * 4, [0] * 4),
    ):
        for found, positions, expected in (
            (call.query_pictures, call.query_positions, queries),
            (call.key_pictures, call.key_positions, keys),
        ):
            assert found is not None
            assert positions is not None
            assert found[0].tolist() == expected
            places = torch.cat([centres(3 if 1 in expected else 2)[:6]])
            if len(expected) == 10:
                places = torch.cat([centres(3), centres(2)])
            torch.testing.assert_close(positions[0], places)


def test_one_traced_picture_of_two_is_not_confused_with_the_other(watch: Watch) -> None:
    one, two = torch.randn(2, 1, 3, 16, 24).unbind()
    recording, _ = watch(lambda: attend(patches(two), patches(one)), picture=one)
    (call,) = recording
    assert call.query_positions is None
    assert call.query_pictures is None
    assert call.key_positions is not None
    torch.testing.assert_close(call.key_positions[0], centres(3))


def test_pictures_of_one_batch_are_apart(watch: Watch) -> None:
    pair = torch.randn(2, 3, 16, 16)

    def run() -> Tensor:
        x = patches(F.pad(pair, (0, 8)))
        return attend(x[:1], x[1:])

    (call,), _ = watch(run, picture=[pair[:1], pair[1:]])
    assert call.query_pictures is not None
    assert call.key_pictures is not None
    assert call.query_pictures[0].tolist() == [0, 0, -1, 0, 0, -1]  # the padding lies nowhere
    assert call.key_pictures[0].tolist() == [1, 1, -1, 1, 1, -1]


def test_what_is_made_of_both_pictures_lies_in_neither(watch: Watch) -> None:
    one, two = torch.randn(2, 1, 3, 16, 24).unbind()

    def run() -> Tensor:
        x = patches(one) - patches(two)
        return attend(x, x)

    (call,), _ = watch(run, picture=[one, two])
    assert call.key_positions is not None
    assert call.key_pictures is not None
    assert bool(call.key_positions.isnan().all())
    assert bool((call.key_pictures == -1).all())


def test_flat_patches_are_no_picture() -> None:
    with (
        pytest.raises(UsageError, match=r"\(24, 192\): flat patches have no places; give their pl"),
        attnviz.record(picture=torch.randn(24, 192)),
    ):
        pass
