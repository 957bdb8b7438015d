"""Projections of recorded calls: the weights behind the heads, with LayerScale, or None."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attnviz
from attnviz.attention import AttentionCall, MultiHeadAttention
from attnviz.recording import Recording

MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "with gradients": torch.enable_grad,
}
SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 64, "image_size": 32, "patch_size": 8}  # fmt: skip
SWIN = {"image_size": 32, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
FAMILIES: dict[str, tuple[dict[str, Any], str | None]] = {
    "ViTConfig": (SMALL, None),
    "Dinov2Config": (SMALL | {"layerscale_value": 0.5}, "layer_scale1.lambda1"),
    "Dinov2WithRegistersConfig": (SMALL | {"layerscale_value": 0.5}, "layer_scale1.lambda1"),
    "CLIPVisionConfig": (SMALL, None),
    "SiglipVisionConfig": (SMALL, None),
    "BeitConfig": (SMALL | {"layer_scale_init_value": 0.5}, "lambda_1"),
    "SwinConfig": (SWIN, None),
}
"""Settings, and where a block has its LayerScale."""


def built(config: str, attention: str) -> nn.Module:
    transformers: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = getattr(transformers, config)(**FAMILIES[config][0])
    settings._attn_implementation = attention
    model: nn.Module = transformers.AutoModel.from_config(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def side_by_side(call: AttentionCall) -> Tensor:
    """The output, (B, N, H·D)."""
    assert call.output is not None
    return call.output.transpose(1, 2).flatten(2)


def laid(layer: nn.Linear, call: AttentionCall) -> Tensor:
    """A layer's weight as (H, D, F)."""
    assert call.output is not None
    return layer.weight.detach().T.reshape(call.output.shape[1], call.output.shape[3], -1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("config", FAMILIES)
def test_projections_are_those_layers_that_the_outputs_go_into(
    config: str, attention: str, mode: str
) -> None:
    model, pixels = built(config, attention), torch.randn(2, 3, 32, 32)
    ran: list[tuple[nn.Linear, Tensor]] = []
    linears = [part for part in model.modules() if type(part) is nn.Linear]
    hooks = [part.register_forward_hook(lambda m, x, _: ran.append((m, x[0]))) for part in linears]
    with MODES[mode](), attnviz.record(blocks=model) as recording:
        model(pixels)
    for hook in hooks:
        hook.remove()
    scale = FAMILIES[config][1]
    for number, call in enumerate(recording):
        if number == 3 and config == "SiglipVisionConfig":  # the pool, a layer of PyTorch's own
            expected = laid(attribute(model, "head.attention.out_proj"), call)
        else:
            flat = side_by_side(call)
            (layer,) = [m for m, x in ran if x.shape == flat.shape and torch.equal(x, flat)]
            expected = laid(layer, call)
        if scale is not None:
            expected = expected * attribute(recording.blocks[number].module, scale).detach()
        assert call.projection is not None
        torch.testing.assert_close(call.projection, expected)
        assert not call.projection.requires_grad


@pytest.mark.parametrize("config", [name for name in FAMILIES if name != "SwinConfig"])
def test_heads_through_their_projections_add_what_the_block_adds_but_for_a_bias(
    config: str,
) -> None:
    model, pixels = built(config, "sdpa"), torch.randn(2, 3, 32, 32)
    added: dict[nn.Module, Tensor] = {}
    for layer in next(p for p in model.modules() if isinstance(p, nn.ModuleList)):
        norms = [part for name, part in layer.named_children() if "norm" in name]
        norms[1].register_forward_pre_hook(lambda m, x: added.update({m: x[0]}))
    with torch.no_grad(), attnviz.record(blocks=model) as recording:
        model(pixels)
    for (number, block), middle in zip(recording.blocks.items(), added.values(), strict=True):
        call = recording[number]
        assert call.output is not None
        assert call.projection is not None
        found = torch.einsum("bhnd,hdf->bnf", call.output, call.projection)
        rest = middle - block.input - found
        assert rest.flatten(0, 1).std(0).max() < 1e-5
        assert found.flatten(0, 1).std(0).max() > 1e-2


def test_projections_of_the_embedded_model_and_of_the_layer_itself() -> None:
    module: Any = attnviz.load_model().module
    layer = MultiHeadAttention(4, 32)
    with torch.no_grad(), attnviz.record() as recording:
        module(torch.randn(1, 3, 48, 64))
        for need in (True, False):
            layer(torch.randn(1, 9, 32), need_weights=need)
    outs = [block.attention.out for block in module.blocks] + [layer.out] * 2
    for call, out in zip(recording, outs, strict=True):
        check_view(call, out)


def check_view(call: AttentionCall, out: nn.Linear) -> None:
    """A projection is a layer's weight, and no copy."""
    assert call.projection is not None
    assert torch.equal(call.projection, laid(out, call))
    storage = call.projection.untyped_storage()
    assert storage.data_ptr() == out.weight.untyped_storage().data_ptr()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("need", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_projections_of_multihead_attention_on_every_path(
    mode: str, need: bool, batch_first: bool
) -> None:
    for heads, batch in ((1, 3), (2, 1), (2, 3)):
        layer = nn.MultiheadAttention(8, heads, batch_first=batch_first).eval()
        encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=batch_first).eval()
        x = torch.randn(batch, 5, 8)
        with MODES[mode](), attnviz.record() as recording:
            layer(x, x, x, need_weights=need)
            encoder(x)
        check_view(recording[0], layer.out_proj)
        check_view(recording[1], encoder.self_attn.out_proj)


B, H, N, D, FEATURES = 2, 3, 5, 4, 7


def attended(fused: bool) -> Tensor:
    q, k, v = torch.randn(3, B, H, N, D).unbind()
    if fused:
        return F.scaled_dot_product_attention(q, k, v)
    return (q @ k.mT).softmax(-1) @ v


def in_two_steps(y: Tensor, layer: nn.Linear) -> Tensor:
    return y.transpose(1, 2).reshape(B, N, -1) @ layer.weight.T + layer.bias


def bias_first(y: Tensor, layer: nn.Linear) -> Tensor:
    return layer.bias + y.transpose(1, 2).flatten(2) @ layer.weight.mT


def for_every_image(y: Tensor, layer: nn.Linear) -> Tensor:
    return torch.bmm(y.transpose(1, 2).flatten(2), layer.weight.T.expand(B, -1, -1)) + layer.bias


def tokens_first(y: Tensor, layer: nn.Linear) -> Tensor:
    result: Tensor = layer(y.permute(2, 0, 1, 3).reshape(N, B, -1)).transpose(0, 1)
    return result


def as_it_is_made(y: Tensor, layer: nn.Linear) -> Tensor:
    result: Tensor = layer(F.dropout(y.transpose(1, 2).flatten(2), 0.5, training=False))
    return result


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "way", [in_two_steps, bias_first, for_every_image, tokens_first, as_it_is_made]
)
def test_a_projection_is_seen_however_it_is_written(
    way: Callable[[Tensor, nn.Linear], Tensor], fused: bool, mode: str
) -> None:
    layer, gamma = nn.Linear(H * D, FEATURES), nn.Parameter(torch.randn(FEATURES))
    with MODES[mode](), attnviz.record() as recording:
        result = way(attended(fused), layer)
        way(attended(fused), layer) * gamma
    (call, scaled) = recording
    torch.testing.assert_close(result, layer(side_by_side(call)))
    check_view(call, layer)
    assert scaled.projection is not None
    torch.testing.assert_close(scaled.projection, laid(layer, call) * gamma.detach())


SCALINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "behind": lambda y, g: y * g,
    "before": lambda y, g: g * y,
    "in place": lambda y, g: y.mul_(g),
    "after dropout": lambda y, g: nn.Dropout().eval()(y) * g,
    "channels first": lambda y, g: y.transpose(1, 2) * g[:, None],
    "a map": lambda y, g: y.mT.reshape(B, -1, 1, N).contiguous() * g.view(1, -1, 1, 1),
    "once": lambda y, g: (y * g) * g,
}
UNSCALED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "after a residual": lambda y, g: (y + torch.ones_like(y)) * g,
    "after a function": lambda y, g: y.tanh() * g,
    "written over": lambda y, g: y.tanh_() * g,
    "a part": lambda y, g: y[:, 1:] * g,
    "another for each token": lambda y, g: y * torch.randn(y.shape) * g,
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("way", [*SCALINGS, *UNSCALED])
def test_a_layer_scale_is_what_comes_next(way: str, fused: bool) -> None:
    layer, gamma = nn.Linear(H * D, FEATURES), torch.randn(FEATURES)
    with torch.no_grad(), attnviz.record() as recording:
        (SCALINGS | UNSCALED)[way](layer(attended(fused).transpose(1, 2).flatten(2)), gamma)
    (call,) = recording
    expected = laid(layer, call) * (gamma if way in SCALINGS else 1)
    assert call.projection is not None
    torch.testing.assert_close(call.projection, expected)


NONE: dict[str, Callable[[Tensor, nn.Linear], Any]] = {
    "no layer": lambda y, _: y.transpose(1, 2).flatten(2) + 1,
    "normalised before": lambda y, f: f(F.layer_norm(y.transpose(1, 2).flatten(2), (H * D,))),
    "gated before": lambda y, f: f(y.transpose(1, 2).flatten(2) * torch.rand(H * D)),
    "gated in place": lambda y, f: f(y.transpose(1, 2).flatten(2).mul_(torch.rand(H * D))),
    "features before heads": lambda y, f: f(y.permute(0, 2, 3, 1).flatten(2)),
    "over tokens": lambda y, _: y.transpose(1, 2).flatten(2).mT @ torch.randn(N, 3),
    "another for each image": lambda y, _: y.transpose(1, 2).flatten(2) @ torch.randn(B, H * D, 3),
    "of some heads": lambda y, f: f(torch.cat([y[:, :1]] * H, 1).transpose(1, 2).flatten(2)),
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("way", NONE)
def test_what_is_no_projection_of_heads_and_features_is_none(way: str, fused: bool) -> None:
    with torch.no_grad(), attnviz.record() as recording:
        NONE[way](attended(fused), nn.Linear(H * D, FEATURES))
    assert [call.projection for call in recording] == [None]
    assert recording.unread == []


def test_a_map_of_each_head_by_itself_is_none() -> None:
    with torch.no_grad(), attnviz.record() as recording:
        _ = attended(fused=True) @ torch.randn(D, 3)
    assert recording[0].projection is None


def test_an_output_that_is_the_next_query_is_scored_not_projected() -> None:
    x = torch.randn(1, N, D)  # one image and one head: keys look like a weight
    with torch.no_grad(), attnviz.record() as recording:
        y = (x @ x.mT).softmax(-1) @ x
        (y @ x.mT).softmax(-1) @ x
    assert [call.projection for call in recording] == [None, None]
    torch.testing.assert_close(recording[1].matrix()[:, 0], (y @ x.mT).softmax(-1))


def test_the_first_projection_counts() -> None:
    first, second = nn.Linear(H * D, FEATURES), nn.Linear(H * D, FEATURES)
    with torch.no_grad(), attnviz.record() as recording:
        y = attended(fused=True).transpose(1, 2).flatten(2)
        first(y)
        second(y)
    check_view(recording[0], first)


@pytest.mark.parametrize("fused", [True, False])
def test_weights_that_are_overwritten_are_copied_before(fused: bool) -> None:
    layer = nn.Linear(H * D, FEATURES)
    with torch.no_grad(), attnviz.record() as recording:
        layer(attended(fused).transpose(1, 2).flatten(2))
        expected = laid(layer, recording[0]).clone()
        layer.weight.zero_()
    assert recording[0].projection is not None
    assert torch.equal(recording[0].projection, expected)


def test_projections_are_where_calls_are_kept_and_only_of_those() -> None:
    layer, gamma = nn.Linear(H * D, FEATURES), torch.randn(FEATURES)

    def recorded(**options: Any) -> Recording:
        with torch.no_grad(), attnviz.record(**options) as recording:
            for _ in range(3):
                layer(attended(fused=True).transpose(1, 2).flatten(2)) * gamma
        return recording

    (call,) = [call for call in recorded(calls=[1], device="meta")._calls if call is not None]
    assert call.projection is not None
    assert call.projection.device.type == "meta"
    assert call.projection.shape == (H, D, FEATURES)
    assert len(recorded(where=lambda call: call.causal)) == 0


def test_mixed_heads_have_projections_of_their_own() -> None:
    mix, out = nn.Linear(H, 4), nn.Linear(4 * D, FEATURES)
    q, k, v = torch.randn(B, H, N, D), torch.randn(B, H, N, D), torch.randn(B, 4, N, D)
    with torch.no_grad(), attnviz.record() as recording:
        weights = mix((q @ k.mT).softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        out((weights @ v).transpose(1, 2).flatten(2))
    (call,) = recording
    assert call.mixing is not None
    check_view(call, out)
