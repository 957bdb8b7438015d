"""The two Triton kernels behind `kernel`: statistics of rows, and attention received.

Scores are in units of ln 2, as in `tiles`: 2^(s/ln 2) = e^s. A program holds a block of rows and
goes over the keys tile by tile, with running maxima and sums (online softmax, Milakov &
Gimelshein, 1805.02867). Products are exact for half precision and sums are float32.

Letters in names of arguments are the axes of strides: b batch, h heads, i queries, j keys, r weight
vectors. The stride of an axis that is shared is 0.
"""

import triton
import triton.language as tl

from attnviz.attention import scores

FLOOR = tl.constexpr(scores.FLOOR)
LOG2E = tl.constexpr(scores.LOG2E)


@triton.jit
def _vectors(base, index, step, size, dim: tl.constexpr, side: tl.constexpr):
    """Some queries or keys, (count, side), 0 beyond `size` and beyond their `dim` features."""
    d = tl.arange(0, side)
    inside = (index < size)[:, None]
    if dim < side:
        inside = inside & (d < dim)[None, :]
    return tl.load(base + index.to(tl.int64)[:, None] * step + d[None, :], mask=inside, other=0.0)


@triton.jit
def _products(rows, columns, precision: tl.constexpr):
    """Products of rows and columns, (rows, columns) float32.

    The interpreter takes the bits of bfloat16 for integers here, so they are float32 before.
    """
    if precision == "interpreted":
        return tl.dot(rows.to(tl.float32), tl.trans(columns.to(tl.float32)), input_precision="ieee")
    else:  # noqa: RET505 — Triton compiles the branch that is taken
        return tl.dot(rows, tl.trans(columns), input_precision=precision)


@triton.jit
def _biased(s, at, inside, later, kind: tl.constexpr, causal: tl.constexpr):
    """Scores with their bias, at addresses `at`; `FLOOR` where a key takes no part."""
    if kind == "boolean":
        s = tl.where(tl.load(at, mask=inside, other=0) != 0, s, FLOOR)
    elif kind == "added":
        bias = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        s += bias * LOG2E
        # A very low finite bias takes part, as in the fused kernel; −∞ does not. NaN stays.
        s = tl.where(s < 0.4 * FLOOR, 0.4 * FLOOR, s)
        s = tl.where(bias == float("-inf"), FLOOR, s)
    if causal:
        s = tl.where(later, FLOOR, s)
    return s


@triton.jit
def _add(
    s, far, prefix, prefixed, top, total, energy, path, mass, squares,
    distances: tl.constexpr, masses: tl.constexpr, squared: tl.constexpr,
):  # fmt: skip
    """The largest score and the sums of rows, after one more tile of scores."""
    new = tl.maximum(top, tl.max(s, 1))
    shrink = tl.exp2(top - new)
    s -= new[:, None]
    power = tl.exp2(s)
    energy = shrink * (energy + total * (top - new)) + tl.sum(power * s, 1)
    total = shrink * total + tl.sum(power, 1)
    if distances:
        path = shrink * path + tl.sum(power * far, 1)
    if masses:
        mass *= shrink
        if prefixed:
            mass += tl.sum(power * prefix, 1)
    if squared:
        squares = shrink * shrink * squares + tl.sum(power * power, 1)
    return new, total, energy, path, mass, squares


@triton.jit
def _empty(top, total):
    """Rows without a key; a row with NaN is none."""
    return (top <= FLOOR / 2) & (total == total)


@triton.jit
def _store(
    at, step, inside, counted, top, total, energy, far, mass, squares,
    distances: tl.constexpr, masses: tl.constexpr, squared: tl.constexpr,
):  # fmt: skip
    """Write the numbers of rows, in the order of `kernel.NUMBERS`."""
    nothing = _empty(top, total) | ~counted
    bits = tl.log2(total)
    spread = bits - energy / total
    spread = tl.where(spread < 0, 0.0, spread)  # NaN stays
    tl.store(at, tl.where(nothing, 0.0, (top + bits) / LOG2E), mask=inside)
    tl.store(at + step, tl.where(nothing, 0.0, spread / LOG2E), mask=inside)
    tl.store(at + 2 * step, tl.where(nothing, 0.0, 1 / total), mask=inside)
    tl.store(at + 3 * step, top, mask=inside)
    if masses:
        tl.store(at + 4 * step, tl.where(nothing, 0.0, mass / total), mask=inside)
    if distances:
        tl.store(at + 5 * step, tl.where(counted, far, 0.0), mask=inside)
    if squared:
        share = squares / (total * total)
        tl.store(at + 6 * step, tl.where(nothing, 0.0, share), mask=inside)


SIZES = ["first", "heads", "queries", "keys", "shared", "step", "vectors"]
"""Arguments whose value makes no kernel of its own."""


@triton.jit(do_not_specialize=SIZES)
def rows(
    query, key, bias, order, counted, places, facts, numbers,
    query_b, query_h, query_i, key_b, key_h, key_j, bias_b, bias_h, bias_i, bias_j,
    order_b, counted_b, places_b, facts_b,
    first, heads, queries, keys, shared, step, factor,
    kind: tl.constexpr, causal: tl.constexpr, ordered: tl.constexpr, paired: tl.constexpr,
    distances: tl.constexpr, masses: tl.constexpr, squared: tl.constexpr, dim: tl.constexpr,
    side: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Every number of `tall` rows, of one head or of a pair of heads.

    `order` holds how many keys are in G, take part, and are in G and prefix tokens; then the keys:
    first G, then the others, so that the sums over G alone are there when the first loop ends.
    `facts` of keys, in that order, are x, y, and 1 for a prefix token. A pair of heads shares the
    square roots of its distances.
    """
    program = (first + tl.program_id(0)).to(tl.int64)
    blocks = tl.cdiv(queries, tall)
    pair = 1 if paired else 0
    h = program // blocks % (heads // (1 + pair)) * (1 + pair)
    b = program // blocks // (heads // (1 + pair))
    i = (program % blocks * tall).to(tl.int32) + tl.arange(0, tall)
    here = i < queries

    query += b * query_b + h * query_h
    key += b * key_b
    key_0 = key + h // shared * key_h
    key_1 = key + (h + pair) // shared * key_h
    q_0 = _vectors(query, i, query_i, queries, dim, side)
    q_1 = _vectors(query + pair * query_h, i, query_i, queries, dim, side)
    bias += b * bias_b + h * bias_h
    bias_0 = bias + i.to(tl.int64)[:, None] * bias_i
    order += b * order_b
    facts += b * facts_b
    x_i = tl.zeros([tall, 1], tl.float32)
    y_i = x_i
    if distances:
        x_i = tl.load(places + b * places_b + 2 * i, mask=here, other=0.0)[:, None]
        y_i = tl.load(places + b * places_b + 2 * i + 1, mask=here, other=0.0)[:, None]

    top_0 = tl.full([tall], FLOOR, tl.float32)
    total_0 = tl.zeros([tall], tl.float32)
    energy_0, path_0, mass_0, squares_0, far_0 = total_0, total_0, total_0, total_0, total_0
    top_1, total_1, energy_1, path_1 = top_0, total_0, total_0, total_0
    mass_1, squares_1, far_1 = total_0, total_0, total_0
    start = 0
    for part in tl.static_range(2 if ordered else 1):
        stop = tl.load(order + part) if ordered else keys
        prefixed = tl.load(order + 2) > 0 if ordered & (part == 0) else keys > 0
        for place in range(start, stop, wide):
            at = place + tl.arange(0, wide)
            attended = at < stop
            j = tl.load(order + 3 + at, mask=attended, other=keys) if ordered else at
            left_out = tl.where(attended, 0.0, FLOOR)[None, :]
            inside = here[:, None] & attended[None, :]
            later = j[None, :] > i[:, None]
            far = tl.zeros([1, 1], tl.float32)
            prefix = far
            if masses:
                prefix = tl.load(facts + 2 * keys + at, mask=attended, other=0.0)[None, :]
            if distances & (part == 0):
                x = x_i - tl.load(facts + at, mask=attended, other=0.0)[None, :]
                y = y_i - tl.load(facts + keys + at, mask=attended, other=0.0)[None, :]
                far = tl.sqrt(x * x + y * y)
            k = _vectors(key_0, j, key_j, keys, dim, side)
            s = _products(q_0, k, precision) * factor
            s = _biased(s, bias_0 + j[None, :] * bias_j, inside, later, kind, causal) + left_out
            top_0, total_0, energy_0, path_0, mass_0, squares_0 = _add(
                s, far, prefix, prefixed, top_0, total_0, energy_0, path_0, mass_0, squares_0,
                distances & (part == 0), masses, squared,
            )  # fmt: skip
            if paired:
                k = _vectors(key_1, j, key_j, keys, dim, side)
                s = _products(q_1, k, precision) * factor
                to = bias_0 + bias_h + j[None, :] * bias_j
                s = _biased(s, to, inside, later, kind, causal) + left_out
                top_1, total_1, energy_1, path_1, mass_1, squares_1 = _add(
                    s, far, prefix, prefixed, top_1, total_1, energy_1, path_1, mass_1, squares_1,
                    distances & (part == 0), masses, squared,
                )  # fmt: skip
        if distances & (part == 0):
            far_0 = tl.where(_empty(top_0, total_0), 0.0, path_0 / total_0)
            far_1 = tl.where(_empty(top_1, total_1), 0.0, path_1 / total_1)
        start = stop

    counts = tl.load(counted + b * counted_b + i, mask=here, other=0) != 0
    at = numbers + (b * heads + h) * queries + i
    _store(
        at, step, here, counts, top_0, total_0, energy_0, far_0, mass_0, squares_0,
        distances, masses, squared,
    )  # fmt: skip
    if paired:
        _store(
            at + queries, step, here, counts, top_1, total_1, energy_1, far_1, mass_1, squares_1,
            distances, masses, squared,
        )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def received(
    query, key, bias, weights, tops, out,
    query_b, query_h, query_i, key_b, key_h, key_j, bias_b, bias_h, bias_i, bias_j,
    first, heads, queries, keys, shared, vectors, factor,
    kind: tl.constexpr, causal: tl.constexpr, several: tl.constexpr,
    dim: tl.constexpr, side: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr,
    precision: tl.constexpr,
):  # fmt: skip
    """Σ_i w_ri A_ij of `tall` keys, for `several` weight vectors at a time: the transposed call.

    `tops` are the largest scores of the rows, and `weights` are w_ri / Σ_j 2^(s_ij − top_i).
    """
    program = (first + tl.program_id(0)).to(tl.int64)
    blocks, groups = tl.cdiv(keys, tall), tl.cdiv(vectors, several)
    j = (program % blocks * tall).to(tl.int32) + tl.arange(0, tall)
    r = program // blocks % groups * several
    h = program // blocks // groups % heads
    b = program // blocks // groups // heads
    here = j < keys

    query += b * query_b + h * query_h
    k = _vectors(key + b * key_b + h // shared * key_h, j, key_j, keys, dim, side)
    bias += b * bias_b + h * bias_h
    weights += ((b * heads + h) * vectors + r) * queries
    tops += (b * heads + h) * queries
    numbers = tl.arange(0, several)[None, :]
    sums = tl.zeros([tall, several], tl.float32)
    for start in range(0, queries, wide):
        i = start + tl.arange(0, wide)
        rows = i < queries
        q = _vectors(query, i, query_i, queries, dim, side)
        s = _products(k, q, precision) * factor
        at = bias + i.to(tl.int64)[None, :] * bias_i + j[:, None] * bias_j
        later = j[:, None] > i[None, :]
        s = _biased(s, at, here[:, None] & rows[None, :], later, kind, causal)
        power = tl.exp2(s - tl.load(tops + i, mask=rows, other=0.0)[None, :])
        for vector in tl.static_range(several):
            inside = rows & (r + vector < vectors)
            weight = tl.load(weights + vector * queries + i, mask=inside, other=0.0)
            given = tl.sum(power * weight[None, :], 1)
            sums += tl.where(numbers == vector, given[:, None], 0.0)
    to = out + ((b * heads + h) * vectors + r + numbers) * keys + j[:, None]
    tl.store(to, sums, mask=here[:, None] & (r + numbers < vectors))
