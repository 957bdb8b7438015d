"""The record's numbers by brute force in float64 NumPy: an oracle that shares no code with attnviz.

Written from CONTRACT §5 with explicit loops where that keeps it obvious.
"""

import math
from statistics import median

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


def stitch(windows: Array) -> Array:
    """Rows of windows (W, H, n, m) as one matrix (H, W·n, W·m); no window sees another."""
    count, heads, n, m = windows.shape
    whole = np.zeros((heads, count * n, count * m))
    for w in range(count):
        whole[:, w * n : (w + 1) * n, w * m : (w + 1) * m] = windows[w]
    return whole


def layer_statistics(
    a: Array,
    sides: tuple[list[int], list[int]],
    centres: tuple[Array, Array],
    parts: tuple[list[bool], list[bool]],
    windows: int,
) -> dict[str, list[float]]:
    """Every statistic of A (H, queries, keys) whose tokens stand for cells, −1 for none.

    `sides` are the cells of queries and keys, `centres` of cells, `parts` who takes part.
    """
    (rows, columns), (of_rows, of_columns) = sides, parts
    everybody = [i for i, part in enumerate(of_rows) if part]
    lying = [i for i in everybody if rows[i] >= 0]
    counted = lying if any(cell >= 0 for cell in rows) else everybody
    inside = [j for j, cell in enumerate(columns) if cell >= 0 and of_columns[j]]
    width = len(columns) // windows
    keys = [sum(of_columns[w * width : (w + 1) * width]) for w in range(windows)]
    found: dict[str, list[float]] = {}
    for head in a:
        entropies = [-sum(p * math.log(p) for p in head[i] if p > 0) for i in counted]
        own = [keys[i // (len(rows) // windows)] for i in counted]
        distances = [
            sum(head[i, j] * math.dist(centres[0][rows[i]], centres[1][columns[j]]) for j in inside)
            / sum(head[i, j] for j in inside)
            for i in lying
        ]
        outside = [j for j, cell in enumerate(columns) if cell < 0]
        values = {
            "entropy": np.mean(entropies),
            "entropy_ratio": np.mean(
                [e / math.log(n) for e, n in zip(entropies, own, strict=True)]
            ),
            "confidence": np.mean([max(head[i]) for i in counted]),
            "distance_px": np.mean(distances) if distances else math.nan,
            "prefix_mass": np.mean([sum(head[i, j] for j in outside) for i in counted]),
            "sink_mass": max(np.mean([head[i, j] for i in everybody]) for j in range(len(columns))),
        }
        for name, value in values.items():
            found.setdefault(name, []).append(float(value))
    return found


def similarity(a: Array, rows: list[int]) -> tuple[Array, Array]:
    """Cosine and Jensen–Shannon divergence of every two heads of A (H, Nq, Nk) over some rows."""
    heads = len(a)
    cosine, divergence = np.zeros((heads, heads)), np.zeros((heads, heads))
    for h in range(heads):
        for g in range(heads):
            one, two = a[h][rows].ravel(), a[g][rows].ravel()
            cosine[h, g] = one @ two / math.sqrt((one @ one) * (two @ two))
            divergence[h, g] = np.mean([jensen_shannon(a[h, i], a[g, i]) for i in rows])
    return cosine, divergence


def jensen_shannon(p: Array, q: Array) -> float:
    """(KL(p ‖ m) + KL(q ‖ m)) / 2 with m halfway between, in nats."""
    total = 0.0
    for x, y in zip(p, q, strict=True):
        for z in (x, y):
            total += z * math.log(2 * z / (x + y)) / 2 if z > 0 else 0.0
    return total


def others(matrix: Array) -> list[float]:
    """Mean of each row without its diagonal; NaN where there is nothing else."""
    heads = len(matrix)
    return [
        sum(matrix[h, g] for g in range(heads) if g != h) / (heads - 1) if heads > 1 else math.nan
        for h in range(heads)
    ]


def brought(v: Array, projection: Array, mixing: Array) -> Array:
    """‖Σ_g M_gh v_j^g W^g‖ of values (Hv, Nk, Dv), (Hv, Dv, F) and (Hv, H): (H, Nk)."""
    norms = np.zeros((mixing.shape[1], v.shape[1]))
    for h, j in np.ndindex(norms.shape):
        norms[h, j] = np.linalg.norm(
            sum(mixing[g, h] * (v[g, j] @ projection[g]) for g in range(len(v)))
        )
    return norms


def value_distance(
    a: Array, norms: Array, rows: list[int], inside: list[int], places: tuple[Array, Array]
) -> list[float]:
    """Mean over some rows of the distance to keys inside, by A_ij·norm_j renormalised.

    A row of nothing counts as 0.
    """
    found = []
    for head, of in zip(a, norms, strict=True):
        lengths = []
        for i in rows:
            b = [head[i, j] * of[j] for j in inside]
            far = [math.dist(places[0][i], places[1][j]) for j in inside]
            path = sum(x * d for x, d in zip(b, far, strict=True))
            lengths.append(path / sum(b) if sum(b) > 0 else 0.0)
        found.append(float(np.mean(lengths)))
    return found


def outstanding(values: Array, floor: float) -> tuple[list[int], float]:
    """Which values exceed the median plus ten MADs, and a floor; and where that is."""
    middle = median(list(values))
    limit = max(middle + 10 * median([abs(value - middle) for value in values]), floor)
    chosen = [j for j, value in enumerate(values) if value > limit]
    return sorted(chosen, key=lambda j: -values[j]), limit


def importance(a: Array, v: Array, gradient: Array, rows: list[int], mixing: Array) -> list[float]:
    """|Σ_ij A_ij ∇A_ij| of A (H, Nq, Nk), with ∇A = Σ_g M_gh dO^g_i·v^g_j."""
    slope = np.einsum("gh,gid,gjd->hij", mixing, gradient, v)
    return [abs(float((head[rows] * own[rows]).sum())) for head, own in zip(a, slope, strict=True)]
