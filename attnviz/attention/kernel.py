"""Computes statistics on a CUDA device with two kernels of our own, written in Triton.

One goes over the keys of a block of rows and keeps running sums; the other goes over the rows of a
block of keys for attention received. Memory is the results alone. Triton comes with torch on CUDA;
without it `blocks` serves. `TRITON_INTERPRET=1` runs the kernels on a CPU, slowly, to test them.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnviz.attention.scores import LOG2E
from attnviz.attention.sweep import CallTensors, Progress, Sweep, SweepRequest
from attnviz.errors import UsageError

NUMBERS = 7
"""Numbers of a row: lse, entropy, confidence, largest score, prefix mass, distance, Σ A²."""
FEATURES = 512
"""Bytes of the features of a head that the kernels take at most; more need too many registers."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
AT_ONCE = 1 << 37
"""Scores of a launch: a fraction of a second, so that progress is seen, and a stop."""
FAILURES: list[str] = []
"""Why Triton could not build a kernel in this process, so that it is tried once."""
PRECISION = "tf32x3"
"""Products of float32: three of tensor cores, as in fused kernels; or `ieee`, which is slower."""


class TileShape(NamedTuple):
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


def tile(rows: int, heads: int, side: int, size: int, *, transposed: bool = False) -> TileShape:
    """The tile for so many rows, heads, features (a power of 2) and bytes of a number.

    On compute capability 9.0 they spill no register and take 96 KiB of shared memory at most
    (`ptxas -v`); they were not timed.
    """
    width = size * side
    tall = min(max(16, _power_of_two(rows)), 128 if width <= 256 else 64)
    light = transposed and size == 2 and width <= 128  # it has the fewest sums
    return TileShape(
        tall=tall,
        wide=64 if light else 32,
        paired=not transposed and heads % 2 == 0 and width <= 128,
        warps=8 if tall == 128 and not light else 4,
        stages=1 if width == 512 and size == 4 else 3 if size == 2 and width <= 256 else 2,
    )


def missing(call: CallTensors) -> str | None:
    """Why the kernels cannot compute a call here, or None if they can."""
    query, key = call.query, call.key
    if query.dtype not in DTYPES or key.dtype != query.dtype:
        return f"queries are {query.dtype} and keys {key.dtype}"
    if not 0 < query.shape[3] * query.element_size() <= FEATURES:
        return f"a head has {query.shape[3]} features in {query.dtype}"
    return missing_on(query.device)


def missing_on(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device, or None if they can."""
    if device.type == "cuda" and torch.version.hip is None:
        if torch.cuda.get_device_capability(device) < (8, 0):
            return "the device's compute capability is below 8.0"
    elif device.type != "cpu" or not interpreted():
        return f"the tensors are on {device.type}, not on CUDA"
    if find_spec("triton") is None:
        return "Triton is not installed"
    return FAILURES[0] if FAILURES else None


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
        raise UsageError(_refusal(reason))
    device = call.query.device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return _sweep(call, request, progress)


def _sweep(call: CallTensors, request: SweepRequest, progress: Progress | None) -> Sweep:
    batch, heads, queries, keys = call.shape
    numbers = torch.empty(NUMBERS, batch, heads, queries, device=call.query.device)
    shape = tile(queries, heads, _side(call), call.query.element_size())

    def report(share: float) -> None:
        if progress is not None:
            _wait(numbers.device)
            progress(int(share * batch * queries), batch * queries)

    _launch(
        "rows",
        batch * (heads // 2 if shape.paired else heads) * -(-queries // shape.tall),
        shape.tall * keys,
        _arguments(call, shape)
        | _of_rows(call, request)
        | {"numbers": numbers, "step": numbers[0].numel(), "paired": shape.paired},
        report,
    )
    lse, entropy, confidence, top, *others = numbers.unbind(0)
    received = None
    if request.weights is not None:
        received = _received(call, request.weights, top, confidence)
    return request.collected((lse, entropy, confidence, *others), received)


def _received(call: CallTensors, weights: Tensor, top: Tensor, share: Tensor) -> Tensor:
    """Σ_i w_ri A_ij, (B, H, R, Nk), from the rows' largest scores and largest weights."""
    batch, heads, queries, keys = call.shape
    vectors = weights.shape[-2]
    out = torch.empty(batch, heads, vectors, keys, device=call.query.device)
    shape = tile(keys, heads, _side(call), call.query.element_size(), transposed=True)
    several = min(4, _power_of_two(vectors))
    given = weights.detach().float().unsqueeze(-3) * share.unsqueeze(-2)  # (B, H, R, Nq)
    _launch(
        "received",
        batch * heads * -(-vectors // several) * -(-keys // shape.tall),
        shape.tall * queries,
        _arguments(call, shape)
        | {"weights": given, "vectors": vectors, "several": several, "tops": top, "out": out},
    )
    return out


def _launch(
    name: str,
    programs: int,
    scores: int,
    arguments: dict[str, Any],
    report: Callable[[float], None] | None = None,
) -> None:
    """Run so many programs of a kernel, of so many scores each, a part of them at a time."""
    together = max(1, AT_ONCE // scores)
    for first in range(0, programs, together):
        last = min(first + together, programs)
        try:
            kernel = getattr(import_module("attnviz.attention.triton_kernels"), name)
            kernel[(last - first,)](first=first, **arguments)
        except torch.OutOfMemoryError:  # the next call may be smaller
            raise
        except Exception as error:  # of Triton, its compilers and its driver: many kinds
            lines = str(error).strip().splitlines() or [type(error).__name__]
            FAILURES.append(f"Triton fails: {lines[-1]}")
            raise UsageError(_refusal(FAILURES[-1])) from error
        if report is not None:
            report(last / programs)


def _refusal(reason: str) -> str:
    """The error for somebody who asks for this way."""
    return f"way='kernel': {reason}; take way='blocks'"


def _arguments(call: CallTensors, shape: TileShape) -> dict[str, Any]:
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
        "side": _side(call),
        "tall": shape.tall,
        "wide": shape.wide,
        "precision": "interpreted" if interpreted() else PRECISION,
        "num_warps": shape.warps,
        "num_stages": shape.stages,
    }


def _of_rows(call: CallTensors, request: SweepRequest) -> dict[str, Any]:
    """What the kernel of rows takes of a request; nothing is read where nothing is asked."""
    counted, places = request.query_mask, request.positions
    if counted is None:
        counted = torch.ones(call.shape[2], dtype=torch.bool, device=call.query.device)
    order = _order(call, request)
    facts = _facts(call, request, order)
    found: dict[str, Any] = {
        "ordered": order is not None,
        "distances": places is not None,
        "masses": request.prefix is not None,
        "squared": request.squares,
    }
    for name, tensor, axes in (
        ("order", order, 1),
        ("counted", counted.view(torch.uint8), 1),
        ("places", None if places is None else places[0].float(), 2),
        ("facts", facts, 2),
    ):
        given = (facts if tensor is None else tensor).detach().contiguous()
        shared = tensor is None or given.ndim == axes or len(given) == 1
        found |= {name: given, f"{name}_b": 0 if shared else given.stride(0)}
    if order is not None and _of_keys(call.bias) is not None:
        found["kind"] = "none"  # the keys that take no part are left out of the order
    return found


def _order(call: CallTensors, request: SweepRequest) -> Tensor | None:
    """Keys of G, then the others that take part, (B or 1, 3 + Nk) int32; None: as they are.

    The first numbers are how many keys are in G, take part, and are in G and in the prefix.
    """
    taking_part = _of_keys(call.bias)
    grid = None if request.positions is None else request.grid
    if taking_part is None and grid is None:
        return None
    other = torch.zeros(1, call.shape[3], dtype=torch.uint8, device=call.query.device)
    kind = other if grid is None else other + ~grid
    kind = kind if taking_part is None else torch.where(taking_part, kind, 2)
    both = kind < 1 if request.prefix is None else (kind < 1) & request.prefix
    kind = kind.expand(both.shape)
    counts = [(kind < 1).sum(-1), (kind < 2).sum(-1), both.sum(-1)]
    return torch.cat([torch.stack(counts, -1), kind.argsort(dim=-1, stable=True)], dim=-1).int()


def _facts(call: CallTensors, request: SweepRequest, order: Tensor | None) -> Tensor:
    """Of keys, in their order, x, y, and 1 for those of the prefix, (B, 3, Nk) float32."""
    batch, _, _, keys = call.shape
    facts = torch.zeros(batch, 3, keys, device=call.query.device)
    if request.positions is not None:
        facts[:, :2] = request.positions[1].mT
    if request.prefix is not None:
        facts[:, 2] = request.prefix
    if order is None:
        return facts
    return facts.gather(2, order[:, None, 3:].long().expand(batch, 3, keys))


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
    bias = bias if bias.stride(-1) < 2 else bias.contiguous()  # keys are counted in 32 bits
    return bias, bias.expand(call.shape).stride()


def _dense(tensor: Tensor) -> Tensor:
    """A tensor whose features lie side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _wait(device: torch.device) -> None:
    """Wait for what was launched, so that progress is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _side(call: CallTensors) -> int:
    """Features of a head, padded to what a matrix product takes."""
    return max(16, _power_of_two(call.query.shape[3]))


def _power_of_two(number: int) -> int:
    """The smallest power of 2 that is no smaller."""
    return 1 << max(0, number - 1).bit_length()
