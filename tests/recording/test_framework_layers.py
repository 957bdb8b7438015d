"""nn.MultiheadAttention, nn.TransformerEncoderLayer and nn.TransformerEncoder, all their paths."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attnviz
from attnviz.attention import AttentionCall
from attnviz.recording import Recording

NESTED = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
Watch = Callable[..., tuple[Recording, Any]]
MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,  # the fast path of self-attention
    "inference_mode": torch.inference_mode,  # the same, and composites stay whole
    "with gradients": torch.enable_grad,
}


def assert_is(call: AttentionCall, weights: Tensor, rows: Tensor | None = None) -> None:
    """The call has these weights, in the rows that count, and explains its output."""
    assert call.shape == weights.shape
    difference = (call.matrix() - weights.detach()).abs()
    if rows is not None:
        difference = difference * rows[:, None, :, None]
    assert difference.max() < 1e-5
    error = call.check()
    assert error is not None
    assert error < 1e-4


def masks(batch: int, queries: int, keys: int) -> list[dict[str, Tensor]]:
    """No mask, one that is added, one that forbids, with padding of both kinds."""
    forbidden = torch.rand(queries, keys) < 0.3
    forbidden[:, 0] = False
    padding = torch.zeros(batch, keys, dtype=torch.bool)
    padding[-1, -2:] = True
    added = torch.zeros(batch, keys).masked_fill(padding, -torch.inf)
    return [
        {},
        {"attn_mask": torch.randn(queries, keys)},
        {"attn_mask": forbidden},
        {"key_padding_mask": padding},
        {"attn_mask": forbidden, "key_padding_mask": padding},
        {"attn_mask": torch.randn(queries, keys), "key_padding_mask": added},
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["self", "cross", "other widths"])
def test_multihead_attention_is_recorded_as_it_returns_its_weights(
    mode: str, batch_first: bool, kind: str, watch: Watch
) -> None:
    torch.manual_seed(0)
    widths = {"kdim": 6, "vdim": 10} if kind == "other widths" else {}
    for heads, batch in ((1, 3), (4, 1), (4, 3)):
        layer = nn.MultiheadAttention(8, heads, batch_first=batch_first, **widths).eval()
        q = torch.randn(batch, 5, 8)
        k = q if kind == "self" else torch.randn(batch, 7, widths.get("kdim", 8))
        v = q if kind == "self" else torch.randn(batch, 7, widths.get("vdim", 8))
        given = [q, k, v] if batch_first else [t.transpose(0, 1) for t in (q, k, v)]
        if kind == "self":
            given = [given[0]] * 3  # one and the same, which the fast path asks for
        for mask, (need, average) in itertools.product(
            masks(batch, 5, k.shape[1]), ((False, True), (True, True), (True, False))
        ):
            _, weights = layer(*given, average_attn_weights=False, **mask)

            def run(
                layer: nn.Module = layer,
                given: list[Tensor] = given,
                options: dict[str, Any] = mask
                | {"need_weights": need, "average_attn_weights": average},
            ) -> Any:
                return layer(*given, **options)

            with MODES[mode]():
                recording, _ = watch(run)
            (call,) = recording
            assert_is(call, weights)
            assert call.heads == heads
            assert recording.unread == []


def encoder(norm_first: bool, activation: str, batch_first: bool) -> nn.TransformerEncoder:
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(
        8, 2, 12, 0.0, activation, batch_first=batch_first, norm_first=norm_first
    )
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first and not norm_first)
    return model.eval()


def weights_of(model: nn.TransformerEncoder, x: Tensor, **masks: Tensor) -> list[Tensor]:
    """What each layer's attention returns, asked outside of any fast path."""
    found = []
    for layer in model.layers:
        assert isinstance(layer, nn.TransformerEncoderLayer)
        z = layer.norm1(x) if layer.norm_first else x
        asked = layer.self_attn(
            z,
            z,
            z,
            attn_mask=masks.get("mask"),
            key_padding_mask=masks.get("src_key_padding_mask"),
            average_attn_weights=False,
        )
        found.append(asked[1].detach())
        x = layer(x, masks.get("mask"), masks.get("src_key_padding_mask"))
    return found


@pytest.mark.parametrize("mode", [*MODES, "training"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_layers_of_an_encoder_are_recorded_on_every_path(
    mode: str, batch_first: bool, norm_first: bool, activation: str, watch: Watch
) -> None:
    model = encoder(norm_first, activation, batch_first)
    x = torch.randn(3, 5, 8)
    x = x if batch_first else x.transpose(0, 1)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    for masks in ({}, {"mask": causal}):
        expected = weights_of(model, x, **masks)
        model.train(mode == "training")
        with MODES.get(mode, torch.enable_grad)():
            recording, _ = watch(lambda m=masks: model(x, **m))
            first, _ = watch(lambda m=masks: model.layers[0](x, m.get("mask")))
        model.eval()
        assert (len(recording), len(first)) == (2, 1)
        for call, weights in zip([*recording, first[0]], [*expected, expected[0]], strict=True):
            assert_is(call, weights)
        assert recording.unread == []


@NESTED
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm_first", [True, False])
def test_padding_of_an_encoder_is_recorded_or_named_where_it_becomes_nested_tensors(
    mode: str, norm_first: bool, watch: Watch
) -> None:
    model, x, mask = encoder(norm_first, "relu", batch_first=True), torch.randn(3, 5, 8), padding()
    expected = weights_of(model, x, src_key_padding_mask=mask)
    with MODES[mode]():
        recording, _ = watch(lambda: model(x, src_key_padding_mask=mask))
    if mode != "with gradients" and not norm_first:
        assert len(recording) == 0
        assert recording.unread == ["_transformer_encoder_layer_fwd of nested tensors"]
        return
    for call, weights in zip(recording, expected, strict=True):
        assert_is(call, weights, rows=~mask)
    assert recording.unread == []


def padding() -> Tensor:
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, -2:] = True
    mask[-1, -1:] = True
    return mask


def fast_path(x: Tensor) -> Tensor:
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    result: Tensor = layer(x, x, x, need_weights=False)[0]
    return result


def by_hand(x: Tensor) -> Tensor:
    return torch.softmax(x @ x.transpose(1, 2), -1) @ x


def fused(x: Tensor) -> Tensor:
    x = torch.unflatten(x, -1, [2, 4]).transpose(1, 2)
    return F.scaled_dot_product_attention(x, x, x)


@NESTED
@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
@pytest.mark.parametrize(
    ("attention", "layout", "recorded"),
    [(fast_path, torch.strided, 0), (by_hand, torch.strided, 1), (fused, torch.jagged, 1)],
)
def test_attention_of_nested_tensors_is_left_alone_and_recorded_or_named(
    mode: str, attention: Callable[[Tensor], Tensor], layout: torch.layout, recorded: int
) -> None:
    with MODES[mode]():
        parts = [torch.randn(3, 8), torch.randn(5, 8)]
        x = torch.nested.nested_tensor(parts, layout=layout)
        torch.manual_seed(2)
        expected = attention(x)
        torch.manual_seed(2)
        with attnviz.record() as recording:
            output = attention(x)
    assert all(map(torch.equal, output.unbind(), expected.unbind()))
    assert len(recording) == recorded
    if recorded:
        assert recording.unread == []
        assert (recording[0].check() or 0) < 1e-5
    else:
        (said,) = recording.unread
        assert said.endswith("of nested tensors")
