"""Computes statistics on a CUDA device with two kernels of our own, written in Triton.

One goes over the keys of a block of rows and keeps running sums; the other goes over the rows of a
block of keys for attention received. Memory is the results alone. Triton comes with torch on CUDA;
without it `blocks` serves. `TRITON_INTERPRET=1` runs the kernels on a CPU, slowly, to test them.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnviz.attention.scores import LOG2E
from attnviz.attention.sweep import CallTensors, Progress, Sweep, SweepRequest
from attnviz.errors import UsageError

NUMBERS = 7
"""Numbers of a row: lse, entropy, confidence, largest score, prefix mass, distance, Σ A²."""
FEATURES = 256
"""The most features of a head that the kernels take."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
AT_ONCE = 1 << 37
"""Scores of a launch: a fraction of a second, so that progress is seen, and a stop."""
PRECISION = "tf32x3"
"""Products of float32: three of tensor cores, as in the fused kernels; or `ieee`, which is slower.
The interpreter multiplies in float32."""


class Tile(NamedTuple):
    """The shape of a tile and how many warps and stages compute it.

    Attributes:
        tall: rows of a program.
        wide: keys at a time.
        paired: whether a program computes two heads, which share their distances.
        warps, stages: Triton's `num_warps` and `num_stages`.
    """

    tall: int
    wide: int
    paired: bool
    warps: int
    stages: int


def tile(rows: int, heads: int, side: int, size: int) -> Tile:
    """The tile for so many rows, heads, features (a power of 2) and bytes of a number."""
    tall = min(max(16, _power_of_two(rows)), 128 if size * side <= 256 else 64)
    wide = 64 if size * side <= 512 else 32
    paired = heads % 2 == 0 and size * side <= 128
    return Tile(tall, wide, paired, warps=8 if tall == 128 else 4, stages=2)


def missing(call: CallTensors) -> str | None:
    """Why the kernels cannot compute a call, or None."""
    device = call.query.device
    if find_spec("triton") is None:
        return "Triton is not installed"
    if device.type == "cpu" and not interpreted():
        return "it needs a CUDA device, or TRITON_INTERPRET=1"
    if device.type != "cpu" and (device.type != "cuda" or torch.version.hip is not None):
        return "it needs a CUDA device"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs a CUDA device of compute capability 8.0"
    if call.query.dtype not in DTYPES or call.key.dtype != call.query.dtype:
        return f"queries and keys are {call.query.dtype} and {call.key.dtype}"
    if not 0 < call.query.shape[3] <= FEATURES:
        return f"heads have {call.query.shape[3]} features, not 1 to {FEATURES}"
    return None


def interpreted() -> bool:
    """Whether Triton's interpreter is on."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def sweep(call: CallTensors, request: SweepRequest, progress: Progress | None = None) -> Sweep:
    """All requested statistics of a call.

    Raises:
        UsageError: the kernels cannot compute this call here.
    """
    reason = missing(call)
    if reason is not None:
        raise UsageError(f"way='kernel' cannot be taken: {reason}; leave way out")
    device = call.query.device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return _sweep(call, request, progress)


def _sweep(call: CallTensors, request: SweepRequest, progress: Progress | None) -> Sweep:
    from attnviz.attention import triton_kernels  # noqa: PLC0415 — there may be no Triton

    batch, heads, queries, keys = call.shape
    numbers = torch.empty(NUMBERS, batch, heads, queries, device=call.query.device)
    shape = tile(queries, heads, call.query.shape[3], call.query.element_size())
    arguments = _arguments(call, shape)

    def report(share: float) -> None:
        if progress is not None:
            _wait(numbers.device)
            progress(int(share * batch * queries), batch * queries)

    _launch(
        triton_kernels.rows,
        batch * (heads // 2 if shape.paired else heads) * -(-queries // shape.tall),
        shape.tall * keys,
        arguments | _of_rows(call, request) | {"numbers": numbers, "step": numbers[0].numel()},
        report,
        paired=shape.paired,
    )
    lse, entropy, confidence, top, mass, distance, squares = numbers.unbind(0)
    received = None
    if request.weights is not None:
        received = _received(call, request.weights, top, confidence)
    return Sweep(
        lse=lse,
        entropy=entropy,
        confidence=confidence,
        prefix_mass=None if request.prefix is None else mass,
        distance=None if request.positions is None else distance,
        sum_of_squares=squares if request.squares else None,
        received=received,
    )


def _received(call: CallTensors, weights: Tensor, top: Tensor, share: Tensor) -> Tensor:
    """Σ_i w_ri A_ij, (B, H, R, Nk), from the rows' largest scores and largest weights."""
    from attnviz.attention import triton_kernels  # noqa: PLC0415

    batch, heads, queries, keys = call.shape
    vectors = weights.shape[-2]
    out = torch.empty(batch, heads, vectors, keys, device=call.query.device)
    shape = tile(keys, 1, call.query.shape[3], call.query.element_size())
    several = min(4, _power_of_two(vectors))
    given, step = _shared(weights.float(), 2)
    _launch(
        triton_kernels.received,
        batch * heads * -(-vectors // several) * -(-keys // shape.tall),
        shape.tall * queries,
        _arguments(call, shape)
        | {"weights": given, "weights_b": step, "vectors": vectors, "several": several}
        | {"tops": top, "shares": share, "out": out},
    )
    return out


def _launch(
    kernel: Any,
    programs: int,
    scores: int,
    arguments: dict[str, Any],
    report: Callable[[float], None] | None = None,
    **more: Any,
) -> None:
    """Run so many programs, of so many scores each, a part of them at a time."""
    together = max(1, AT_ONCE // scores)
    for first in range(0, programs, together):
        last = min(first + together, programs)
        kernel[(last - first,)](first=first, **arguments, **more)
        if report is not None:
            report(last / programs)


def _arguments(call: CallTensors, shape: Tile) -> dict[str, Any]:
    """What both kernels take of a call and of a tile."""
    _, heads, queries, keys = call.shape
    query, key = (_dense(each.detach()) for each in (call.query, call.key))
    bias, strides = _bias(call)
    return {
        "query": query,
        "key": key,
        "bias": query if bias is None else bias,
        **dict(zip(("query_b", "query_h", "query_i"), query.stride(), strict=False)),
        **dict(zip(("key_b", "key_h", "key_j"), key.stride(), strict=False)),
        **dict(zip(("bias_b", "bias_h", "bias_i", "bias_j"), strides, strict=True)),
        "heads": heads,
        "queries": queries,
        "keys": keys,
        "shared": heads // key.shape[1],
        "factor": call.scale * LOG2E,
        "kind": "none" if bias is None else "boolean" if bias.dtype == torch.uint8 else "added",
        "causal": call.causal,
        "dim": query.shape[3],
        "side": max(16, _power_of_two(query.shape[3])),
        "tall": shape.tall,
        "wide": shape.wide,
        "precision": PRECISION,
        "num_warps": shape.warps,
        "num_stages": shape.stages,
    }


def _of_rows(call: CallTensors, request: SweepRequest) -> dict[str, Any]:
    """What the kernel of rows takes of a request; nothing is read where nothing is asked."""
    query = call.query
    nothing = torch.zeros(1, dtype=torch.uint8, device=query.device)
    counted = request.query_mask
    if counted is None:
        counted = torch.ones(query.shape[2], dtype=torch.bool, device=query.device)
    order = _order(call, request)
    places_i, places_j = request.positions or (None, None)
    found: dict[str, Any] = {
        "ordered": order is not None,
        "distances": request.positions is not None,
        "masses": request.prefix is not None,
        "squared": request.squares,
    }
    for name, tensor, axes in (
        ("order", order, 1),
        ("counted", counted.view(torch.uint8), 1),
        ("places_i", None if places_i is None else places_i.float(), 2),
        ("places_j", None if places_j is None else places_j.float(), 2),
        ("prefix", None if request.prefix is None else request.prefix.view(torch.uint8), 1),
    ):
        given, step = (nothing, 0) if tensor is None else _shared(tensor, axes)
        found |= {name: given, f"{name}b" if name[-2] == "_" else f"{name}_b": step}
    if order is not None and _of_keys(call.bias) is not None:
        found["kind"] = "none"  # the keys that take no part are left out of the order
    return found


def _order(call: CallTensors, request: SweepRequest) -> Tensor | None:
    """Keys of G, then the others that take part, (B or 1, 2 + Nk) int32; None: as they are.

    The first two numbers are how many keys are in G, and how many take part.
    """
    taking_part = _of_keys(call.bias)
    grid = None if request.positions is None else request.grid
    if taking_part is None and grid is None:
        return None
    other = torch.zeros(1, call.shape[3], dtype=torch.uint8, device=call.query.device)
    kind = other if grid is None else other + ~grid
    kind = kind if taking_part is None else torch.where(taking_part, kind, 2)
    counts = torch.stack([(kind < 1).sum(-1), (kind < 2).sum(-1)], dim=-1)
    return torch.cat([counts, kind.argsort(dim=-1, stable=True)], dim=-1).int()


def _of_keys(bias: Tensor | None) -> Tensor | None:
    """A boolean bias that is the same for all heads and queries, (B or 1, Nk); else None."""
    if bias is None or bias.dtype != torch.bool:
        return None
    bias = bias.detach().reshape((1,) * (4 - bias.ndim) + tuple(bias.shape))
    return bias[:, 0, 0] if bias.shape[1:3] == (1, 1) else None


def _bias(call: CallTensors) -> tuple[Tensor | None, tuple[int, ...]]:
    """The bias and its strides over (B, H, Nq, Nk), 0 where it is shared."""
    if call.bias is None:
        return None, (0, 0, 0, 0)
    bias = call.bias.detach()
    bias = bias.view(torch.uint8) if bias.dtype == torch.bool else bias
    bias = bias.float() if bias.dtype == torch.float64 else bias
    return bias, bias.expand(call.shape).stride()


def _shared(tensor: Tensor, axes: int) -> tuple[Tensor, int]:
    """A tensor, contiguous, and the stride of its batch: 0 if all items share it."""
    tensor = tensor.detach().contiguous()
    return tensor, 0 if tensor.ndim == axes or len(tensor) == 1 else tensor.stride(0)


def _dense(tensor: Tensor) -> Tensor:
    """A tensor whose features lie side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _wait(device: torch.device) -> None:
    """Wait for what was launched, so that progress is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _power_of_two(number: int) -> int:
    """The smallest power of 2 that is no smaller."""
    return 1 << max(0, number - 1).bit_length()
