"""Fits position embeddings of one grid to another."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

GRID = 3
"""A grid of positions has so many rows or more."""


def fit_positions(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, antialias: bool = False
) -> tuple[dict[str, Tensor], str]:
    """Weights with positions of another grid interpolated, and a sentence about it.

    Positions are tables (…, tokens, features) whose names have `pos`; grids are squares.
    """
    state, note = dict(found), ""
    for name, tensor in found.items():
        table = expected.get(name)
        if table is None or "pos" not in name or tensor.ndim != table.ndim or tensor.ndim < 2:
            continue
        sides = _sides(tensor.shape[-2], table.shape[-2])
        if tensor.shape == table.shape or tensor.shape[-1] != table.shape[-1] or sides is None:
            continue
        prefix, old, new = sides
        state[name] = resize_positions(
            tensor.float(), prefix, (old, old), (new, new), antialias=antialias
        ).to(tensor.dtype)
        note = f"positions of {old}x{old} patches are interpolated to {new}x{new}"
    return state, note


def match_positions(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str]:
    """As `fit_positions`, for names that agree in their last component only."""
    changed, note = dict(state), ""
    for name, tensor in state.items():
        last = name.rpartition(".")[2]
        alike = [own for own in expected if "pos" in last and own.rpartition(".")[2] == last]
        if len(alike) == 1:
            fitted, said = fit_positions(expected, {alike[0]: tensor})
            changed[name], note = fitted[alike[0]], note or said
    return changed, note


def _sides(given: int, needed: int) -> tuple[int, int, int] | None:
    """Number of tokens before the grid, and sides of the two grids; None if they are no squares."""
    for prefix in (1, 0, 2, 5, 3, 4, 6, 8, 9):
        old, new = (math.isqrt(max(count - prefix, 0)) for count in (given, needed))
        if old * old + prefix == given and new * new + prefix == needed and min(old, new) >= GRID:
            return prefix, old, new
    return None


def resize_positions(
    table: Tensor, prefix: int, old: Sequence[int], new: Sequence[int], *, antialias: bool
) -> Tensor:
    """Positions (…, prefix + rows·columns, features) of a grid for another, bicubic."""
    if tuple(old) == tuple(new):
        return table
    flat = table.reshape(-1, *table.shape[-2:])
    grid = flat[:, prefix:].reshape(len(flat), *old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(
        grid, size=tuple(new), mode="bicubic", align_corners=False, antialias=antialias
    )
    whole = torch.cat([flat[:, :prefix], grid.flatten(2).mT], 1)
    return whole.reshape(*table.shape[:-2], *whole.shape[-2:])
