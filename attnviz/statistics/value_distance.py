"""How far a head looks, by what it brings from there and not by its weights alone."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attention.layer_input import LayerInput
from attnviz.attention.scores import float32_no_grad
from attnviz.attention.sweep import SweepRequest

CHUNK = 1 << 20
"""Numbers of projected values that are there at a time."""
_NOTHING = -1e30
"""The score of a key that brings nothing: below what takes part at all."""


def value_distance_px(reading: LayerInput) -> Tensor:
    """Mean over i∈G of Σ_{j∈G} B̂_ij·d_ij in input pixels, B_ij = A_ij·‖f_j‖, f_j = v_j·W_O^h.

    B̂: the row restricted to G, renormalised, 0 where nothing comes from there. (heads,): the
    `distance_px` of the weights that Kobayashi et al. (2004.10102) put in the place of attention.
    NaN where the projection was not seen (‖v_j‖ alone is no measure: W_O may take any direction of
    it away), and where no query lies on the picture.
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

    Where heads are mixed after the softmax, f_j^h = Σ_g M_gh·v_j^g·W_O^g is what a weight of head h
    brings; what the mixing adds to all weights alike is left out.
    """
    assert call.projection is not None  # the caller has looked
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

    That is a softmax of s_ij + ln norms_j. The logarithm goes in as one more feature of the keys,
    which a query has 1 of: a bias would need queries × keys where there is one already.
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
