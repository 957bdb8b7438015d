"""The oracle: every formula as it is written in docs/formulas.md, on the whole N×N matrix.

A is (…, Nq, Nk) with rows that sum to 1. G are the grid tokens and P the prefix tokens: boolean
vectors over queries or keys, False for masked tokens. Everything is computed in the type of its
arguments; `attention_matrix` gives float64 by default. A result has one number per leading index,
that is per head. The numbers in parentheses are arXiv numbers of papers.
"""

import torch
from torch import Tensor

from attnviz.attention.sweep import CallTensors, Progress, Sweep, SweepRequest


def attention_matrix(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    bias: Tensor | None = None,
    causal: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """A = softmax(scale·q·kᵀ + bias), (B, H, Nq, Nk); a row without any key is 0."""
    s = _scores(query, key, scale=scale, bias=bias, causal=causal, dtype=dtype)
    return _softmax(s)


def _softmax(s: Tensor) -> Tensor:
    """Softmax over the last axis; a row of −∞ is 0, NaN stays NaN."""
    return s.softmax(-1).masked_fill(s.isneginf().all(-1, keepdim=True), 0.0)


def _scores(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    bias: Tensor | None,
    causal: bool,
    dtype: torch.dtype,
) -> Tensor:
    """scale·q·kᵀ + bias, (B, H, Nq, Nk), −∞ where a key takes no part."""
    groups = query.shape[1] // key.shape[1]
    q, k = query.to(dtype), key.to(dtype).repeat_interleave(groups, dim=1)
    s = scale * (q @ k.transpose(-2, -1))
    if bias is not None:
        s = s.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else s + bias.to(dtype)
    if causal:
        visible = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).tril()
        s = s.masked_fill(~visible, -torch.inf)
    return s


def row_entropy(a: Tensor) -> Tensor:
    """−Σ_j A_ij ln A_ij with 0·ln 0 = 0, (…, Nq)."""
    terms: Tensor = torch.special.entr(a)
    return terms.sum(-1)


def entropy(a: Tensor, g: Tensor) -> Tensor:
    """Mean over i∈G of −Σ_j A_ij ln A_ij."""
    return row_entropy(a)[..., g].mean(-1)


def entropy_ratio(a: Tensor, g: Tensor, keys: int) -> Tensor:
    """`entropy` / ln(number of keys not masked); NaN for a single key."""
    return entropy(a, g) / torch.log(torch.tensor(keys, dtype=a.dtype))


def confidence(a: Tensor, g: Tensor) -> Tensor:
    """Mean over i∈G of max_j A_ij (Voita et al., 1905.09418)."""
    return a.amax(-1)[..., g].mean(-1)


def distance(a: Tensor, g: Tensor, centres: Tensor) -> Tensor:
    """Mean over i∈G of Σ_{j∈G} Â_ij·d_ij; Â is A on G×G with renormalised rows.

    `centres` is (grid tokens, 2), in the order of G (Dosovitskiy et al., 2010.11929, fig. 7).
    """
    inside = a[..., g, :][..., g]
    inside = inside / inside.sum(-1, keepdim=True)
    difference = centres.to(a.dtype)[:, None] - centres.to(a.dtype)[None]
    return (inside * difference.square().sum(-1).sqrt()).sum(-1).mean(-1)


def prefix_mass(a: Tensor, g: Tensor, p: Tensor) -> Tensor:
    """Mean over i∈G of Σ_{j∈P} A_ij."""
    return a[..., g, :][..., p].sum(-1).mean(-1)


def received(a: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i A_ij, (…, Nk)."""
    return torch.einsum("i,...ij->...j", weights.to(a.dtype), a)


def sink_mass(a: Tensor, queries: Tensor) -> Tensor:
    """max_j α_j; α_j is the mean of A_ij over queries i that take part (Gu et al., 2410.10781)."""
    return a[..., queries, :].mean(-2).amax(-1)


def sum_of_squares(a: Tensor) -> Tensor:
    """Σ_j A_ij², (…, Nq): 1 / the number of keys of a uniform row with the same sum of squares."""
    return a.square().sum(-1)


def output_error(a: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """‖A_i·V − output_i‖₂ / ‖output_i‖₂, (B, H, Nq)."""
    v = value.to(a.dtype).repeat_interleave(a.shape[1] // value.shape[1], dim=1)
    expected = output.to(a.dtype)
    error: Tensor = (a @ v - expected).norm(dim=-1) / expected.norm(dim=-1)
    return error


def row_distance(a: Tensor, grid: Tensor, positions: tuple[Tensor, Tensor]) -> Tensor:
    """Σ_{j∈G} Â_ij·d_ij of every query, (B, H, Nq); Â is A on the keys of G, rows renormalised.

    `grid` and `positions` are shared by all items of the batch, or have the batch axis in front.
    """
    of_queries, of_keys = (places.to(a.dtype) for places in positions)
    difference = of_queries[..., :, None, :] - of_keys[..., None, :, :]
    far = difference.square().sum(-1).sqrt().unsqueeze(-3)  # (B or 1, 1, Nq, Nk)
    inside = a.masked_fill(~grid[..., None, None, :], 0.0)
    inside = (inside / inside.sum(-1, keepdim=True)).nan_to_num()
    return (inside * far).sum(-1)


def sweep(call: CallTensors, request: SweepRequest, progress: Progress | None = None) -> Sweep:
    """All requested statistics of a call, from the whole matrix in float64."""
    s = _scores(
        call.query,
        call.key,
        scale=call.scale,
        bias=call.bias,
        causal=call.causal,
        dtype=torch.float64,
    )
    a = _softmax(s)
    part = a.new_ones(a.shape[2], dtype=torch.bool)
    part = part if request.query_mask is None else request.query_mask.unsqueeze(-2)  # (…, 1, Nq)
    grid = a.new_ones(a.shape[3], dtype=torch.bool) if request.grid is None else request.grid
    places, weights = request.positions, request.weights
    found = {
        "lse": torch.where(torch.isneginf(s).all(-1), 0.0, s.logsumexp(-1)),
        "entropy": row_entropy(a),
        "confidence": a.amax(-1),
        "prefix_mass": None if request.prefix is None else _sum(a, request.prefix),
        "distance": None if places is None else row_distance(a, grid, places),
        "sum_of_squares": sum_of_squares(a) if request.squares else None,
    }
    if progress is not None:
        progress(a.shape[2], a.shape[2])
    return Sweep(
        **{name: None if row is None else row * part for name, row in found.items()},  # type: ignore[arg-type]
        received=None if weights is None else (weights.to(a.dtype) * part).unsqueeze(-3) @ a,
    )


def _sum(a: Tensor, keys: Tensor) -> Tensor:
    """Σ_j A_ij over some keys, (Nk,) or (B, Nk) boolean, of (B, H, Nq, Nk): (B, H, Nq)."""
    return a.masked_fill(~keys[..., None, None, :], 0.0).sum(-1)
