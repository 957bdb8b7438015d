"""Encodes weights for the page: as 8-bit weights, or as 16-bit queries and keys, packed as text.

For N tokens, the weights take N² bytes per head. Queries and keys take 4·N·D bytes, and the browser
computes the selected row from them. The smaller encoding is used; a bias that is more than a mask
always needs the weights.
"""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnviz.attention import AttentionCall
from attnviz.page.page_tokens import PageTokens

Encoding = Literal["weights8", "keys16"]
Arrays = dict[str, NDArray[Any]]
_ROWS = 1 << 24  # number of weights that are computed at once: 64 MiB
_STEPS = 32767  # largest value of a signed 16-bit number
_PRECISE = 5e-3
"""Largest relative error of weights from 16-bit queries and keys; above it, they have 32 bits."""
_PROBES = 32  # rows on which the error is measured
_SEEN = 1e-6  # share of a row's largest weight; smaller weights cannot be distinguished


def encode(
    call: AttentionCall, heads: tuple[int, ...], queries: PageTokens, keys: PageTokens
) -> tuple[Encoding, Arrays]:
    """The encoded weights of some heads of a layer, in the token order of `queries` and `keys`.

    It uses the smaller encoding if that is possible.
    """
    part = of_heads(call, heads)
    if smaller(call) == "keys16" and only_masked(part, queries, keys):
        return "keys16", _keys(part, queries, keys)
    return "weights8", _weights(part, queries, keys)


def smaller(call: AttentionCall) -> Encoding:
    """The encoding that takes fewer bytes."""
    return "keys16" if _sizes(call)["keys16"] < _sizes(call)["weights8"] else "weights8"


def byte_count(call: AttentionCall, heads: int) -> int:
    """The approximate size of the weights of `heads` heads, in bytes."""
    plain = call.bias is None and not call.causal
    return heads * _sizes(call)[smaller(call) if plain else "weights8"]


def _sizes(call: AttentionCall) -> dict[Encoding, int]:
    """The size of one head in each encoding, in bytes."""
    windows, _, n, m = call.shape
    return {"weights8": windows * n * m, "keys16": 2 * windows * (n + m) * call.query.shape[3]}


def of_heads(call: AttentionCall, heads: tuple[int, ...]) -> AttentionCall:
    """The attention call of some heads, each with its own keys."""
    index = torch.tensor(heads, device=call.query.device)
    key = call.key[:, index // (call.heads // call.key.shape[1])]
    bias = call.bias
    if bias is not None and bias.ndim > 2 and bias.shape[-3] > 1:
        bias = bias.index_select(-3, index)
    return AttentionCall(call.query[:, index], key, key, call.scale, bias=bias, causal=call.causal)


def only_masked(call: AttentionCall, queries: PageTokens, keys: PageTokens) -> bool:
    """Whether the scores are q·k only, except for masked keys."""
    part = _in_layer_order(keys.part, keys)
    if call.causal or call.bias is None:
        return not call.causal and bool(part.all())
    bias = call.bias
    if bias.dtype != torch.bool:
        if not bool(((bias == 0) | bias.isneginf()).all()):
            return False
        bias = bias == 0
    masked_rows = ~torch.from_numpy(_in_layer_order(queries.part, queries)).to(bias.device)
    same = bias == torch.from_numpy(part).to(bias.device)[:, None, None]
    return bool((same | masked_rows[:, None, :, None]).all())


def _in_layer_order(values: NDArray[np.bool_], side: PageTokens) -> NDArray[np.bool_]:
    """Values in the layer's order, from values in the order of the page."""
    result = np.empty_like(values)
    np.put_along_axis(result, side.order, values, 1)
    return result


def _weights(call: AttentionCall, queries: PageTokens, keys: PageTokens) -> Arrays:
    """The rows of weights as bytes, computed block by block."""
    windows, heads, n, m = call.shape
    step = max(1, _ROWS // (windows * heads * m))
    blocks = [
        encode_rows(_rows(call, queries, keys, np.arange(n)[first : first + step]), keys)
        for first in range(0, n, step)
    ]
    return {name: np.concatenate([block[name] for block in blocks], 2) for name in blocks[0]}


def encode_rows(rows: NDArray[np.float32], keys: PageTokens) -> Arrays:
    """Rows of weights (windows, heads, n, keys) as bytes; those without a place stay exact."""
    outside = len(keys.prefix)
    drawn = keys.drawn_tokens[:, None, None, outside:]
    weights, maximum = in_bytes(rows[..., outside:], drawn)
    found: Arrays = {"weights": weights, "maximum": maximum}
    return {**found, "prefix": rows[..., :outside]} if outside else found


def _rows(
    call: AttentionCall, queries: PageTokens, keys: PageTokens, chosen: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Weights of chosen queries, by their places in the page, (windows, heads, n, keys)."""
    # The page's order differs from the layer's only if there is one window.
    weights = call.rows(queries.order[0, chosen].tolist()).cpu().numpy()
    result: NDArray[np.float32] = np.take_along_axis(weights, keys.order[:, None, None], 3)
    return result


def _keys(call: AttentionCall, queries: PageTokens, keys: PageTokens) -> Arrays:
    """Scaled queries, and keys, in 16 bits if that is exact enough."""
    query = _ordered(call.query.detach().float() * call.scale, queries)
    key = _ordered(call.key.detach().float(), keys)
    part = keys.part[:, None, :, None]
    # Softmax ignores what all keys have in common; without it, rounding errors are smaller.
    key -= key.mean(2, keepdims=True, where=part)
    key *= part
    found: Arrays = {"query": query, "key": key}
    rounded = _in_16_bits(query, key)
    exact = np.isfinite(query).all() and np.isfinite(key).all()
    return rounded if exact and _error(found, rounded, keys) <= _PRECISE else found


def _ordered(values: Tensor, side: PageTokens) -> NDArray[np.float32]:
    """Values (windows, heads, tokens, features) in the order of the page."""
    result: NDArray[np.float32] = np.take_along_axis(
        values.cpu().numpy(), side.order[:, None, :, None], 2
    )
    return result


def _in_16_bits(query: NDArray[np.float32], key: NDArray[np.float32]) -> Arrays:
    """Queries and keys as 16-bit steps, one step size per feature; `unit` is the steps' product."""
    steps, whole = [], []
    for values in (query, key):
        step = np.abs(values).max(2, initial=0) / _STEPS  # (windows, heads, features)
        safe = np.where(step > 0, step, 1)[:, :, None]
        whole.append(np.rint(values / safe).astype(np.int16))
        steps.append(step)
    unit = (steps[0] * steps[1]).astype(np.float32)
    return {"query": whole[0], "key": whole[1], "unit": unit}


def _error(exact: Arrays, rounded: Arrays, keys: PageTokens) -> float:
    """The largest relative error of a visible weight, on rows spread over the queries."""
    queries = exact["query"].shape[2]
    chosen = np.linspace(0, queries - 1, min(_PROBES, queries)).round().astype(np.intp)
    logs = []
    for arrays in (exact, rounded):
        q = arrays["query"][:, :, chosen].astype(np.float32)
        q *= arrays["unit"][:, :, None] if "unit" in arrays else 1
        scores = q @ arrays["key"].astype(np.float32).swapaxes(2, 3)
        scores = np.where(keys.part[:, None, None], scores, -np.inf)
        scores -= scores.max(-1, keepdims=True)
        logs.append(scores - np.log(np.exp(scores).sum(-1, keepdims=True)))
    top = logs[0].max(-1, keepdims=True)
    visible = logs[0] > top + np.log(_SEEN)
    with np.errstate(invalid="ignore"):  # −∞ − (−∞), for masked tokens
        difference = np.abs(logs[1] - logs[0])
    return float(difference.max(where=visible, initial=0))


LEVEL = 6
"""Level of gzip; it makes little difference, since weights and keys are mostly noise."""
_ALIGNED = 4  # bytes: a typed array of a script starts at a multiple of this
_LEAST = 1e-30  # smaller weights count as 0: 255 divided by them may overflow float32
_TYPES = {"uint8": "u8", "int16": "i16", "int32": "i32", "float32": "f32"}


@dataclass(frozen=True)
class PackedBlock:
    """Packed arrays.

    Attributes:
        parts: type, shape and offset of each array, by its name.
        text: the bytes of the arrays, little-endian, compressed by gzip and encoded as base64.
    """

    parts: dict[str, dict[str, Any]]
    text: str

    def element(self, name: str) -> str:
        """The block as an element of the page; browsers never execute it."""
        return f'<script type="application/octet-stream" id="{name}">{self.text}</script>\n'


def pack(arrays: Mapping[str, NDArray[Any]]) -> PackedBlock:
    """Pack arrays one after the other; equal arrays give equal text."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)  # gzip without a date
    parts: dict[str, dict[str, Any]] = {}
    packed, offset = [], 0
    for name, array in arrays.items():
        parts[name] = {
            "type": _TYPES[array.dtype.name],
            "shape": list(array.shape),
            "offset": offset,
        }
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        data += bytes(-len(data) % _ALIGNED)
        packed.append(packer.compress(data))
        offset += len(data)
    packed.append(packer.flush())
    return PackedBlock(parts, base64.b64encode(b"".join(packed)).decode())


def in_bytes(
    values: NDArray[np.float32], drawn: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Rows of weights as fractions of the row's maximum in bytes (0…255), and the maxima.

    The maximum is over the `drawn` tokens. Larger weights of other tokens are clipped, so that
    they do not reduce the precision of the visible ones.
    """
    maximum = np.where(drawn, values, np.float32(0)).max(-1, initial=0)
    maximum[maximum < _LEAST] = 0
    factor = np.divide(255, maximum, out=np.zeros_like(maximum), where=maximum > 0)
    scaled = np.rint(values * factor[..., None])
    return np.minimum(scaled, 255).astype(np.uint8), maximum
