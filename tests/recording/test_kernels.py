"""Kernels of flash-attn and xFormers, stood in for by operators of the same names and schemas."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import attnviz
from attnviz.recording import Recording

Watch = Callable[..., tuple[Recording, Any]]
FLASH = (
    "_flash_attn_forward(Tensor q, Tensor k, Tensor v, float dropout_p, float softmax_scale, "
    "bool causal, int window_size_left, int window_size_right, float softcap, "
    "Tensor? alibi_slopes, bool return_softmax) -> (Tensor, Tensor, Tensor, Tensor)"
)
VARLEN = (
    "_flash_attn_varlen_forward(Tensor q, Tensor k, Tensor v, Tensor cu_seqlens_q, "
    "Tensor cu_seqlens_k, float softmax_scale, bool causal) -> Tensor"
)
XFLASH = (
    "flash_fwd(Tensor query, Tensor key, Tensor value, Tensor? cu_seqlens_q, "
    "Tensor? cu_seqlens_k, Tensor? seqused_k, int max_seqlen_q, int max_seqlen_k, float p, "
    "float softmax_scale, bool is_causal, int window_left, int window_right, "
    "bool return_softmax, Tensor? block_tables) -> (Tensor, Tensor, Tensor)"
)
CUTLASS = (
    "efficient_attention_forward_cutlass(Tensor query, Tensor key, Tensor value, "
    "Tensor? attn_bias, Tensor? seqstart_q, Tensor? seqstart_k, int? max_seqlen_q, "
    "float dropout_p, bool compute_logsumexp, int custom_mask_type, float? scale, "
    "Tensor? seqlen_k, int? window_size) -> (Tensor, Tensor, int, int)"
)


def weights_of(  # noqa: PLR0917
    q: Tensor, k: Tensor, scale: float, left: int, right: int, corner: int
) -> Tensor:
    """(B, N, H, D), (B, M, H, D) → (B, H, N, M): i sees keys i−left … i+right, below 0: all.

    `corner` is added to i.
    """
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * scale
    i = torch.arange(q.shape[1])[:, None] + corner
    j = torch.arange(k.shape[1])
    seen = ((left < 0) | (j >= i - left)) & ((right < 0) | (j <= i + right))
    return scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0.0)


def flash(  # noqa: PLR0917
    q: Tensor,
    k: Tensor,
    v: Tensor,
    _dropout: float,
    scale: float,
    causal: bool,
    left: int,
    right: int,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Since 2.1 the corner of its causal mask is the last key of the last query."""
    k, v = (t.repeat_interleave(q.shape[2] // t.shape[2], 2) for t in (k, v))
    right = 0 if causal else right
    a = weights_of(q, k, scale, left, right, k.shape[1] - q.shape[1])
    nothing = q.new_empty(0)
    return torch.einsum("bhij,bjhd->bihd", a, v), nothing, nothing, nothing


def flash_of_several_lengths(  # noqa: PLR0917
    q: Tensor, k: Tensor, v: Tensor, of_q: Tensor, of_k: Tensor, scale: float, causal: bool
) -> Tensor:
    parts = [
        flash(q[None, a:b], k[None, c:d], v[None, c:d], 0.0, scale, causal, -1, -1)[0][0]
        for (a, b), (c, d) in zip(pairs(of_q), pairs(of_k), strict=True)
    ]
    return torch.cat(parts)


def pairs(offsets: Tensor) -> list[tuple[int, int]]:
    return list(pairwise(offsets.tolist()))


def flash_of_xformers(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    _, scale, causal, left, right = rest[5:10]
    return flash(q, k, v, 0.0, scale, causal, left, right)[:3]


def cutlass(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, int, int]:
    bias, kind, scale = rest[0], rest[6], rest[7]
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * (
        q.shape[-1] ** -0.5 if scale is None else scale
    )
    scores = scores if bias is None else scores + bias
    corner = k.shape[1] - q.shape[1] if kind == 2 else 0
    hidden = torch.ones(scores.shape[-2:]).triu(1 + corner).bool() & (kind > 0)
    a = scores.masked_fill(hidden, -torch.inf).softmax(-1).nan_to_num(0.0)
    return torch.einsum("bhij,bjhd->bihd", a, v), q.new_empty(0), 0, 0


@pytest.fixture(autouse=True, scope="module")
def _operators() -> Iterator[None]:
    """The operators, as the packages would define them."""
    with ExitStack() as stack:
        for space, schema, function in (
            ("flash_attn", FLASH, flash),
            ("flash_attn", VARLEN, flash_of_several_lengths),
            ("xformers_flash", XFLASH, flash_of_xformers),
            ("xformers", CUTLASS, cutlass),
            ("of_somebody", "linear_attention(Tensor q) -> Tensor", lambda q: q.clone()),
            ("of_somebody", "selective_scan_fwd(Tensor q) -> Tensor", lambda q: q.clone()),
            ("of_somebody", "rotate(Tensor q) -> Tensor", lambda q: q.clone()),
        ):
            library = stack.enter_context(torch.library._scoped_library(space, "FRAGMENT"))
            library.define(schema)
            library.impl(schema.split("(", maxsplit=1)[0], function, "CPU")
        yield


def call_flash(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    given = {
        "dropout_p": 0.0, "softmax_scale": 0.4, "causal": False, "window_size_left": -1,
        "window_size_right": -1, "softcap": 0.0, "alibi_slopes": None, "return_softmax": False,
    } | options  # fmt: skip
    output: Tensor = torch.ops.flash_attn._flash_attn_forward(q, k, v, **given)[0]
    return output


def call_xformers_flash(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    given = {
        "cu_seqlens_q": None, "cu_seqlens_k": None, "seqused_k": None,
        "max_seqlen_q": q.shape[1], "max_seqlen_k": k.shape[1], "p": 0.0, "softmax_scale": 0.4,
        "is_causal": False, "window_left": -1, "window_right": -1, "return_softmax": False,
        "block_tables": None,
    } | options  # fmt: skip
    output: Tensor = torch.ops.xformers_flash.flash_fwd(q, k, v, *given.values())[0]
    return output


def call_cutlass(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    given = {
        "attn_bias": None, "seqstart_q": None, "seqstart_k": None, "max_seqlen_q": -1,
        "dropout_p": 0.0, "compute_logsumexp": False, "custom_mask_type": 0, "scale": 0.4,
        "seqlen_k": None, "window_size": None,
    } | options  # fmt: skip
    operator = torch.ops.xformers.efficient_attention_forward_cutlass
    output: Tensor = operator(query=q, key=k, value=v, **given)[0]
    return output


def tokens(queries: int = 6, keys: int = 6, groups: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q, k = torch.randn(2, queries, 4, 8), torch.randn(2, keys, groups, 8)
    return q, k, torch.randn(2, keys, groups, 5)


FLASHES = [(call_flash, "causal"), (call_xformers_flash, "is_causal")]


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("keys", [6, 9])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize(("kernel", "name"), FLASHES)
def test_flash_attention_is_recorded_with_the_corner_of_its_mask(  # noqa: PLR0917
    kernel: Callable[..., Tensor],
    name: str,
    groups: int,
    is_causal: bool,
    keys: int,
    inference: bool,
    watch: Watch,
) -> None:
    with torch.inference_mode(inference):
        q, k, v = tokens(keys=keys, groups=groups)
        recording, output = watch(lambda: kernel(q, k, v, **{name: is_causal}))
    (call,) = recording
    shared = k.repeat_interleave(4 // groups, 2)
    expected = weights_of(q, shared, 0.4, -1, 0 if is_causal else -1, keys - 6)
    torch.testing.assert_close(call.matrix(), expected, atol=1e-5, rtol=0)
    assert call.output is not None
    assert torch.equal(call.output, output.transpose(1, 2))
    assert (call.check() or 0) < 1e-5


@pytest.mark.parametrize(("kind", "corner"), [(0, None), (1, 0), (2, 3)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("scale", [0.4, None])
def test_the_kernel_of_xformers_is_recorded_with_bias_and_both_causal_masks(
    kind: int, corner: int | None, biased: bool, scale: float | None, watch: Watch
) -> None:
    q, k, v = tokens(keys=9)
    bias = torch.randn(2, 4, 6, 9) if biased else None
    recording, _ = watch(
        lambda: call_cutlass(q, k, v, custom_mask_type=kind, attn_bias=bias, scale=scale)
    )
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * (8**-0.5 if scale is None else scale)
    scores = scores if bias is None else scores + bias
    if corner is not None:
        scores = scores.masked_fill(torch.ones(6, 9).triu(1 + corner).bool(), -torch.inf)
    (call,) = recording
    torch.testing.assert_close(call.matrix(), scores.softmax(-1), atol=1e-5, rtol=0)
    assert (call.check() or 0) < 1e-5


def test_a_window_that_ends_with_the_query_is_causal(watch: Watch) -> None:
    q, k, v = tokens()
    recording, _ = watch(lambda: call_flash(q, k, v, window_size_right=0))
    assert recording[0].causal
    assert (recording[0].check() or 0) < 1e-5


REFUSED: list[tuple[Callable[..., Tensor], dict[str, Any], str]] = [
    (call_flash, {"window_size_left": 2, "window_size_right": 2}, "a sliding window"),
    (call_flash, {"window_size_left": 0, "window_size_right": 0}, "a sliding window"),
    (call_flash, {"window_size_left": 3, "causal": True}, "a sliding window"),
    (call_flash, {"softcap": 30.0}, "soft-capped scores"),
    (call_flash, {"alibi_slopes": torch.ones(4)}, "ALiBi"),
    (call_xformers_flash, {"window_left": 1}, "a sliding window"),
    (
        call_xformers_flash,
        {"seqused_k": torch.tensor([6])},
        "sequences in pages or of unused length",
    ),
    (call_cutlass, {"window_size": 2}, "a sliding window"),
    (
        call_cutlass,
        {"seqlen_k": torch.tensor([6])},
        "sequences in pages or of unused length",
    ),
    (
        call_cutlass,
        {"seqstart_q": torch.tensor([0, 6]), "attn_bias": torch.zeros(2, 4, 6, 6)},
        "a bias over sequences of several lengths",
    ),
]


@pytest.mark.parametrize(("kernel", "options", "said"), REFUSED)
def test_what_a_call_cannot_say_is_named(
    kernel: Callable[..., Tensor], options: dict[str, Any], said: str, watch: Watch
) -> None:
    recording, _ = watch(lambda: kernel(*tokens(), **options))
    assert len(recording) == 0
    (found,) = recording.unread
    assert found.endswith(f" with {said}")


def test_unknown_operators_that_call_themselves_attention_are_named(watch: Watch) -> None:
    q = torch.randn(6, 4)
    recording, _ = watch(
        lambda: torch.ops.of_somebody.rotate(torch.ops.of_somebody.linear_attention(q))
    )
    assert recording.unread == ["of_somebody::linear_attention, which is not known"]
    recording, _ = watch(lambda: torch.ops.of_somebody.selective_scan_fwd(q))
    assert recording.unread == [
        "of_somebody::selective_scan_fwd, a state-space scan, which has no weights over tokens"
    ]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_sequences_of_several_lengths_are_a_batch_with_masked_ends(
    causal: bool, same: bool, watch: Watch
) -> None:
    of_q = torch.tensor([0, 5, 12, 15], dtype=torch.int32)
    of_k = of_q if same else torch.tensor([0, 6, 14, 17], dtype=torch.int32)
    q, k = torch.randn(15, 4, 8), torch.randn(int(of_k[-1]), 4, 8)
    v = torch.randn(len(k), 4, 5)
    kernel = torch.ops.flash_attn._flash_attn_varlen_forward
    recording, _ = watch(lambda: kernel(q, k, v, of_q, of_k, 0.4, causal))
    (call,) = recording
    assert recording.unread == []
    assert (call.check() or 0) < 1e-5
    found = call.matrix()
    for number, ((a, b), (c, d)) in enumerate(zip(pairs(of_q), pairs(of_k), strict=True)):
        apart = (d - c) - (b - a)
        right = 0 if causal else -1
        wanted = weights_of(q[None, a:b], k[None, c:d], 0.4, -1, right, apart)[0]
        torch.testing.assert_close(found[number, :, : b - a, : d - c], wanted, atol=1e-6, rtol=0)
        assert found[number, :, b - a :].abs().sum() == found[number, :, :, d - c :].sum() == 0


def test_places_of_packed_sequences_are_their_own(watch: Watch) -> None:
    x = torch.randn(1, 8, 2, 3)
    offsets = torch.tensor([0, 2, 6], dtype=torch.int32)
    kernel = torch.ops.flash_attn._flash_attn_varlen_forward

    def run() -> Tensor:
        tokens = x.flatten(2).mT[0, :, None]  # (6, 1, 8)
        found: Tensor = kernel(tokens, tokens, tokens, offsets, offsets, 0.4, False)
        return found

    (call,), _ = watch(run, picture=x)
    assert call.key_positions is not None
    expected = torch.tensor([[j + 0.5, i + 0.5] for i in range(2) for j in range(3)])
    torch.testing.assert_close(call.key_positions[0, :2], expected[:2])
    assert bool(call.key_positions[0, 2:].isnan().all())
    torch.testing.assert_close(call.key_positions[1], expected[2:])


@pytest.mark.parametrize("kernel", [call_flash, call_xformers_flash, call_cutlass])
def test_places_pass_through_the_kernel(kernel: Callable[..., Tensor]) -> None:
    picture = torch.randn(1, 8, 2, 3)
    with attnviz.record(picture=picture) as recording:
        x = picture.flatten(2).mT[:, :, None]  # (1, 6, 1, 8)
        y = kernel(x, x, x)
        kernel(y, x, x)
    expected = torch.tensor([[j + 0.5, i + 0.5] for i in range(2) for j in range(3)])
    for call in recording:
        assert call.query_positions is not None
        assert torch.equal(call.query_positions[0], expected)
    assert len(recording) == 2
