"""Attention written by hand, in the spellings that models use."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnviz.recording import Recording

Watch = Callable[..., tuple[Recording, Any]]
Result = tuple[Tensor, Tensor]
"""What a model returns, and its weights, (B, H, Nq, Nk)."""
MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "with gradients": torch.enable_grad,
}
B, H, N, D = 2, 3, 6, 4
SPELLINGS: dict[str, Callable[[Tensor, Tensor, Tensor], Result]] = {}


def spelling(function: Callable[[Tensor, Tensor, Tensor], Result]) -> object:
    SPELLINGS[function.__name__.strip("_")] = function
    return function


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape)


def side_by_side(output: Tensor) -> Tensor:
    """(B, H, N, D) → (B, N, H·D)."""
    return output.transpose(1, 2).reshape(output.shape[0], output.shape[2], -1)


def met(scores: Tensor, v: Tensor) -> Result:
    a = scores.softmax(-1)
    return side_by_side(a @ v), a


@spelling
def plain(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(q @ k.transpose(-2, -1), v)


@spelling
def einsum(q: Tensor, k: Tensor, v: Tensor) -> Result:
    a = torch.einsum("bhid,bhjd->bhij", q, k).div(2).softmax(-1)
    return torch.einsum("bhij,bhjd->bihd", a, v).flatten(2), a


@spelling
def einsum_of_tokens_first(q: Tensor, k: Tensor, v: Tensor) -> Result:
    q, k, v = (t.transpose(1, 2).contiguous() for t in (q, k, v))
    a = torch.einsum("bnhd,bmhd->bhnm", q, k).softmax(-1)
    return torch.einsum("bhnm,bmhd->bnhd", a, v).flatten(2), a


@spelling
def scaled_before(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met((q * 0.7) @ (k * 0.6).mT, v)


@spelling
def scaled_after(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(0.4 * (q @ k.mT), v)


@spelling
def divided(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(q @ k.mT / torch.tensor(float(D)).sqrt(), v)


@spelling
def negated(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(-(q @ k.mT), v)


@spelling
def cosine_with_a_scale_for_each_head(q: Tensor, k: Tensor, v: Tensor) -> Result:
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
    return met(scores * (3 * torch.rand(H, 1, 1)).exp(), v)


@spelling
def divided_for_each_head(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(q @ k.mT / (torch.rand(H, 1, 1) + 0.5), v)


@spelling
def baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Result:
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    a = torch.baddbmm(drawn(B * H, N, N), q, k.mT, beta=0.5, alpha=0.3).softmax(-1)
    return side_by_side(torch.bmm(a, v).view(B, H, N, D)), a.view(B, H, N, N)


@spelling
def baddbmm_without_its_first_operand(q: Tensor, k: Tensor, v: Tensor) -> Result:
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    nothing = torch.full((B * H, N, N), torch.nan)
    a = torch.baddbmm(nothing, q, k.mT, beta=0, alpha=0.3).softmax(-1)
    return side_by_side(torch.bmm(a, v).view(B, H, N, D)), a.view(B, H, N, N)


@spelling
def softmax_over_rows_of_keys_times_queries(q: Tensor, k: Tensor, v: Tensor) -> Result:
    a = (k @ q.mT * 0.5).softmax(-2)
    return side_by_side(a.mT @ v), a.mT


@spelling
def values_times_weights(q: Tensor, k: Tensor, v: Tensor) -> Result:
    a = (q @ k.mT * 0.5).softmax(-1)
    return (v.mT @ a.mT).reshape(B, -1, N), a


@spelling
def values_times_softmax_over_rows(q: Tensor, k: Tensor, v: Tensor) -> Result:
    a = (k @ q.mT).softmax(-2)
    return (v.mT @ a).flatten(1, 2), a.mT


@spelling
def bias_before_scaling(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met((q @ k.mT + drawn(H, N, N)) * 0.5, v)


@spelling
def bias_after_scaling(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(drawn(1, H, N, N) + q @ k.mT * 0.5, v)


@spelling
def bias_taken_away(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(q @ k.mT * 0.5 - drawn(1, 1, N, N), v)


@spelling
def scores_taken_from_a_bias(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(drawn(1, 1, N, N) - q @ k.mT, v)


@spelling
def scores_added_to_a_bias_with_a_factor(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(torch.add(drawn(B, H, N, N), q @ k.mT, alpha=0.5), v)


@spelling
def masks_of_windows_added_in_five_dimensions(q: Tensor, k: Tensor, v: Tensor) -> Result:
    mask = torch.where(torch.rand(B, N, N) < 0.3, -100.0, 0.0)
    scores = (q @ k.mT + drawn(H, N, N)).view(1, B, H, N, N)
    return met((scores + mask[None, :, None]).view(-1, H, N, N), v)


@spelling
def padding_of_minus_ten_thousand(q: Tensor, k: Tensor, v: Tensor) -> Result:
    mask = torch.ones(B, 1, 1, N)
    mask[..., -2:] = 0
    return met(q @ k.mT + (1.0 - mask) * -10000, v)


CAUSAL = torch.ones(N, N, dtype=torch.bool).triu(1)


@spelling
def filled_with_infinity(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met((q @ k.mT).masked_fill(CAUSAL, -torch.inf), v)


@spelling
def filled_with_a_large_number(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met((q @ k.mT).masked_fill(CAUSAL, -1e9), v)


@spelling
def filled_with_the_least_number(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met((q @ k.mT).masked_fill(CAUSAL, torch.finfo(torch.float32).min), v)


@spelling
def the_least_number_added(q: Tensor, k: Tensor, v: Tensor) -> Result:
    mask = torch.zeros(N, N).masked_fill(CAUSAL, torch.finfo(torch.float32).min)
    return met(q @ k.mT + mask, v)


@spelling
def where(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(torch.where(CAUSAL, -torch.inf, q @ k.mT), v)


@spelling
def the_largest_scores_only(q: Tensor, k: Tensor, v: Tensor) -> Result:
    scores = q @ k.mT
    least = scores.topk(3, -1)[0][..., -1:]
    return met(torch.where(scores < least, -torch.inf, scores), v)


@spelling
def in_place(q: Tensor, k: Tensor, v: Tensor) -> Result:
    scores = q @ k.mT
    scores *= 0.5
    scores.add_(drawn(H, N, N)).masked_fill_(CAUSAL, -torch.inf)
    scores /= 2
    scores -= drawn(N, N)
    return met(scores, v)


@spelling
def softmax_into_other_memory(q: Tensor, k: Tensor, v: Tensor) -> Result:
    with torch.no_grad():
        scores = q @ k.mT
        a = torch.softmax(scores, -1, out=torch.empty_like(scores))
    return side_by_side(a @ v), a


@spelling
def softmax_into_its_own_memory(q: Tensor, k: Tensor, v: Tensor) -> Result:
    with torch.no_grad():
        scores = (q @ k.mT).mul_(0.3)
        torch.softmax(scores, -1, out=scores)
    return side_by_side(scores @ v), scores


@spelling
def positions_of_rows_and_columns(q: Tensor, k: Tensor, v: Tensor) -> Result:
    r = q.view(B, H, 2, 3, D)
    rows = torch.einsum("bnhwc,hkc->bnhwk", r, drawn(2, 2, D))
    columns = torch.einsum("bnhwc,wkc->bnhwk", r, drawn(3, 3, D))
    scores = (q @ k.mT * 0.5).view(B, H, 2, 3, 2, 3)
    scores = scores + rows[..., None] + columns[..., None, :]
    return met(scores.view(B, H, N, N), v)


@spelling
def positions_without_the_class_token(q: Tensor, k: Tensor, v: Tensor) -> Result:
    q, k, v = (t[:, :, :5] for t in (q, k, v))
    scores = q @ k.mT * 0.5
    patches = scores[:, :, 1:, 1:].view(B, H, 2, 2, 2, 2)
    patches = patches + drawn(B, H, 2, 2, 2, 1) + drawn(B, H, 2, 2, 1, 2)
    scores[:, :, 1:, 1:] = patches.view(B, H, 4, 4)
    return met(scores, v)


@spelling
def bias_added_to_a_part_in_place(q: Tensor, k: Tensor, v: Tensor) -> Result:
    scores = q @ k.mT
    scores[:, :, 1:, 1:] += drawn(H, N - 1, N - 1)
    return met(scores, v)


@spelling
def soft_cap(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(2 * torch.tanh(q @ k.mT / 2), v)


@spelling
def clamped(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met((q @ k.mT).clamp(-1, 1), v)


@spelling
def without_the_largest(q: Tensor, k: Tensor, v: Tensor) -> Result:
    scores = q @ k.mT
    return met(scores - scores.amax(-1, keepdim=True), v)


@spelling
def heads_seen_in_the_last_view_only(q: Tensor, k: Tensor, v: Tensor) -> Result:
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    a = torch.bmm(q, k.mT).softmax(-1)
    return torch.bmm(a, v).view(B, H, N, D).transpose(1, 2).reshape(B, N, H * D), a.view(B, H, N, N)


@spelling
def heads_before_the_batch(q: Tensor, k: Tensor, v: Tensor) -> Result:
    q, k, v = (t.transpose(0, 1).flatten(0, 1) for t in (q, k, v))
    a = torch.bmm(q, k.mT).softmax(-1)
    output = torch.bmm(a, v).view(H, B, N, D).permute(1, 2, 0, 3).reshape(B, N, H * D)
    return output, a.view(H, B, N, N).transpose(0, 1)


@spelling
def heads_folded_into_the_batch_and_back(q: Tensor, k: Tensor, v: Tensor) -> Result:
    a = (q @ k.mT).softmax(-1)
    output = (a @ v).flatten(0, 1).view(B, H, N, D)
    return side_by_side(output), a


@spelling
def one_head_without_its_dimension(q: Tensor, k: Tensor, v: Tensor) -> Result:
    a = (q[:, 0] @ k[:, 0].mT).softmax(-1)
    return a @ v[:, 0], a[:, None]


@spelling
def one_head(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(q[:, :1] @ k[:, :1].mT, v[:, :1])


@spelling
def heads_beside_queries_in_the_softmax(q: Tensor, k: Tensor, v: Tensor) -> Result:
    a = (q @ k.mT).view(B, H * N, N).softmax(-1).view(B, H, N, N)
    return side_by_side(a @ v), a


@spelling
def one_query(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(q[:, :, :1] @ k.mT, v)


@spelling
def one_query_squeezed_away(q: Tensor, k: Tensor, v: Tensor) -> Result:
    a = (k @ q[:, :, 0, :, None]).squeeze(-1).softmax(-1)
    return (a[:, :, None] @ v).flatten(1), a[:, :, None]


@spelling
def one_token_of_one_number(q: Tensor, k: Tensor, v: Tensor) -> Result:
    q, k, v = (t[:1, :1, :1, :1] for t in (q, k, v))
    return met(q @ k.mT, v)


@spelling
def one_picture(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(q[:1] @ k[:1].mT, v[:1])


@spelling
def matrices_without_batch(q: Tensor, k: Tensor, v: Tensor) -> Result:
    a = (q[0, 0] @ k[0, 0].T + drawn(N, N)).softmax(-1)
    return a @ v[0, 0], a[None, None]


@spelling
def heads_without_batch(q: Tensor, k: Tensor, v: Tensor) -> Result:
    a = (q[0] @ k[0].mT).softmax(-1)
    return (a @ v[0]).transpose(0, 1).reshape(N, -1), a[None]


@spelling
def other_tokens_of_other_widths(q: Tensor, _k: Tensor, _v: Tensor) -> Result:
    return met(q @ drawn(B, H, 9, D).mT, drawn(B, H, 9, 5))


@spelling
def heads_that_share_keys(q: Tensor, k: Tensor, v: Tensor) -> Result:
    return met(q @ k[:, :1].mT, v[:, :1])


@spelling
def groups_of_heads_in_five_dimensions(_q: Tensor, _k: Tensor, _v: Tensor) -> Result:
    q, k, v = drawn(B, 2, 2, N, D), drawn(B, 2, 1, N, D), drawn(B, 2, 1, N, D)
    a = (q @ k.mT).softmax(-1)
    return (a @ v).permute(0, 3, 1, 2, 4).reshape(B, N, -1), a.flatten(1, 2)


@spelling
def windows_in_five_dimensions(_q: Tensor, _k: Tensor, _v: Tensor) -> Result:
    q, k, v = drawn(3, B, 4, H, N, D).unbind()
    a = (q @ k.mT).softmax(-1)
    return (a @ v).transpose(2, 3).reshape(B, 4, N, -1), a.flatten(0, 1)


@spelling
def double_precision(q: Tensor, k: Tensor, v: Tensor) -> Result:
    output, a = met(q.double() @ k.double().mT, v.double())
    return output, a.float()


@spelling
def talking_heads(q: Tensor, k: Tensor, v: Tensor) -> Result:
    before, after = nn.Linear(H, H), nn.Linear(H, H)
    scores = before((q @ k.mT).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    a = scores.softmax(-1)
    mixed = after(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return side_by_side(mixed @ v), a


@spelling
def frozen_talking_heads_without_bias(q: Tensor, k: Tensor, v: Tensor) -> Result:
    before, after = (nn.Linear(H, H, bias=False).requires_grad_(False) for _ in range(2))
    scores = before((q @ k.mT).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    a = scores.softmax(-1)
    mixed = after(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return side_by_side(mixed @ v), a


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SPELLINGS)
def test_a_spelling_is_recorded_with_the_weights_of_its_own_softmax(
    name: str, mode: str, watch: Watch
) -> None:
    with MODES[mode]():
        torch.manual_seed(0)
        q, k, v = (drawn(B, H, N, D).requires_grad_(mode == "with gradients") for _ in range(3))
        recording, (_, weights) = watch(lambda: SPELLINGS[name](q, k, v))
    assert recording.unread == []
    (call,) = recording
    assert call.shape == weights.shape
    assert (call.matrix() - weights.detach()).abs().max() < 1e-5
    error = call.check()
    assert error is not None
    assert error < 1e-4
    assert not call.query.requires_grad


def test_one_product_may_have_a_softmax_both_ways(watch: Watch) -> None:
    q, k, v = drawn(3, B, H, N, D).unbind()

    def run() -> tuple[Tensor, ...]:
        scores = q @ k.mT
        there, back = scores.mT.softmax(-1), scores.softmax(-1)
        return there @ v, back @ v, there, back

    recording, (*_, there, back) = watch(run)
    assert recording.unread == []
    for call, weights in zip(recording, (there, back), strict=True):
        torch.testing.assert_close(call.matrix(), weights, atol=1e-6, rtol=0)
        assert (call.check() or 0) < 1e-5


def in_bfloat16(q: Tensor, k: Tensor, v: Tensor) -> Result:
    q, k, v = (t.bfloat16() for t in (q, k, v))
    a = (q @ k.mT * 0.5).float().softmax(-1)
    return side_by_side(a.to(v.dtype) @ v), a


def in_float16(q: Tensor, k: Tensor, v: Tensor) -> Result:
    q, k, v = (t.half() for t in (q, k, v))
    a = F.softmax(q @ k.mT * 0.5, -1, dtype=torch.float32)
    return side_by_side(a.to(v.dtype) @ v), a


def under_autocast(q: Tensor, k: Tensor, v: Tensor) -> Result:
    with torch.autocast("cpu", torch.bfloat16):
        return met(q @ k.mT * 0.5, v)


@pytest.mark.parametrize("attention", [in_bfloat16, in_float16, under_autocast])
def test_half_precision_is_recorded_to_its_own_precision(
    attention: Callable[[Tensor, Tensor, Tensor], Result], watch: Watch
) -> None:
    q, k, v = drawn(3, B, H, N, D).unbind()
    recording, (_, weights) = watch(lambda: attention(q, k, v))
    (call,) = recording
    assert (call.matrix() - weights.float()).abs().max() < 2**-8
    error = call.check()
    assert error is not None
    assert error < 2**-6


def test_heads_that_are_looped_over_are_a_call_each(watch: Watch) -> None:
    q, k, v = drawn(3, B, H, N, D).unbind()

    def run() -> Result:
        each = [met(q[:, i : i + 1] @ k[:, i : i + 1].mT, v[:, i : i + 1]) for i in range(H)]
        return torch.cat([o for o, _ in each], -1), torch.cat([a for _, a in each], 1)

    recording, (_, weights) = watch(run)
    found = torch.cat([call.matrix() for call in recording], 1)
    torch.testing.assert_close(found, weights, atol=1e-6, rtol=0)
