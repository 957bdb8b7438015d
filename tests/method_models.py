"""Models of transformers seen twice: eager with autograd, and recorded with fused attention."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnviz
from attnviz.attention import AttentionCall
from attnviz.attention.layer_input import LayerInput, LayerTokens

HEADS, FEATURES, LAYERS, PATCH = 4, 32, 3, 8
ROWS, COLUMNS = 3, 5
NAMES = ("vit", "registers", "siglip", "ijepa")
PREFIX = {"vit": 1, "registers": 5, "siglip": 0, "ijepa": 0}


@dataclass(frozen=True)
class Seen:
    """What a model did with two pictures that are no squares.

    Attributes:
        prefix: tokens in front of those of the grid.
        calls: recorded, with gradient and projection.
        attentions, gradients: A and ∇A of every layer by autograd, float64, a pool's behind.
        block_gradients: of each layer, of a score of its own tokens.
        blocks: the calls with those gradients.
        tokens: after every layer.
        pool: whether the last call is an attention pool's.
    """

    prefix: int
    calls: list[AttentionCall]
    attentions: list[Tensor]
    gradients: list[Tensor]
    block_gradients: list[Tensor]
    blocks: list[AttentionCall]
    tokens: list[Tensor]
    pool: bool


def build(name: str, how: str) -> nn.Module:
    """A small model with random weights that attend sharply."""
    transformers = pytest.importorskip("transformers")
    config, model = {
        "vit": ("ViTConfig", "ViTModel"),
        "registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel"),
        "siglip": ("SiglipVisionConfig", "SiglipVisionModel"),
        "ijepa": ("IJepaConfig", "IJepaModel"),
    }[name]
    settings = {
        "hidden_size": FEATURES, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": 48, "patch_size": PATCH, "initializer_range": 0.2,
        "image_size": (ROWS * PATCH, COLUMNS * PATCH) if name in ("vit", "ijepa") else 24,
    }  # fmt: skip
    torch.manual_seed(5)
    built = getattr(transformers, model)._from_config(
        getattr(transformers, config)(**settings), attn_implementation=how
    )
    for parameter_name, parameter in built.named_parameters():
        if "lambda1" in parameter_name:  # LayerScale: 1 everywhere would hide it
            nn.init.uniform_(parameter, 0.2, 2)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.25)
    result: nn.Module = built.eval()
    return result


class Watched:
    """Inputs of the output projections of an eager model, and the weights of its pool."""

    def __init__(self, model: nn.Module) -> None:
        self.before: list[Tensor] = []
        self.projections: list[Tensor] = []
        self.pool: list[Tensor] = []
        scales = [m for n, m in model.named_modules() if n.endswith("layer_scale1")]
        for name, module in model.named_modules():
            if name.endswith(("o_proj", "self_attn.out_proj")):
                module.register_forward_pre_hook(lambda _, given: self.before.append(given[0]))
                scale = scales[len(self.projections)].lambda1 if scales else 1
                weight = (module.weight.T * scale).detach()
                self.projections.append(weight.view(HEADS, -1, FEATURES))
            if isinstance(module, nn.MultiheadAttention):
                module.forward = lambda q, k, v, of=module: self._by_hand(of, q, k, v)  # type: ignore[assignment, misc]
                self.pool.append(module.out_proj.weight.T.detach().view(HEADS, -1, FEATURES))

    def _by_hand(self, of: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
        """nn.MultiheadAttention written out."""
        weights, biases = of.in_proj_weight.chunk(3), of.in_proj_bias.chunk(3)
        heads = [
            (x @ w.T + b).view(*x.shape[:2], HEADS, -1).transpose(1, 2)
            for x, w, b in zip((q, k, v), weights, biases, strict=True)
        ]
        a = (heads[0] @ heads[1].transpose(-2, -1) / heads[0].shape[-1] ** 0.5).softmax(-1)
        joined = (a @ heads[2]).transpose(1, 2).flatten(2)
        self.before.append(joined)
        self.pool.append(a)
        return joined @ of.out_proj.weight.T + of.out_proj.bias, None


@cache
def seen(name: str) -> Seen:
    """Both runs of a model."""
    torch.manual_seed(7)
    pixels = torch.randn(2, 3, ROWS * PATCH, COLUMNS * PATCH)
    more = {"interpolate_pos_encoding": True} if name == "siglip" else {}
    model = build(name, "eager")
    watched = Watched(model)
    out = model(pixels, output_attentions=True, output_hidden_states=True, **more)
    attentions, projections = [*out.attentions], [*watched.projections]
    if watched.pool:
        projections.append(watched.pool[0])
        attentions.append(watched.pool[1])
    tokens = out.hidden_states[1:]
    direction = torch.randn(FEATURES)
    score = (_whole(out, name) @ direction).sum()
    own = [(_of_tokens(each, name) @ direction).sum() for each in tokens]
    gradients = torch.autograd.grad(score, [*attentions, *watched.before], retain_graph=True)
    pairs = [
        torch.autograd.grad(s, [a, x], retain_graph=True)
        for s, a, x in zip(own, out.attentions, watched.before[:LAYERS], strict=True)
    ]
    fused = build(name, "sdpa")
    with torch.no_grad(), attnviz.record() as recording:
        fused(pixels, **more)
    count = len(attentions)
    calls = [
        replace(call, gradient=_heads(x), projection=w)
        for call, x, w in zip(recording, gradients[count:], projections, strict=True)
    ]
    return Seen(
        prefix=PREFIX[name],
        calls=calls,
        attentions=[a.detach().double() for a in attentions],
        gradients=[g.double() for g in gradients[:count]],
        block_gradients=[a.double() for a, _ in pairs],
        blocks=[replace(c, gradient=_heads(x)) for c, (_, x) in zip(calls, pairs, strict=False)],
        tokens=[each.detach() for each in tokens],
        pool=bool(watched.pool),
    )


def _whole(out: Any, name: str) -> Tensor:
    pooled: Tensor = out.pooler_output if name == "siglip" else _of_tokens(out[0], name)
    return pooled


def _of_tokens(tokens: Tensor, name: str) -> Tensor:
    return tokens[:, 0] if PREFIX[name] else tokens.mean(1)


def _heads(flat: Tensor) -> Tensor:
    return flat.view(*flat.shape[:2], HEADS, -1).transpose(1, 2).detach()


def readings(seen: Seen, weights: Tensor, *, own: bool = False) -> list[LayerInput]:
    """Every layer of two pictures, asked from `weights`, (R, N); a pool from its own query.

    With `own`, of the gradients of each layer's own score, without a pool.
    """
    found = []
    for number, call in enumerate(seen.blocks if own else seen.calls):
        cells = torch.arange(-seen.prefix, call.shape[3] - seen.prefix).clamp_min(-1).expand(2, -1)
        keys = replace(LayerTokens.bare(2, call.shape[3], cells.device), cells=cells)
        is_pool = call.shape[2] != call.shape[3]
        queries = LayerTokens.bare(2, call.shape[2], cells.device) if is_pool else keys
        asked = (torch.ones(1, 1) if is_pool else weights).expand(2, -1, -1)
        tokens = None if is_pool else seen.tokens[number]
        found.append(LayerInput(call, queries, keys, asked, ROWS * COLUMNS, tokens))
    return found


def close(found: Tensor, expected: Tensor) -> None:
    """Within 1e-5 of the largest number."""
    assert found.dtype == torch.float32
    atol = 1e-5 * max(float(expected.abs().max()), 1e-30)
    torch.testing.assert_close(found.double(), expected, atol=atol, rtol=1e-5)
