"""Reads the calls of fused attention kernels, by their names in PyTorch's dispatcher.

Each kernel is read by the names of its arguments. Kernels of other packages (flash-attn, xFormers)
are operators too after those packages are imported; this file imports none of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attribution.call_gradients import Lay
from attnviz.recording.operation import Operation, first

HEADS_FIRST = frozenset(
    f"_scaled_dot_product_{name}"
    for name in (
        "flash_attention_for_cpu",
        "flash_attention",
        "efficient_attention",
        "cudnn_attention",
        "fused_attention_overrideable",
        "attention_math_for_mps",
    )
)
"""Kernels whose tensors are (B, H, N, D)."""
TOKENS_FIRST = frozenset(
    (
        "_flash_attention_forward",
        "_efficient_attention_forward",
        "flash_attn::_flash_attn_forward",
        "flash_attn::_flash_attn_varlen_forward",
        "flash_attn_3::_flash_attn_forward",
        "xformers_flash::flash_fwd",
        "xformers::efficient_attention_forward_cutlass",
    )
)
"""Kernels whose tensors are (B, N, H, D)."""
_NAMES = {
    "query": ("query", "q"),
    "key": ("key", "k"),
    "value": ("value", "v"),
    "scale": ("scale", "softmax_scale"),
    "bias": ("attn_mask", "attn_bias", "bias", "attn_bias_"),
    "causal": ("is_causal", "causal"),
}
_REFUSED = {
    "sequences in pages or of unused length": (
        *("seqused_k", "seqlen_k", "block_table", "block_tables"),
    ),
    "ALiBi": ("alibi_slopes",),
    "soft-capped scores": ("softcap",),
    "a sliding window": ("window_size",),
}
_OFFSETS = ("cum_seq_q", "cu_seqlens_q", "seqstart_q"), ("cum_seq_k", "cu_seqlens_k", "seqstart_k")
"""Where each of several sequences of queries, or of keys, begins in the packed tensors."""
_WINDOW = ("window_size_left", "window_left"), ("window_size_right", "window_right")
"""How many keys before and after itself a query sees; below 0 or None: all."""
_LOWER_RIGHT = 2
"""xFormers' number for a causal mask that is aligned to the last query and the last key."""


@dataclass(frozen=True)
class Packing:
    """Sequences of several lengths that are packed one after the other, (T, H, D) or (1, T, H, D).

    Attributes:
        offsets: (sequences + 1,) where each begins, and the end.
    """

    offsets: Tensor

    @property
    def inside(self) -> Tensor:
        """Which tokens of the longest sequence's length a sequence has, (sequences, N)."""
        lengths = self.offsets.diff()
        places = torch.arange(int(lengths.max()), device=lengths.device)
        return places < lengths[:, None]

    def __call__(self, packed: Tensor, fill: complex = 0.0) -> Tensor:
        """The sequences as a batch, (sequences, H, N, D), with `fill` behind their ends."""
        flat = packed.flatten(0, -3)
        at = self.offsets[:-1, None] + torch.arange(self.inside.shape[1], device=flat.device)
        found = flat[at.clamp(max=len(flat) - 1)]
        found = found.masked_fill(~self.inside[..., None, None], fill)
        return found.transpose(1, 2)


@dataclass(frozen=True)
class KernelCall:
    """What a fused kernel computed.

    Attributes:
        call: the call.
        query, key: the tensors that the kernel received.
        lay: lays the kernel's tensors out as (B, H, N, D).
        packings: those of queries and keys, if they are sequences of several lengths.
    """

    call: AttentionCall
    query: Tensor
    key: Tensor
    lay: Lay
    packings: tuple[Packing, Packing] | None = None


def read(op: Operation, result: Any) -> KernelCall:
    """The call that a fused kernel made.

    Raises:
        NotImplementedError: the kernel uses an option that an `AttentionCall` cannot express.
    """
    names = [argument.name for argument in op.func._schema.arguments]  # noqa: SLF001
    arguments = dict(zip(names, op.args, strict=False)) | op.kwargs
    refused = [
        what for what, names in _REFUSED.items() if any(_used(arguments.get(n)) for n in names)
    ]
    left, right = (next((arguments[n] for n in names if n in arguments), None) for names in _WINDOW)
    if (left is not None and left >= 0) or (right is not None and right > 0):
        refused.append("a sliding window")
    if refused:
        raise NotImplementedError(f"{op.name} with {refused[0]}")
    options: dict[str, Any] = {
        what: next((arguments[n] for n in names if arguments.get(n) is not None), None)
        for what, names in _NAMES.items()
    }
    query, key, scale, bias = (options[name] for name in ("query", "key", "scale", "bias"))
    packings = _packings(arguments)
    if packings is not None and bias is not None:
        raise NotImplementedError(f"{op.name} with a bias over sequences of several lengths")
    lay = layout(op)
    lays = (lay, lay) if packings is None else packings
    kind = arguments.get("custom_mask_type") or 0
    call = AttentionCall(
        query=lays[0](query.detach()),
        key=lays[1](key.detach()),
        value=lays[1](options["value"].detach()),
        scale=1 / math.sqrt(query.shape[-1]) if scale is None else float(scale),
        bias=None if bias is None else bias.detach(),
        causal=bool(options["causal"]) or kind == 1 or right == 0,
        output=lays[0](first(result).detach()),
    )
    last = kind == _LOWER_RIGHT or (call.causal and "flash" in op.name and op.name in TOKENS_FIRST)
    if packings is not None:
        call = masked(call, packings, last=last)
    elif last:
        call = _lower_right(call)
    return KernelCall(call, query, key, lays[0], packings)


def _packings(arguments: Mapping[str, Any]) -> tuple[Packing, Packing] | None:
    """How queries and keys are packed; None if they are a batch of one length."""
    found = [
        next((arguments[n] for n in names if arguments.get(n) is not None), None)
        for names in _OFFSETS
    ]
    given = [offsets for offsets in found if offsets is not None]
    if not given:
        return None
    queries, keys = ((given[0] if offsets is None else offsets).long() for offsets in found)
    return Packing(queries), Packing(keys)


def masked(call: AttentionCall, packings: tuple[Packing, Packing], *, last: bool) -> AttentionCall:
    """Mask what lies behind the ends of sequences; with `last`, causality ends at the last key."""
    queries, keys = (packing.inside for packing in packings)
    seen = queries[:, :, None] & keys[:, None]
    if call.causal or last:
        apart = keys.sum(1) - queries.sum(1) if last else queries.sum(1) * 0
        i, j = (torch.arange(each.shape[1], device=seen.device) for each in (queries, keys))
        seen = seen & (j <= i[:, None] + apart[:, None, None])
    return replace(call, bias=None if bool(seen.all()) else seen[:, None], causal=False)


def layout(op: Operation) -> Lay:
    """The function that lays a kernel's arguments and result out as (B, H, N, D)."""
    return _tokens_behind if op.name in TOKENS_FIRST else as_it_is


def _tokens_behind(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2)


def as_it_is(tensor: Tensor) -> Tensor:
    """Return a tensor that is (B, H, N, D) already."""
    return tensor


def _lower_right(call: AttentionCall) -> AttentionCall:
    """Align the causal mask so that the last query sees all keys, and each query before one less.

    This differs from the usual causal mask unless Nq equals Nk.
    """
    queries, keys = call.shape[2:]
    if queries == keys:
        return replace(call, causal=True)
    visible = torch.ones(queries, keys, dtype=torch.bool, device=call.query.device)
    visible = visible.tril(keys - queries)
    bias = visible if call.bias is None else call.bias.masked_fill(~visible, -torch.inf)
    return replace(call, bias=bias, causal=False)


def is_kernel(name: str) -> bool:
    """Whether an operator of that name, without its overload, is a fused attention kernel."""
    return name in HEADS_FIRST or name in TOKENS_FIRST


_WORDS = ("attn", "attention", "natten", "retention", "delta_rule", "wkv")
_SCANS = ("scan", "ssm", "mamba")


def unknown(name: str) -> str | None:
    """What another package's operator is, if its name says that it mixes tokens; else None."""
    if "::" not in name or "backward" in name or is_kernel(name):
        return None
    if any(word in name for word in _WORDS):
        return f"{name}, which is not known"
    if any(word in name for word in _SCANS):
        return f"{name}, a state-space scan, which has no weights over tokens"
    return None


def read_flex(args: Sequence[Any], result: Any) -> AttentionCall:
    """The call that FlexAttention made, outside of compiled code.

    The changes by score_mod and the block mask become a bias, (B, H, Nq, Nk). FlexAttention itself
    makes a tensor of this size when it is not compiled.
    """
    query, key, value = (tensor.detach() for tensor in args[:3])
    score_mod, mask_mod, scale = args[3], args[4][-1], float(args[5])
    buffers = args[7] if len(args) > 7 else (), args[8] if len(args) > 8 else ()
    shape = (*query.shape[:3], key.shape[2])
    grouped = key.float().repeat_interleave(shape[1] // key.shape[1], dim=1)
    scores = scale * (query.float() @ grouped.transpose(-2, -1))
    bias = _everywhere(score_mod, scores, buffers[0]) - scores
    visible = _everywhere(lambda _, *others: mask_mod(*others), scores, buffers[1])
    bias = bias.masked_fill(~visible, -torch.inf)
    return AttentionCall(
        query=query,
        key=key,
        value=value,
        scale=scale,
        bias=bias if bool((bias != 0).any()) else None,
        output=result[0].detach(),
    )


def _everywhere(function: Any, scores: Tensor, buffers: Sequence[Any]) -> Tensor:
    """Evaluate a function of (score, batch, head, query, key) everywhere, (B, H, Nq, Nk)."""
    others = (None,) * len(buffers)
    for where in (4, 3, 2, 1):
        each = [0 if number in (0, where) else None for number in range(5)]
        function = torch.vmap(function, in_dims=(*each, *others))
    places = [torch.arange(size, device=scores.device) for size in scores.shape]
    values: Tensor = function(scores, *places, *buffers)
    return values


def _used(value: Any) -> bool:
    """Whether an option is on; a cap of 0 is off."""
    return isinstance(value, Tensor) or (isinstance(value, int | float) and value > 0)
