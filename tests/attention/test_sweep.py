"""Every way to the statistics against the float64 oracle on the whole matrix."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import attnviz
from attnviz.attention import blocks, streamed, tiles
from attnviz.attention.call import Way
from attnviz.attention.sweep import Sweep, SweepRequest

NAMES = ["lse", "entropy", "confidence", "prefix_mass", "distance", "sum_of_squares", "received"]
FAST: list[Way] = ["blocks", "streamed"]


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tiles, blocks and threads also for the sizes that a test can afford."""
    monkeypatch.setattr(streamed, "TILE", 1 << 13)
    monkeypatch.setattr(streamed, "PANEL", 1 << 16)
    monkeypatch.setattr(streamed, "INLINE", 1 << 15)
    monkeypatch.setitem(blocks.BLOCK, "cpu", 1 << 16)


def positions(n: int, first: int = 1) -> Tensor:
    """Centres of tokens, in patches: the unit that a tolerance of 2e-5 is of."""
    side = max(1, math.isqrt(n))
    index = torch.arange(n) - first
    return torch.stack([index % side, index // side], dim=-1) + 0.5


def everything(queries: int, keys: int, first: int = 1) -> SweepRequest:
    """All that a sweep can be asked; the first keys are prefix tokens."""
    weights = torch.full((2, queries), 1 / queries)
    weights[1] = torch.nn.functional.one_hot(torch.tensor(queries // 2), queries)
    prefix = torch.arange(keys) < min(first, keys - 1)
    places = positions(queries, first), positions(keys, first)
    return SweepRequest(
        prefix=prefix, grid=~prefix, positions=places, weights=weights, squares=True
    )


def random_call(
    n: int,
    keys: int | None = None,
    *,
    dim: int = 8,
    heads: int = 2,
    groups: int | None = None,
    batch: int = 1,
    **more: Any,
) -> attnviz.AttentionCall:
    keys = keys or n
    torch.manual_seed(n * 7 + keys * 3 + dim)
    q = torch.randn(batch, heads, n, dim)
    k = torch.randn(batch, groups or heads, keys, dim)
    return attnviz.AttentionCall(q, k, k, dim**-0.5, **more)


def peaked(call: attnviz.AttentionCall, height: float = 60.0) -> attnviz.AttentionCall:
    """Scores that reach ± `height`."""
    groups = call.heads // call.key.shape[1]
    top = (call.query @ call.key.repeat_interleave(groups, 1).mT).abs().max() * call.scale
    return replace(call, query=call.query * (height / top))


def check(call: attnviz.AttentionCall, asked: SweepRequest | None = None, first: int = 1) -> None:
    asked = asked or everything(call.shape[2], call.shape[3], first)
    expected = call.sweep(asked, way="reference")
    for way in FAST:
        same(call.sweep(asked, way=way), expected, way)


def same(found: Sweep, expected: Sweep, way: str) -> None:
    for name in NAMES:
        one, two = getattr(found, name), getattr(expected, name)
        assert (one is None) == (two is None), (way, name)
        if two is not None:
            assert (one.dtype, one.shape) == (torch.float32, two.shape), (way, name)
            error = float(((one - two).abs() - 1e-5 * two.abs()).max())
            assert error <= 2e-5, f"{way} {name}: {error:.1e}"


@pytest.mark.parametrize(
    ("n", "dim"), list(itertools.product([1, 2, 63, 64, 65, 197, 1371], [8, 64]))
)
def test_random_and_peaked_scores_of_every_size(n: int, dim: int) -> None:
    call = random_call(n, dim=dim)
    check(call)
    check(peaked(call))


@pytest.mark.parametrize("dim", [8, 64])
def test_4096_keys_with_the_real_tiles(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    call = random_call(1024, 4096, dim=dim, heads=2)
    check(call, first=0)
    check(peaked(call))


def test_the_mean_distance_in_pixels_of_peaked_scores() -> None:
    call = peaked(random_call(2500, dim=64))
    places = 16 * positions(2500, 0)
    asked = SweepRequest(positions=(places, places))
    means = []
    for way in ("streamed", "reference"):
        distance = call.sweep(asked, way=way).distance
        assert distance is not None
        means.append(distance.double().mean(-1))
    torch.testing.assert_close(means[0], means[1], rtol=1e-5, atol=2e-5)


def test_uniform_scores() -> None:
    call = random_call(500)
    check(replace(call, query=call.query * 0))


def test_a_common_offset_of_all_keys_changes_nothing() -> None:
    call = random_call(300, dim=64)
    check(replace(call, key=call.key + 3))


def test_a_class_token_that_takes_everything_does_not_spoil_the_distance() -> None:
    call = random_call(200)
    key = call.key.clone()
    key[:, :, 0] = 60.0 * call.query.mean(2)
    query = call.query * 0.1 + call.query.mean(2, keepdim=True) * 20
    check(replace(call, query=query, key=key))


@pytest.mark.parametrize("first", [0, 1, 5, 60])
def test_prefixes_of_every_length(first: int) -> None:
    check(random_call(90, heads=3), first=first)


def test_nothing_but_the_rows() -> None:
    check(random_call(150), SweepRequest())
    check(random_call(150), SweepRequest(weights=torch.zeros(1, 150)))
    none = torch.zeros(150, dtype=torch.bool)
    places = positions(150), positions(150)
    check(random_call(150), SweepRequest(positions=places, grid=none))
    check(random_call(150), SweepRequest(positions=places))


@pytest.mark.parametrize(("queries", "keys"), [(1, 700), (700, 1), (300, 513), (130, 77)])
@pytest.mark.parametrize("causal", [False, True])
def test_as_many_queries_as_you_like_for_as_many_keys(
    queries: int, keys: int, causal: bool
) -> None:
    check(random_call(queries, keys, causal=causal))


@pytest.mark.parametrize(
    ("heads", "groups", "batch"), [(1, 1, 1), (6, 2, 3), (8, 1, 2), (12, 12, 1), (6, 3, 2)]
)
def test_heads_groups_and_batches(heads: int, groups: int, batch: int) -> None:
    check(random_call(100, 130, heads=heads, groups=groups, batch=batch))


@pytest.mark.parametrize(
    "shape", [(2, 4, 150, 130), (1, 1, 150, 130), (2, 1, 1, 130), (150, 130), (130,)]
)
def test_biases_of_every_shape(shape: tuple[int, ...]) -> None:
    call = random_call(150, 130, heads=4, groups=2, batch=2)
    bias = torch.randn(shape) * 5
    for each in (bias, bias > 0, bias.masked_fill(bias > 6, -math.inf)):
        check(replace(call, bias=each))
        check(replace(call, bias=each, causal=True))


def of_windows(
    windows: int, queries: int, keys: int, *, alone: set[str] | None = None
) -> SweepRequest:
    """All that a sweep can be asked, otherwise for each window but where `alone` names it."""
    stream = torch.Generator().manual_seed(windows)
    alone = alone or set()

    def random(name: str, *shape: int) -> Tensor:
        front = () if name in alone else (windows,)
        return torch.rand(*front, *shape, generator=stream)

    return SweepRequest(
        query_mask=random("query_mask", queries) > 0.2,
        prefix=random("prefix", keys) > 0.7,
        positions=(9 * random("from", queries, 2), 9 * random("to", keys, 2)),
        grid=random("grid", keys) > 0.4,
        weights=random("weights", 2, queries) / queries,
        squares=True,
    )


FIELDS = ["query_mask", "prefix", "from", "to", "grid", "weights"]


@pytest.mark.parametrize("alone", [set(), *({name} for name in FIELDS), set(FIELDS)])
@pytest.mark.parametrize(
    ("windows", "queries", "keys"), [(1, 60, 60), (7, 49, 49), (90, 16, 9), (2, 300, 40)]
)
def test_every_window_may_be_asked_something_else(
    alone: set[str], windows: int, queries: int, keys: int
) -> None:
    call = random_call(queries, keys, batch=windows, heads=3)
    bias = torch.randn(windows, 3, queries, keys) * 3
    asked = of_windows(windows, queries, keys, alone=alone)
    check(call, asked)
    check(replace(call, bias=bias.masked_fill(bias > 3, -math.inf)), asked)
    check(peaked(replace(call, bias=bias[0])), asked)


@pytest.mark.parametrize("way", [*FAST, "reference"])
def test_a_batch_is_its_items_one_by_one(way: Way) -> None:
    call = random_call(30, 20, batch=5, heads=4, groups=2, bias=torch.randn(5, 1, 30, 20))
    asked = of_windows(5, 30, 20)
    together = call.sweep(asked, way=way)
    for item in range(5):
        one = call.batch(slice(item, item + 1)).sweep(asked.batch(item), way=way)
        for name in NAMES:
            expected = getattr(one, name)[0]
            torch.testing.assert_close(getattr(together, name)[item], expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("way", FAST)
def test_progress_runs_over_the_batch(way: Way) -> None:
    seen: list[tuple[int, int]] = []
    call = random_call(40, batch=90)
    call.sweep(way=way, progress=lambda done, of: seen.append((done, of)))
    assert seen == sorted(set(seen))
    assert len(seen) > 3
    assert seen[-1] == (90 * 40, 90 * 40)


def test_masked_keys_and_queries() -> None:
    call = random_call(300, heads=3, batch=2)
    keys = torch.rand(2, 1, 1, 300) > 0.4
    asked = replace(everything(300, 300), query_mask=torch.rand(300) > 0.5)
    check(replace(call, bias=keys), asked)
    check(replace(call, bias=keys, causal=True), asked)
    keys[1] = False
    check(replace(call, bias=keys), asked)


@pytest.mark.parametrize("way", [*FAST, "reference"])
def test_a_row_without_a_key_is_zero_everywhere(way: Way) -> None:
    bias = torch.rand(70, 70) > 0.5
    bias[3] = False
    for each in (bias, torch.where(bias, 0.0, -math.inf)):
        call = random_call(70, bias=each)
        check(call)
        found = call.sweep(everything(70, 70), way=way)
        for name in NAMES[:-1]:
            assert (getattr(found, name)[:, :, 3] == 0).all(), name


def test_a_bias_that_is_merely_very_low_counts_as_it_does_for_the_fused_kernel() -> None:
    lowest = torch.finfo(torch.float32).min
    bias = torch.where(torch.rand(70, 70) > 0.5, 0.0, lowest)
    bias[3] = lowest  # every key alike: uniform
    call = random_call(70, bias=bias)
    asked = everything(70, 70)
    expected = call.sweep(asked, way="reference")
    for way in FAST:
        found = call.sweep(asked, way=way)
        # That row's own normaliser is beyond what a score may be here; nothing else is.
        same(replace(found, lse=expected.lse.float()), expected, way)
    output = torch.nn.functional.scaled_dot_product_attention(
        call.query, call.key, call.value, bias, scale=call.scale
    )
    error = replace(call, output=output).check()
    assert error is not None
    assert error < 1e-5
    assert float(call.entropy()[0, 0, 3]) == pytest.approx(math.log(70))


@pytest.mark.parametrize("way", [*FAST, "reference"])
def test_nan_is_not_hidden(way: Way) -> None:
    call = random_call(70)
    query = call.query.clone()
    query[0, 0, 3, 0] = math.nan
    entropy = replace(call, query=query).sweep(way=way).entropy
    assert bool(entropy[0, 0, 3].isnan())
    assert bool(entropy[0, 0, 4].isfinite())


@pytest.mark.parametrize("n", [60, 1100])
def test_gradients_and_autocast_around_a_question_change_nothing(n: int) -> None:
    call = random_call(n)
    asked = everything(n, n)
    expected = call.sweep(asked, way="reference")
    graded = replace(call, query=call.query.requires_grad_(), key=call.key.requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):
        same(graded.sweep(asked), expected, "auto")
        rows = graded.rows([0, 5])
    assert (rows.dtype, rows.requires_grad) == (torch.float32, False)
    torch.testing.assert_close(rows, call.matrix()[:, :, [0, 5]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_accumulated_in_float32(dtype: torch.dtype) -> None:
    call = random_call(333, dim=64)
    check(replace(call, query=call.query.to(dtype), key=call.key.to(dtype)))


def test_strided_inputs() -> None:
    call = random_call(200)
    query, key = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (call.query, call.key))
    check(replace(call, query=query, key=key))


def test_the_whole_table_is_the_same_by_every_way_and_auto_takes_one() -> None:
    for n in (40, 1100):
        call = random_call(n)
        asked = everything(n, n)
        same(call.sweep(asked), call.sweep(asked, way="reference"), "auto")


def test_the_reference_refuses_a_matrix_that_is_too_large() -> None:
    with pytest.raises(attnviz.AttnvizError, match=r"2 heads of 60000x60000 weights take 57\.6 GB"):
        random_call(60_000, dim=1).sweep(way="reference")


@pytest.mark.parametrize("way", FAST)
def test_progress_grows_to_the_end_and_may_stop_the_sweep(way: Way) -> None:
    call = random_call(1500)
    seen: list[tuple[int, int]] = []
    threads = torch.get_num_threads()
    call.sweep(way=way, progress=lambda done, of: seen.append((done, of)))
    assert seen == sorted(set(seen))
    assert len(seen) > 3
    assert seen[-1] == (1500, 1500)

    def stop(_done: int, _of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call.sweep(way=way, progress=stop)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("heads", "groups", "queries", "keys", "dim"),
    [
        (heads, groups, queries, keys, dim)
        for heads, groups in ((1, 1), (8, 1), (8, 4), (12, 4))
        for queries in (1, 100, 50_176)
        for keys in (1, 4_096, 50_176, 10**7)
        for dim in (8, 128)
    ],
)
def test_tiles_stay_within_their_buffers(
    heads: int, groups: int, queries: int, keys: int, dim: int
) -> None:
    rows, width, together = streamed.shape(heads, groups, queries, keys, dim)
    assert 1 <= rows <= queries
    assert 1 <= width <= keys
    shared = heads // groups
    assert together % shared == 0 or shared % together == 0
    assert rows * width <= max(streamed.TILE, rows)
    assert rows * keys <= max(streamed.PANEL, 16 * keys)


def test_tiles_cover_all_keys_once() -> None:
    for stop, width in ((1, 1), (10, 3), (100, 7), (64, 64), (5, 100)):
        found = list(tiles.cut(0, stop, width))
        assert found[0].start == 0
        assert found[-1].stop == stop
        assert max(keys.stop - keys.start for keys in found) <= width
        assert all(a.stop == b.start for a, b in itertools.pairwise(found))
