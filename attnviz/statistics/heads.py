"""One number per head or pair of heads: the formulas of docs/formulas.md.

Each function takes a layer input and returns float32 numbers, (heads,) unless it says otherwise, of
the matrix that combines all windows of the layer. Means are over G, the query tokens that lie on
the picture and take part. If none lies there (attention pools), they are over all queries that take
part.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attention.layer_input import LayerInput
from attnviz.attention.scores import float32_no_grad, row_blocks, weight_gradients
from attnviz.attention.sweep import SweepRequest


def entropy(reading: LayerInput) -> Tensor:
    """Mean over i∈G of −Σ_j A_ij ln A_ij, in nats (Shannon 1948)."""
    return _mean(reading.sweep().entropy, reading.uniform_grid)


def entropy_ratio(reading: LayerInput) -> Tensor:
    """Mean over i∈G of the row's entropy / ln(number of keys of its window that take part).

    Of sampled points the keys are those of the head. NaN where a window has a single key.
    """
    keys = reading.keys.taking_part  # (windows, keys)
    own = reading.call.heads if reading.call.points is not None else 1
    most = keys.reshape(len(keys), own, -1).sum(2).log()[..., None]  # (windows, heads or 1, 1)
    weights = reading.uniform_grid[:, None]
    # A row that counts and has one key gives 0/0.
    weights = torch.where(weights > 0, weights / most, 0.0)
    return (reading.sweep().entropy * weights).sum((0, 2))


def confidence(reading: LayerInput) -> Tensor:
    """Mean over i∈G of max_j A_ij (Voita et al., 1905.09418)."""
    return _mean(reading.sweep().confidence, reading.uniform_grid)


def distance_px(reading: LayerInput) -> Tensor:
    """Mean over i∈G of Σ_{j∈G} Â_ij·d_ij in input pixels; Â: the row restricted to G, renormalised.

    NaN where no query lies on the picture. Mean attention distance (Dosovitskiy et al.,
    2010.11929, fig. 7).
    """
    distance = reading.sweep().distance
    assert distance is not None  # every reading has positions
    found = _mean(distance, reading.uniform_grid)
    return torch.where(reading.queries.on_picture.any() & reading.queries.lie, found, math.nan)


def prefix_mass(reading: LayerInput) -> Tensor:
    """Mean over i∈G of Σ_{j∈P} A_ij; P: the keys that lie on no cell of the picture."""
    mass = reading.sweep().prefix_mass
    assert mass is not None  # every reading knows its prefix
    return _mean(mass, reading.uniform_grid)


def sink_mass(reading: LayerInput) -> Tensor:
    """max_j of α_j = mean over the queries i that take part of A_ij (Gu et al., 2410.10781).

    The queries are those of all windows; j is a token of one of them. NaN if rows do not sum to 1.
    """
    received = reading.sweep().received
    assert received is not None  # every reading asks for it
    return received[:, :, 0].amax((0, 2)) + (0.0 if reading.call.sums_to_one else math.nan)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Σ of a number per query times its weight, (windows, heads, queries) → (heads,)."""
    return (values * weights[:, None]).sum((0, 2))  # a matrix product would be autocast


def importance(reading: LayerInput) -> Tensor:
    """|Σ_ij A_ij·∂y/∂A_ij| over the queries that take part and all keys, of one picture, (heads,).

    Equal to |∂y/∂ξ_h| where ξ_h is a factor on all that head h adds (Michel et al., 1905.10650,
    who take the mean of it over examples), and to |Σ_i ⟨∂y/∂O_i, O_i⟩| where heads are not
    mixed. NaN where no score was asked for.
    """
    call = reading.call
    if call.gradient is None:
        return torch.full((call.heads,), math.nan)
    total = torch.zeros(call.heads, dtype=torch.float64)
    with float32_no_grad(call.query):
        for block in row_blocks(call, reading.queries.taking_part):
            terms = torch.linalg.vecdot(block.weights, weight_gradients(block.call, block.queries))
            counted = terms * block.shares[:, None]
            total += counted.cpu().double().sum((0, 2))  # float64: terms may cancel
    return total.abs().float()


def cosine(reading: LayerInput) -> Tensor:
    """⟨A^h, A^g⟩ / (‖A^h‖·‖A^g‖), A flattened: 1 for heads that are the same, 0 for disjoint ones.

    NaN where a head has no weight at all.
    """
    products = reading.pairs().products
    norms = products.diagonal().sqrt()
    return (products / (norms[:, None] * norms)).clamp_(max=1.0)


def jensen_shannon(reading: LayerInput) -> Tensor:
    """Mean over i∈G of JS(A^h_i ‖ A^g_i) in nats: 0 for the same, ln 2 for disjoint rows.

    A divergence, as Clark et al. (1906.04341) compare heads; its square root is a distance
    (Lin 1991; Endres & Schindelin 2003).
    """
    return reading.pairs().divergence


def head_cosine(reading: LayerInput) -> Tensor:
    """Mean `cosine` with the other heads; NaN where there is no other."""
    return _with_others(cosine(reading))


def head_jensen_shannon(reading: LayerInput) -> Tensor:
    """Mean `jensen_shannon` with the other heads; NaN where there is no other."""
    return _with_others(jensen_shannon(reading))


def _with_others(each: Tensor) -> Tensor:
    """Mean of every row of (heads, heads) without its diagonal."""
    others = len(each) - 1
    off = each.masked_fill(torch.eye(len(each), dtype=torch.bool), 0.0)
    return off.sum(1) / others  # 0/0 is NaN


CHUNK = 1 << 20
"""Maximal number of projected values in memory at a time."""
_NOTHING = -1e30
"""The score of a key that brings nothing: below that of any key that takes part."""


def value_distance_px(reading: LayerInput) -> Tensor:
    """Mean over i∈G of Σ_{j∈G} B̂_ij·d_ij in input pixels, B_ij = A_ij·‖f_j‖, f_j = v_j·W_O^h.

    B̂ is the row restricted to G and renormalised, 0 if nothing comes from there. It returns
    (heads,): the `distance_px` of the weights that Kobayashi et al. (2004.10102) use in place of
    attention. NaN if the projection was not recorded (‖v_j‖ alone is no measure: W_O may remove any
    direction of it), or if no query lies on the picture.
    """
    call = reading.call
    lie = reading.queries.lie and bool(reading.queries.on_picture.any())
    if call.projection is None or not lie:
        return torch.full((call.heads,), math.nan)
    request = SweepRequest(
        query_mask=reading.queries.taking_part,
        positions=(reading.queries.positions, reading.keys.positions),
        grid=reading.keys.on_picture,
    )
    distance = reweighted(call, value_norms(call)).sweep(request).distance
    assert distance is not None  # positions were given
    return (distance * reading.uniform_grid[:, None]).sum((0, 2)).cpu()


def value_norms(call: AttentionCall) -> Tensor:
    """‖v_j·W_O^h‖₂ of what each head takes from each key, (B, H, Nk) float32.

    If heads are mixed after the softmax, a weight of head h brings f_j^h = Σ_g M_gh·v_j^g·W_O^g.
    What the mixing adds to all weights alike is left out.
    """
    assert call.projection is not None  # the caller checked it
    found = []
    with float32_no_grad(call.query):
        projection = call.projection.float()  # (Hv, Dv, F)
        batch, groups, keys, _ = call.value.shape
        heads, _, features = projection.shape
        step = max(1, CHUNK // (batch * heads * features))
        for start in range(0, keys, step):
            value = call.value[:, :, start : start + step].float()
            brought = value.repeat_interleave(heads // groups, dim=1) @ projection  # (B, Hv, n, F)
            if call.mixing is not None:
                brought = torch.einsum("gh,bgjf->bhjf", call.mixing[0].float(), brought)
            found.append(brought.norm(dim=-1))
        return torch.cat(found, dim=-1)


def reweighted(call: AttentionCall, norms: Tensor) -> AttentionCall:
    """The call whose weights are A_ij·norms_j, renormalised; `norms` is (B, H, Nk).

    This is a softmax of s_ij + ln norms_j. The logarithm is one more feature of the keys, and this
    feature is 1 in every query. A bias would take queries × keys numbers where the call has one.
    """
    with float32_no_grad(call.query):
        top = norms.amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        logs = (norms / top).log()
        logs = logs.masked_fill(logs.isneginf(), _NOTHING)
        key = call.key.float().repeat_interleave(call.heads // call.key.shape[1], dim=1)
        query = call.query.float() * call.scale
        return replace(
            call,
            query=torch.cat([query, query.new_ones(*query.shape[:3], 1)], dim=-1),
            key=torch.cat([key, logs[..., None]], dim=-1),
            scale=1.0,
        )
