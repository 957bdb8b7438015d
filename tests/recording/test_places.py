"""Where tokens lie in the picture, traced through a model, against indices moved in NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import attnviz
from attnviz.recording import Recording

Watch = Callable[..., tuple[Recording, Any]]
Array = NDArray[np.float64]
WIDTH, HEIGHT = 24, 16


def picture() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, HEIGHT, WIDTH)


def lattice(rows: int, columns: int) -> Array:
    """(rows, columns, 2): centres of a regular grid over the picture, x and y."""
    y = (np.arange(rows) + 0.5) * HEIGHT / rows
    x = (np.arange(columns) + 0.5) * WIDTH / columns
    return np.stack(np.broadcast_arrays(x, y[:, None]), -1)


def assert_lies(found: Tensor | None, expected: Array) -> None:
    """(B, N, 2) is (N, 2), or (B, N, 2), in every picture; NaN where NaN is expected."""
    assert found is not None
    wanted = np.broadcast_to(expected, found.shape)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-4)


def attend(x: Tensor, heads: int = 2) -> Tensor:
    """Self-attention by hand, (B, N, C) → (B, N, C), without any residual."""
    q = x.unflatten(-1, (heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
    output: Tensor = (q @ q.mT).softmax(-1) @ q
    return output.transpose(1, 2).flatten(2)


def fused(x: Tensor) -> Tensor:
    q = x.view(*x.shape[:2], 2, -1).transpose(1, 2)
    return F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)


def by_convolution(x: Tensor) -> Tensor:
    return F.conv2d(x, torch.randn(8, 3, 4, 4), stride=4).flatten(2).mT


def by_unfolding(x: Tensor) -> Tensor:
    return F.linear(F.unfold(x, 4, stride=4).mT, torch.randn(8, 48))


def by_views(x: Tensor) -> Tensor:
    x = x.view(2, 3, HEIGHT // 4, 4, WIDTH // 4, 4).permute(0, 2, 4, 3, 5, 1)
    return F.linear(F.layer_norm(x.reshape(2, 24, 48), (48,)), torch.randn(8, 48), torch.randn(8))


def by_unfold_of_a_tensor(x: Tensor) -> Tensor:
    x = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
    return x.reshape(2, 24, 48) @ torch.randn(48, 8)


def channels_last(x: Tensor) -> Tensor:
    x = x.to(memory_format=torch.channels_last)
    x = F.conv2d(x, torch.randn(8, 3, 4, 4), torch.randn(8), stride=4)
    return x.permute(0, 2, 3, 1).reshape(2, -1, 8)


EMBEDDINGS = [by_convolution, by_unfolding, by_views, by_unfold_of_a_tensor, channels_last]
MODES = [torch.no_grad, torch.inference_mode, torch.enable_grad]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("attention", [attend, fused])
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_patches_lie_at_their_centres_layer_after_layer(
    embedding: Callable[[Tensor], Tensor],
    attention: Callable[[Tensor], Tensor],
    mode: Callable[[], Any],
    watch: Watch,
) -> None:
    x, layer = picture(), nn.Linear(8, 8)
    with mode():
        recording, _ = watch(lambda: attention(layer(attention(embedding(x)))), picture=x)
    assert len(recording) == 2
    for call in recording:
        assert_lies(call.query_positions, lattice(4, 6).reshape(-1, 2))
        assert_lies(call.key_positions, lattice(4, 6).reshape(-1, 2))


def test_tokens_in_front_and_behind_lie_nowhere() -> None:
    x, nowhere = picture(), np.full((1, 2), np.nan)
    with attnviz.record(picture=x) as recording:
        tokens = by_convolution(x) + torch.randn(24, 8)
        front = [torch.randn(1, 1, 8).expand(2, -1, -1), torch.randn(2, 2, 8)]
        tokens = torch.cat([*front, tokens, torch.randn(2, 1, 8)], 1)
        tokens = attend(F.layer_norm(tokens, (8,)))
        attend(F.gelu(tokens))
    patches = lattice(4, 6).reshape(-1, 2)
    expected = np.concatenate([nowhere, nowhere, nowhere, patches, nowhere])
    for call in recording:
        assert_lies(call.query_positions, expected)
        assert_lies(call.key_positions, expected)


def windows(grid: Array, size: int) -> Array:
    """(rows, columns, 2) → (windows, size², 2)."""
    rows, columns = grid.shape[0] // size, grid.shape[1] // size
    parts = [
        grid[i * size : (i + 1) * size, j * size : (j + 1) * size].reshape(-1, 2)
        for i in range(rows)
        for j in range(columns)
    ]
    return np.stack(parts)


def partition(x: Tensor, size: int) -> Tensor:
    """(B, rows, columns, C) → (B·windows, size², C)."""
    b, rows, columns, c = x.shape
    x = x.view(b, rows // size, size, columns // size, size, c).transpose(2, 3)
    return x.reshape(-1, size * size, c)


def reverse(x: Tensor, size: int, rows: int, columns: int) -> Tensor:
    x = x.view(-1, rows // size, columns // size, size, size, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, rows, columns, x.shape[-1])


@pytest.mark.parametrize("mode", MODES)
def test_shifted_windows_lie_where_they_were_cut_and_are_back_in_the_next_layer(
    mode: Callable[[], Any], watch: Watch
) -> None:
    x = picture()

    def run() -> Tensor:
        grid = by_convolution(x).view(2, 4, 6, 8)
        tokens = attend(partition(grid.roll((-1, -1), (1, 2)), 2))
        grid = reverse(tokens, 2, 4, 6).roll((1, 1), (1, 2))
        return attend(grid.flatten(1, 2))

    with mode():
        recording, _ = watch(run, picture=x)
    shifted = np.roll(lattice(4, 6), (-1, -1), (0, 1))
    expected = np.concatenate([windows(shifted, 2)] * 2)  # of both pictures
    assert_lies(recording[0].query_positions, expected)
    assert_lies(recording[0].key_positions, expected)
    assert recording[0].shape == (12, 2, 4, 4)
    assert_lies(recording[1].query_positions, lattice(4, 6).reshape(-1, 2))


def test_padding_inside_windows_lies_nowhere() -> None:
    x = picture()
    with attnviz.record(picture=x) as recording:
        grid = by_convolution(x).view(2, 4, 6, 8)
        attend(partition(F.pad(grid, (0, 0, 0, 3, 0, 2)), 3))
    padded = np.full((6, 9, 2), np.nan)
    padded[:4, :6] = lattice(4, 6)
    assert_lies(recording[0].query_positions, np.concatenate([windows(padded, 3)] * 2))


def test_strided_convolutions_with_padding_lie_where_their_kernels_do() -> None:
    x = picture()
    with attnviz.record(picture=x) as recording:
        y = F.conv2d(x, torch.randn(8, 3, 7, 7), stride=4, padding=3)
        attend(y.flatten(2).mT)
        y = F.conv2d(y, torch.randn(8, 8, 3, 3), stride=2, padding=1)
        attend(y.flatten(2).mT)
    assert [call.shape[2] for call in recording] == [24, 6]
    for call, (rows, columns, step) in zip(recording, [(4, 6, 4), (2, 3, 8)], strict=True):
        centres = [[j * step + 0.5, i * step + 0.5] for i in range(rows) for j in range(columns)]
        assert_lies(call.query_positions, np.array(centres))


def test_merged_patches_lie_between_the_four() -> None:
    x = picture()
    with attnviz.record(picture=x) as recording:
        grid = by_convolution(x).view(2, 4, 6, 8)
        four = [grid[:, i::2, j::2] for j in range(2) for i in range(2)]
        merged = F.linear(F.layer_norm(torch.cat(four, -1), (32,)), torch.randn(8, 32))
        attend(merged.flatten(1, 2))
        view = grid.view(2, 2, 2, 3, 2, 8).permute(0, 1, 3, 4, 2, 5).reshape(2, 6, 32)
        attend(F.linear(view, torch.randn(8, 32)))
    for call in recording:
        assert_lies(call.query_positions, lattice(2, 3).reshape(-1, 2))


def convolved_keys(grid: Tensor) -> Tensor:
    return F.conv2d(grid, torch.randn(8, 8, 2, 2), stride=2)


def pooled_keys(grid: Tensor) -> Tensor:
    return F.avg_pool2d(grid, 2)


def largest_keys(grid: Tensor) -> Tensor:
    return F.max_pool2d(grid, 2)


def adapted_keys(grid: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(grid, (2, 3))


def resized_keys(grid: Tensor) -> Tensor:
    return F.interpolate(grid, (2, 3), mode="bilinear")


@pytest.mark.parametrize(
    "pool", [convolved_keys, pooled_keys, largest_keys, adapted_keys, resized_keys]
)
@pytest.mark.parametrize("mode", MODES)
def test_pooled_keys_lie_on_their_own_grid(
    pool: Callable[[Tensor], Tensor], mode: Callable[[], Any]
) -> None:
    x = picture()
    with mode(), attnviz.record(picture=x) as recording:
        q = by_convolution(x)
        k = pool(q.mT.reshape(2, 8, 4, 6)).flatten(2).mT
        (q @ k.mT).softmax(-1) @ k
        F.scaled_dot_product_attention(q[:, None], k[:, None], k[:, None])
    for call in recording:
        assert_lies(call.query_positions, lattice(4, 6).reshape(-1, 2))
        assert_lies(call.key_positions, lattice(2, 3).reshape(-1, 2))


def test_a_learned_query_lies_nowhere_and_its_keys_where_they_are() -> None:
    x, query = picture(), torch.randn(1, 1, 8)
    with attnviz.record(picture=x) as recording:
        k = by_convolution(x)
        (query.expand(2, -1, -1) @ k.mT).softmax(-1) @ k
        nn.MultiheadAttention(8, 2, batch_first=True)(query.expand(2, -1, -1), k, k)
    assert len(recording) == 2
    for call in recording:
        found = call.query_positions
        assert found is None or bool(found.isnan().all())
        assert_lies(call.key_positions, lattice(4, 6).reshape(-1, 2))


def test_channels_all_lie_at_the_same_place() -> None:
    x = picture()
    with attnviz.record(picture=x) as recording:
        q = by_convolution(x).mT  # (B, C, N): tokens are channels
        (q @ q.mT).softmax(-1) @ q
    assert_lies(recording[0].query_positions, np.array([[WIDTH / 2, HEIGHT / 2]] * 8))


def rotated_by_halves(q: Tensor) -> Tensor:
    cos, sin = torch.rand(2, 24, q.shape[-1]).unbind()
    a, b = q.chunk(2, -1)
    return q * cos + torch.cat([-b, a], -1) * sin


def rotated_by_pairs(q: Tensor) -> Tensor:
    cos, sin = torch.rand(2, 24, q.shape[-1]).unbind()
    pairs = torch.stack([-q[..., 1::2], q[..., ::2]], -1).reshape(q.shape)
    return q * cos + pairs * sin


def rotated_as_complex_numbers(q: Tensor) -> Tensor:
    turn = torch.polar(torch.ones(24, q.shape[-1] // 2), torch.rand(24, q.shape[-1] // 2))
    z = torch.view_as_complex(q.reshape(*q.shape[:-1], -1, 2)) * turn
    return torch.view_as_real(z).flatten(-2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "rotate", [rotated_by_halves, rotated_by_pairs, rotated_as_complex_numbers]
)
def test_rotated_queries_stay_where_they_are(
    rotate: Callable[[Tensor], Tensor], mode: Callable[[], Any]
) -> None:
    x = picture()
    with mode(), attnviz.record(picture=x) as recording:
        q, k, v = F.linear(by_convolution(x), torch.randn(24, 8)).view(2, 24, 3, 2, 4).unbind(2)
        q, k = rotate(q.transpose(1, 2)), rotate(k.transpose(1, 2))
        F.scaled_dot_product_attention(q, k, v.transpose(1, 2))
        (q @ k.mT).softmax(-1) @ v.transpose(1, 2)
    assert len(recording) == 2
    for call in recording:
        assert_lies(call.query_positions, lattice(4, 6).reshape(-1, 2))
        assert_lies(call.key_positions, lattice(4, 6).reshape(-1, 2))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("heads", ["side by side", "in the batch"])
def test_the_output_of_attention_lies_where_its_queries_do(turned: bool, heads: str) -> None:
    """Keys lie elsewhere, so that places taken from the values would be wrong."""
    x = picture()
    with attnviz.record(picture=x) as recording:
        q = by_convolution(x)
        k = F.avg_pool2d(q.mT.reshape(2, 8, 4, 6), 2).flatten(2).mT
        split = [t.view(2, -1, 2, 4).transpose(1, 2) for t in (q, k)]
        if heads == "in the batch":
            split = [t.reshape(4, -1, 4) for t in split]
        q, k = split
        a = (q @ k.mT).softmax(-1)
        y = (k.mT @ a.mT).mT if turned else a @ k
        attend(y.reshape(2, 2, 24, 4).transpose(1, 2).reshape(2, 24, 8))
    assert recording[0].shape == (2, 2, 24, 6)
    assert_lies(recording[0].key_positions, lattice(2, 3).reshape(-1, 2))
    assert_lies(recording[1].query_positions, lattice(4, 6).reshape(-1, 2))


@pytest.mark.parametrize("by", [4, 3])
def test_padding_behind_tokens_whose_centres_are_not_in_their_middle_lies_nowhere(by: int) -> None:
    """A convolution with stride and padding puts centres to the left of the middle of the cell."""
    x = picture()
    with attnviz.record(picture=x) as recording:
        tokens = F.conv2d(x, torch.randn(8, 3, 3, 3), stride=4, padding=1)  # 4 × 6, at 4·i + ½
        padded = F.pad(tokens, (by, by, by, by)).permute(0, 2, 3, 1)
        windows = padded.reshape(2, 4 + 2 * by, 6 + 2 * by, 8).flatten(1, 2)
        attend(windows)
        attend(tokens.flatten(2).mT)
    expected = np.full((4 + 2 * by, 6 + 2 * by, 2), np.nan)
    tokens_at = lattice(4, 6) - 1.5
    expected[by:-by, by:-by] = tokens_at
    assert_lies(recording[0].key_positions, expected.reshape(-1, 2))
    assert_lies(recording[1].key_positions, tokens_at.reshape(-1, 2))


def test_padding_beside_a_mirrored_picture_lies_nowhere() -> None:
    x = picture()
    with attnviz.record(picture=x) as recording:
        tokens = F.conv2d(x, torch.randn(8, 3, 3, 3), stride=4, padding=1).flip(-1)
        attend(F.pad(tokens, (2, 2)).flatten(2).mT)
    expected = np.full((4, 10, 2), np.nan)
    expected[:, 2:-2] = (lattice(4, 6) - 1.5)[:, ::-1]
    assert_lies(recording[0].key_positions, expected.reshape(-1, 2))


def test_padding_that_a_convolution_goes_over_moves_no_token() -> None:
    x = picture()
    weight = torch.randn(8, 3, 3, 3)
    with attnviz.record(picture=x) as recording:
        attend(F.conv2d(x, weight, stride=4, padding=1).flatten(2).mT)
        attend(F.conv2d(F.pad(x, (1, 1, 1, 1)), weight, stride=4).flatten(2).mT)
    for call in recording:
        assert_lies(call.key_positions, (lattice(4, 6) - 1.5).reshape(-1, 2))


@pytest.mark.parametrize("kernel", [False, True])
def test_queries_that_are_the_same_for_windows_elsewhere_move_no_tokens(kernel: bool) -> None:
    """GCViT's: what they gather is added to the tokens of each window, which stay in place."""
    x = picture()
    at = lattice(4, 6).reshape(2, 2, 3, 2, 2).swapaxes(1, 2).reshape(6, 4, 2)  # 2 × 3 windows of 2²
    with attnviz.record(picture=x) as recording:
        tokens = by_convolution(x).reshape(2, 4, 6, 8)
        asking = F.avg_pool2d(tokens.permute(0, 3, 1, 2), (2, 3)).flatten(2).mT  # (2, 4, 8)
        windows = tokens.reshape(2, 2, 2, 3, 2, 8).transpose(2, 3).reshape(12, 4, 8)
        q = asking.repeat_interleave(6, 0).reshape(12, 4, 2, 4).transpose(1, 2)
        k = windows.reshape(12, 4, 2, 4).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, k) if kernel else (q @ k.mT).softmax(-1) @ k
        attend(windows + y.transpose(1, 2).flatten(2))
    asked = lattice(2, 2).reshape(-1, 2)
    assert_lies(recording[0].query_positions, asked)
    assert_lies(recording[1].query_positions, np.concatenate([at, at]))


def test_a_sum_with_one_token_moves_no_tokens_of_any_width(watch: Watch) -> None:
    """The positions of both widths share memory, and what is found of one serves the other."""
    x = picture()

    def run() -> Tensor:
        tokens = by_convolution(x)
        narrow = F.linear(tokens + tokens[:, :1], torch.randn(4, 8))
        return attend(narrow + narrow[:, :1])

    recording, _ = watch(run, picture=x)
    assert_lies(recording[0].query_positions, lattice(4, 6).reshape(-1, 2))
    assert_lies(recording[0].key_positions, lattice(4, 6).reshape(-1, 2))


@pytest.mark.parametrize(("side", "step"), [(2, 2), (4, 4), (4, 2)])
def test_folding_is_the_inverse_of_unfolding(side: int, step: int) -> None:
    """Pixels that several patches share have one place, so it is their mean too."""
    x = picture()
    with attnviz.record(picture=x) as recording:
        patches = F.unfold(x, side, stride=step)
        folded = F.fold(patches, (HEIGHT, WIDTH), side, stride=step)
        attend(by_convolution(folded))
    assert_lies(recording[0].query_positions, lattice(4, 6).reshape(-1, 2))
