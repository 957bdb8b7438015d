"""A small model, and recordings of it by plan that are held against those of the full watcher."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attnviz
from attnviz.attention import AttentionCall
from attnviz.recording import Recording, model_watch

PICTURE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Attention with LayerScale; `mask` is over keys, and `grouped` has two heads of keys."""

    def __init__(self, *, grouped: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.keys, self.dropout = 4, 2 if grouped else 4, dropout
        self.qkv = nn.Linear(16, 16 + 8 * self.keys)
        self.out, self.scale = nn.Linear(16, 16), nn.Parameter(torch.rand(16))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).split([16, 4 * self.keys, 4 * self.keys], -1)
        q, k, v = (each.view(b, n, -1, 4).transpose(1, 2) for each in (q, k, v))
        grouped = self.keys < self.heads
        p = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=p, enable_gqa=grouped)
        projected: Tensor = self.out(out.transpose(1, 2).reshape(b, n, 16))
        return self.scale * projected


class Block(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(16), Attention(**options)
        self.mlp, self.flips = nn.Linear(16, 16), 0

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm(x), mask)
        hidden: Tensor = self.mlp(x)
        return x + hidden.tanh()


class Small(nn.Module):
    """A ViT of three blocks; `between` may do something to tokens before each."""

    def __init__(self, between: Callable[[Tensor], Tensor] | None = None, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.between = nn.Conv2d(3, 16, 8, 8), between
        self.blocks: Any = nn.ModuleList(Block(**options) for _ in range(3))
        self.drop = nn.Dropout(options.get("dropout", 0.0))

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        x: Tensor = self.patches(pixels).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x if self.between is None else self.between(x)
            x = block(self.drop(x), mask)
        return x.mean(1)


def noted(method: Any, what: str, seen: list[str]) -> Callable[..., Any]:
    def note(*args: Any) -> Any:
        seen.append(what)
        return method(*args)

    return note


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Notes how runs were watched: `learning`, `light`, and `again` if a plan did not hold."""
    seen: list[str] = []
    watch = model_watch.ModelWatch
    names = {"_learning": "learning", "_lightly": "light", "_again": "again"}
    with monkeypatch.context() as patch:
        for name, what in names.items():
            patch.setattr(watch, name, noted(getattr(watch, name), what, seen))
        yield seen


def assert_same(found: Recording, expected: Recording) -> None:
    """Whether two recordings hold the same calls, bit for bit."""
    assert len(found) == len(expected)
    assert found.operators == expected.operators
    assert found.unread == expected.unread
    for call, other in zip(found, expected, strict=True):
        for each in fields(AttentionCall):
            one, two = getattr(call, each.name), getattr(other, each.name)
            if not isinstance(two, Tensor):
                assert one == two, each.name
                continue
            assert one is not None, each.name
            assert (one.shape, one.dtype, one.requires_grad) == (two.shape, two.dtype, False)
            assert torch.equal(one.nan_to_num(-7.0), two.nan_to_num(-7.0)), each.name


def run(model: nn.Module, *inputs: Any, places: bool = True, **named: Any) -> Recording:
    """Record a run with the model given, and hold it against a recording by the full watcher.

    The output must be that of the model alone.
    """
    options: dict[str, Any] = {"picture": inputs[0], "blocks": model} if places else {}
    state = torch.get_rng_state()
    alone = model(*inputs, **named)
    torch.set_rng_state(state)
    with attnviz.record(**options) as full:
        model(*inputs, **named)
    torch.set_rng_state(state)
    with attnviz.record(model, **options) as found:
        output = model(*inputs, **named)
    for one, other in zip(tensors_of(output), tensors_of(alone), strict=True):
        assert torch.equal(one, other)
    assert_same(found, full)
    if places:
        assert found.blocks.keys() == full.blocks.keys()
        for number, block in full.blocks.items():
            light = found.blocks[number]
            assert (light.module, light.spec, light.place) == (
                block.module,
                block.spec,
                block.place,
            )
            assert torch.equal(light.input, block.input)
            assert torch.equal(light.output, block.output)
    assert "forward" not in model.__dict__
    assert F.scaled_dot_product_attention is torch._C._nn.scaled_dot_product_attention
    return found


def tensors_of(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [e for e in output.values() if e is not None]
