"""Every way to the statistics against the float64 oracle on the whole matrix."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from sweeps import NAMES, everything, of_windows, peaked, positions, random_call, same

import attnviz
from attnviz.attention import blocks, kernel, streamed, tiles
from attnviz.attention.call import Way
from attnviz.attention.sweep import Sweep, SweepRequest
from attnviz.errors import UsageError

FAST: list[Way] = ["blocks", "streamed"]


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tiles, blocks and threads also for the sizes that a test can afford."""
    monkeypatch.setattr(streamed, "TILE", 1 << 13)
    monkeypatch.setattr(streamed, "PANEL", 1 << 16)
    monkeypatch.setattr(streamed, "INLINE", 1 << 15)
    monkeypatch.setitem(blocks.BLOCK, "cpu", 1 << 16)


def check(call: attnviz.AttentionCall, asked: SweepRequest | None = None, first: int = 1) -> None:
    asked = asked or everything(call.shape[2], call.shape[3], first)
    expected = call.sweep(asked, way="reference")
    for way in FAST:
        same(call.sweep(asked, way=way), expected, way)


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


@pytest.mark.parametrize(
    ("reason", "broken", "by_the_kernel"),
    [(None, False, True), ("Triton is not installed", False, False), (None, True, False)],
)
def test_another_device_takes_the_kernel_where_it_serves_and_else_the_blocks(
    reason: str | None, broken: bool, by_the_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_blocks = random_call(9).sweep()
    other = replace(by_blocks)

    def by_kernel(*_: object) -> Sweep:
        if broken:
            raise UsageError("way='kernel': Triton fails: no compiler; take way='blocks'")
        return other

    monkeypatch.setattr(kernel, "missing", lambda _: reason)
    monkeypatch.setattr(kernel, "sweep", by_kernel)
    monkeypatch.setattr(blocks, "sweep", lambda *_: by_blocks)
    nowhere = torch.zeros(1, 2, 9, 4, device="meta")
    call = attnviz.AttentionCall(nowhere, nowhere, nowhere, 0.5)
    assert call._fastest_sweep(SweepRequest(), None) is (other if by_the_kernel else by_blocks)


def test_the_kernel_says_what_it_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(kernel, "FAILURES", [])
    monkeypatch.setattr(kernel, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.version, "hip", None)
    card, call, wide = torch.device("cuda"), random_call(9), random_call(9, dim=512)
    for capability, reason in (((8, 0), None), ((7, 5), "the device's compute capability is")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert (kernel.missing_on(card) or "None").startswith(str(reason))
    assert kernel.missing(call) is None
    assert kernel.missing(wide) == "a head has 512 features in torch.float32"
    mixed = replace(call, key=call.key.double())
    assert kernel.missing(mixed) == "queries are torch.float32 and keys torch.float64"
    monkeypatch.setattr(kernel, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="way='kernel': Triton is not installed; take way='blo"):
        call.sweep(way="kernel")
    monkeypatch.delenv("TRITON_INTERPRET")
    assert kernel.missing(call) == "the tensors are on cpu, not on CUDA"


def test_what_triton_cannot_build_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise OSError("no compiler\nfor this machine")

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(kernel, "FAILURES", [])
    monkeypatch.setattr(kernel, "find_spec", lambda _: object())
    monkeypatch.setattr(kernel, "import_module", broken)
    for _ in range(2):
        with pytest.raises(UsageError, match="Triton fails: for this machine; take"):
            random_call(9).sweep(everything(9, 9), way="kernel")
    assert len(kernel.FAILURES) == 1


def test_a_kernel_without_memory_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(kernel, "FAILURES", [])
    monkeypatch.setattr(kernel, "find_spec", lambda _: object())
    monkeypatch.setattr(kernel, "import_module", full)
    with pytest.raises(torch.OutOfMemoryError):
        random_call(9).sweep(everything(9, 9), way="kernel")
    assert not kernel.FAILURES


@pytest.mark.parametrize("transposed", [False, True])
def test_tiles_of_the_kernels_fit_a_card(transposed: bool) -> None:
    for size, side, rows, heads in itertools.product((2, 4), (16, 64, 128), (1, 197, 4096), (3, 8)):
        found = kernel.tile(rows, heads, side, size, transposed=transposed)
        assert 16 <= found.tall <= max(16, 2 * rows)
        assert not (found.paired and (transposed or heads % 2))
        together = (1 + found.paired) * (found.tall + found.stages * found.wide) * side * size
        assert together <= 99 << 10  # bytes of shared memory for rows and keys
