"""Asks a device for several layers at once: a sweep for those of a shape, one copy to the host."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attention.layer_input import LayerInput
from attnviz.attention.sweep import Sweep, SweepRequest

TOGETHER = {"cpu": 0}
"""Numbers of the queries and keys of calls that are swept in one go, at most; `_MOST` elsewhere.

A CPU has no waits to save: there twelve layers of ViT-B took 1.7 times as long together.
"""
_MOST = 1 << 27


def worthwhile(device: torch.device) -> bool:
    """Whether several sweeps at once save anything on a device."""
    return TOGETHER.get(device.type, _MOST) > 0


def sweep_together(layers: Sequence[LayerInput]) -> None:
    """Sweep layers whose calls have one shape in one go; each keeps its part.

    On a device this waits once for all of them, and starts fewer, larger operations. Calls with a
    bias, explicit calls, and those that were swept before are left alone.
    """
    groups: dict[object, list[LayerInput]] = defaultdict(list)
    for each in layers:
        call, swept = each.call, "_sweep" in vars(each)
        many = 2 * (call.query.numel() + call.key.numel()) > _most(call)
        if not (swept or many or call.explicit or call.bias is not None):
            vectors = len(each.request.weights[0]) if each.request.weights is not None else 0
            kind = call.query.shape, call.key.shape, call.query.dtype, call.scale, call.causal
            groups[kind, call.query.device, vectors].append(each)
    for alike in groups.values():
        call = alike[0].call
        step = _most(call) // (call.query.numel() + call.key.numel())
        for first in range(0, len(alike), step):
            _sweep_alike(alike[first : first + step])


def _most(call: AttentionCall) -> int:
    return TOGETHER.get(call.query.device.type, _MOST)


def _sweep_alike(layers: Sequence[LayerInput]) -> None:
    """Sweep calls of one shape as one batch."""
    if len(layers) < 2:
        return
    first, batch = layers[0].call, layers[0].call.shape[0]
    call = replace(
        first,
        query=torch.cat([each.call.query for each in layers]),
        key=torch.cat([each.call.key for each in layers]),
    )
    found = call.sweep(_joined([each.request for each in layers]))
    for number, each in enumerate(layers):
        part = slice(number * batch, (number + 1) * batch)
        own: dict[str, Any] = {
            name: None if value is None else value[part] for name, value in vars(found).items()
        }
        vars(each)["_sweep"] = Sweep(**own)  # the value of its cached property
        if each.progress is not None:
            rows = batch * each.call.shape[2]
            each.progress(rows, rows)


def _joined(requests: Sequence[SweepRequest]) -> SweepRequest:
    """Requests of layers, each with its batch axis, as one."""
    joined: dict[str, Any] = {}
    for name in ("query_mask", "prefix", "grid", "weights"):
        joined[name] = torch.cat([getattr(each, name) for each in requests])
    places = [each.positions for each in requests if each.positions is not None]
    queries, keys = (torch.cat(side) for side in zip(*places, strict=True))
    return SweepRequest(positions=(queries, keys), **joined)


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors as float32 on the CPU, with one copy for all that lie on a device."""
    away = [each for each in tensors if each.device.type != "cpu"]
    if away:
        flat = torch.cat([each.detach().float().flatten() for each in away]).cpu()
        parts = iter(torch.split(flat, [each.numel() for each in away]))
    return [
        each.detach().float() if each.device.type == "cpu" else next(parts).view(each.shape)
        for each in tensors
    ]
