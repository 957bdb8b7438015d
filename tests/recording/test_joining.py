"""Attention that a model computes in pieces is one call, with all numbers as if it had been one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import attnviz

BATCH, TOKENS, HEADS, DIM = 2, 20, 3, 8
WIDTH = HEADS * DIM
MODES = [torch.no_grad, torch.inference_mode, torch.enable_grad]
Attention = Callable[[Tensor], Tensor]


def weight(seed: int) -> Tensor:
    made: Tensor = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed))
    return made.div(WIDTH**0.5)


W_Q, W_K, W_V, W_O = (weight(seed) for seed in range(4))


def tokens() -> Tensor:
    return torch.randn(BATCH, TOKENS, WIDTH, generator=torch.Generator().manual_seed(9))


def pieces(x: Tensor, size: int, dim: int) -> list[Tensor]:
    starts = range(0, x.shape[dim], size)
    return [x.narrow(dim, start, min(size, x.shape[dim] - start)) for start in starts]


def split(x: Tensor) -> list[Tensor]:
    """q, k and v, (B, H, N, D)."""
    parts = ((x @ w).view(BATCH, TOKENS, HEADS, DIM) for w in (W_Q, W_K, W_V))
    return [part.transpose(1, 2) for part in parts]


def of_head(x: Tensor, head: int) -> list[Tensor]:
    """q, k and v of a head, (B, N, D)."""
    here = slice(head * DIM, (head + 1) * DIM)
    return [x @ w[:, here] for w in (W_Q, W_K, W_V)]


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    y: Tensor = (q @ k.mT * DIM**-0.5).softmax(-1) @ v
    return y


def merge(y: Tensor) -> Tensor:
    """(B, H, N, D) → (B, N, H·D)."""
    return y.transpose(1, 2).reshape(BATCH, -1, WIDTH)


def expected(x: Tensor) -> Tensor:
    q, k, _ = split(x)
    weights: Tensor = (q @ k.mT * DIM**-0.5).softmax(-1)
    return weights


def fused_chunks(size: int) -> Attention:
    def run(x: Tensor) -> Tensor:
        q, k, v = split(x)
        parts = [F.scaled_dot_product_attention(part, k, v) for part in pieces(q, size, 2)]
        return merge(torch.cat(parts, 2)) @ W_O

    return run


def chunks_by_hand(size: int) -> Attention:
    def run(x: Tensor) -> Tensor:
        q, k, v = split(x)
        return torch.cat([merge(by_hand(part, k, v)) for part in pieces(q, size, 2)], 1) @ W_O

    return run


def projected_chunks(size: int) -> Attention:
    def run(x: Tensor) -> Tensor:
        q, k, v = split(x)
        return torch.cat([merge(by_hand(part, k, v)) @ W_O for part in pieces(q, size, 2)], 1)

    return run


def chunks_in_a_buffer(size: int) -> Attention:
    def run(x: Tensor) -> Tensor:
        q, k, v = split(x)
        y = torch.empty(BATCH, HEADS, TOKENS, DIM)
        for start in range(0, TOKENS, size):
            y[:, :, start : start + size] = by_hand(q[:, :, start : start + size], k, v)
        return merge(y) @ W_O

    return run


def heads_side_by_side(x: Tensor) -> Tensor:
    return torch.cat([by_hand(*of_head(x, head)) for head in range(HEADS)], -1) @ W_O


def heads_stacked(x: Tensor) -> Tensor:
    parts = []
    for head in range(HEADS):
        q, k, v = (part[:, None] for part in of_head(x, head))
        parts.append(F.scaled_dot_product_attention(q, k, v)[:, 0])
    return merge(torch.stack(parts, 1)) @ W_O


def heads_stacked_behind_tokens(x: Tensor) -> Tensor:
    parts = [by_hand(*of_head(x, head)) for head in range(HEADS)]
    return torch.stack(parts, 2).reshape(BATCH, TOKENS, WIDTH) @ W_O


def heads_summed(x: Tensor) -> Tensor:
    parts = [
        by_hand(*of_head(x, head)) @ W_O[head * DIM : (head + 1) * DIM] for head in range(HEADS)
    ]
    total: Tensor = sum(parts)  # type: ignore[assignment]
    return total


def chunks_of_heads(x: Tensor) -> Tensor:
    parts = []
    for head in range(HEADS):
        q, k, v = of_head(x, head)
        parts.append(torch.cat([by_hand(part, k, v) for part in pieces(q, 7, 1)], 1))
    return torch.cat(parts, -1) @ W_O


PIECES: dict[str, Attention] = {
    **{f"fused chunks of {size}": fused_chunks(size) for size in (1, 7, 19)},
    **{f"chunks of {size} by hand": chunks_by_hand(size) for size in (1, 7, 19)},
    **{f"chunks of {size}, each projected": projected_chunks(size) for size in (7, 19)},
    **{f"chunks of {size} in a buffer": chunks_in_a_buffer(size) for size in (7, 19)},
    "heads side by side": heads_side_by_side,
    "heads stacked": heads_stacked,
    "heads stacked behind tokens": heads_stacked_behind_tokens,
    "heads summed": heads_summed,
    "chunks of heads": chunks_of_heads,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("calls", [None, [-1], [0]])
@pytest.mark.parametrize("name", PIECES)
def test_pieces_are_one_call(name: str, calls: list[int] | None, mode: Callable[[], Any]) -> None:
    x = tokens()
    with mode(), attnviz.record(calls=calls) as recording:
        PIECES[name](x)
    (call,) = recording
    torch.testing.assert_close(call.matrix(), expected(x), rtol=0, atol=1e-5)
    error = call.check()
    assert error is not None
    assert error < 1e-5
    assert call.projection is not None
    torch.testing.assert_close(call.projection.reshape(WIDTH, WIDTH), W_O)


@pytest.mark.parametrize("name", PIECES)
def test_gradients_of_pieces_are_those_of_the_one(name: str) -> None:
    x = tokens().requires_grad_()
    with attnviz.record(gradients=True) as recording:
        y = PIECES[name](x)
    found = recording.gradients(y[:, 0].square().sum())[0]
    by_output = 2 * y[:, 0].detach() @ W_O.T  # of the first token's heads, the others have none
    wanted = torch.zeros(BATCH, TOKENS, WIDTH)
    wanted[:, 0] = by_output
    wanted = wanted.view(BATCH, TOKENS, HEADS, DIM).transpose(1, 2)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_biases_of_pieces_are_put_side_by_side() -> None:
    q, k, v = split(tokens())
    bias = torch.randn(1, HEADS, TOKENS, TOKENS)
    with torch.no_grad(), attnviz.record() as recording:
        parts = [
            F.scaled_dot_product_attention(part, k, v, attn_mask=mask)
            for part, mask in zip(pieces(q, 6, 2), pieces(bias, 6, 2), strict=True)
        ]
        merge(torch.cat(parts, 2)) @ W_O
    (call,) = recording
    wanted = (q @ k.mT * DIM**-0.5 + bias).softmax(-1)
    torch.testing.assert_close(call.matrix(), wanted, rtol=0, atol=1e-5)


def test_layers_one_behind_the_other_stay_apart() -> None:
    x = tokens()
    with torch.no_grad(), attnviz.record() as recording:
        y = x + chunks_by_hand(7)(x)
        z = y + heads_side_by_side(y)
        heads_summed(z)
    assert [call.shape for call in recording] == 3 * [(BATCH, HEADS, TOKENS, TOKENS)]
    for call, given in zip(recording, (x, y, z), strict=True):
        torch.testing.assert_close(call.matrix(), expected(given), rtol=0, atol=1e-5)


def test_calls_over_other_keys_are_no_chunks_of_one() -> None:
    q, k, v = split(tokens())
    with torch.no_grad(), attnviz.record() as recording:
        one = F.scaled_dot_product_attention(q[:, :, :9], k, v)
        other = F.scaled_dot_product_attention(q[:, :, 9:], 2 * k, v)
        merge(torch.cat([one, other], 2)) @ W_O
    assert [call.shape[2] for call in recording] == [9, 11]


def test_windows_one_after_the_other_are_items_of_one_call() -> None:
    picture = torch.randn(1, 3, 32, 32)
    embedding = torch.randn(WIDTH, 3, 8, 8)
    with torch.no_grad(), attnviz.record(picture=picture) as recording:
        grid = F.conv2d(picture, embedding, stride=8)[0].permute(1, 2, 0)  # (4, 4, C)
        parts = []
        for y in (0, 2):
            for x in (0, 2):
                window = grid[y : y + 2, x : x + 2].reshape(1, 1, 4, WIDTH)
                parts.append(F.scaled_dot_product_attention(window, window, window)[:, 0])
        torch.cat(parts, 0) @ W_O
    (call,) = recording
    assert call.shape == (4, 1, 4, 4)
    assert call.query_positions is not None
    assert call.query_positions[:, 0].tolist() == [[4, 4], [20, 4], [4, 20], [20, 20]]
