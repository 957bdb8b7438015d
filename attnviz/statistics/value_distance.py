"""A statistic of how far a head looks, weighted by the values that it brings."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attention.layer_input import LayerInput
from attnviz.attention.scores import float32_no_grad
from attnviz.attention.sweep import SweepRequest

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
    if call.projection is None or not bool(reading.queries.on_picture.any()):
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
            query=torch.cat([query, torch.ones_like(query[..., :1])], dim=-1),
            key=torch.cat([key, logs[..., None]], dim=-1),
            scale=1.0,
        )
