"""The record's numbers by brute force in float64 NumPy: an oracle that shares no code with attnviz.

Written from CONTRACT §5 with explicit loops where that keeps it obvious.
"""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax_rows(scores: Array) -> Array:
    """Softmax over the last axis; a row of −∞ gives zeros."""
    result = np.zeros_like(scores)
    for row in np.ndindex(scores.shape[:-1]):
        s = scores[row]
        if np.isneginf(s).all():
            continue
        e = np.exp(s - s.max())
        result[row] = e / e.sum()
    return result


def attention(q: Array, k: Array, scale: float, bias: Array | None = None) -> Array:
    """(H, Nq, D), (H, Nk, D) → A (H, Nq, Nk)."""
    scores = scale * np.einsum("hid,hjd->hij", q, k)
    return softmax_rows(scores if bias is None else scores + bias)


def statistics(
    a: Array, centres: Array, prefix: int, part: NDArray[np.bool_]
) -> dict[str, list[float]]:
    """Every statistic of A (H, N, N); `centres` (N − prefix, 2), `part` (N,) False where masked."""
    grid = [i for i in range(prefix, len(part)) if part[i]]
    queries = [i for i in range(len(part)) if part[i]]
    keys = int(part.sum())
    result: dict[str, list[float]] = {}
    for head in a:
        entropies, peaks, distances, masses = [], [], [], []
        for i in grid:
            row = head[i]
            entropies.append(-sum(p * math.log(p) for p in row if p > 0))
            peaks.append(max(row))
            masses.append(sum(row[:prefix]))
            inside = sum(row[j] for j in grid)
            far = sum(row[j] * math.dist(centres[i - prefix], centres[j - prefix]) for j in grid)
            distances.append(far / inside)
        alpha = [sum(head[i, j] for i in queries) / len(queries) for j in range(len(part))]
        values = {
            "entropy": np.mean(entropies),
            "entropy_ratio": np.mean(entropies) / math.log(keys) if keys > 1 else math.nan,
            "confidence": np.mean(peaks),
            "distance_px": np.mean(distances),
            "prefix_mass": np.mean(masses),
            "sink_mass": max(alpha),
        }
        for name, value in values.items():
            result.setdefault(name, []).append(float(value))
    return result


def map_numbers(weights: Array) -> dict[str, float]:
    """Numbers of a drawn map given as its drawn weights, flat."""
    total = weights.sum()
    p = [w / total for w in weights if w > 0]
    mass, size = 0.0, 0
    for weight in sorted(weights, reverse=True):
        mass, size = mass + weight / total, size + 1
        if mass >= 0.6 - 1e-6:
            break
    return {
        "minimum": float(weights.min()),
        "maximum": float(weights.max()),
        "entropy": -sum(x * math.log(x) for x in p),
        "area60": size / len(weights),
    }
