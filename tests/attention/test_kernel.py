"""The Triton kernels against the float64 oracle: on a card, or on a CPU by Triton's interpreter."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import Phase, given, settings
from sweeps import NAMES, everything, of_windows, peaked, positions, random_call, same
from torch import Tensor
from torch.utils._pytree import tree_map_only

import attnviz
from attnviz.attention import kernel
from attnviz.attention.sweep import SweepRequest

pytest.importorskip("triton", reason="pip install -e '.[test-timm]', on Linux")
if not (torch.cuda.is_available() or kernel.interpreted()):
    pytest.skip("set TRITON_INTERPRET=1, or have a card", allow_module_level=True)

T = TypeVar("T", attnviz.AttentionCall, SweepRequest)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
"""The interpreter's NumPy warns where an empty row is divided by 0, and the result left out."""
DEVICE = "cpu" if kernel.interpreted() else "cuda"
FLOAT32 = 5e-6
"""What remains beside 1e-5 of a value, of numbers that are nearly 0: the rounding of a score."""


def check(
    call: attnviz.AttentionCall, asked: SweepRequest | None = None, beyond: float = FLOAT32
) -> None:
    """The kernel and the oracle say the same."""
    asked = asked or everything(call.shape[2], call.shape[3])
    expected = call.sweep(asked, way="reference")
    same(moved(call).sweep(moved(asked), way="kernel"), expected, "kernel", beyond)


def moved(values: T) -> T:
    """A call or a request with its tensors on the device."""
    found = tree_map_only(Tensor, lambda tensor: tensor.to(DEVICE), vars(values))
    return replace(values, **found)


FIELDS = ["query_mask", "prefix", "from", "to", "grid", "weights"]
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


@settings(max_examples=30, derandomize=True, phases=[Phase.generate])
@given(st.data())
def test_calls_of_every_kind(data: st.DataObject) -> None:
    draw = data.draw
    groups, shared, batch = draw(st.sampled_from([(1, 1, 1), (2, 1, 3), (1, 3, 2), (2, 2, 1)]))
    queries, keys = draw(st.integers(1, 45)), draw(st.integers(1, 45))
    call = random_call(
        queries,
        keys,
        dim=draw(st.sampled_from([1, 5, 16, 33])),
        heads=groups * shared,
        groups=groups,
        batch=batch,
        causal=draw(st.booleans()),
    )
    bias = torch.randn(batch, groups * shared, queries, keys) * 4
    bias = bias[tuple(slice(None) if draw(st.booleans()) else slice(1) for _ in range(4))]
    bias = bias[(0,) * draw(st.integers(0, 4 if bias.shape[3] == keys else 0)) + (...,)]
    kind = draw(st.sampled_from(["none", "boolean", "added", "infinite"]))
    if kind != "none":
        infinite = bias.masked_fill(bias > 4, -math.inf)
        call = replace(call, bias={"boolean": bias > -2, "added": bias}.get(kind, infinite))
    dtype = draw(DTYPES)
    call = replace(call, query=call.query.to(dtype), key=call.key.to(dtype))
    asked = of_windows(batch, queries, keys, alone=draw(st.sets(st.sampled_from(FIELDS))))
    for name in draw(st.sets(st.sampled_from(["query_mask", "prefix", "positions", "grid"]))):
        asked = replace(asked, **{name: None})  # type: ignore[arg-type]
    asked = replace(asked, weights=draw(st.sampled_from([None, asked.weights])))
    check(call, replace(asked, squares=draw(st.booleans())))


@pytest.mark.parametrize(("queries", "keys", "heads", "dim"), [(197, 197, 2, 64), (1, 150, 3, 8)])
def test_several_tiles(queries: int, keys: int, heads: int, dim: int) -> None:
    call = random_call(queries, keys, heads=heads, dim=dim)
    check(call)
    check(peaked(call), beyond=2e-5)  # scores of 60 are rounded to 4e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_exact_products_and_what_is_beyond_is_the_rounding_of_inputs(
    dtype: torch.dtype,
) -> None:
    call, asked = random_call(60, dim=64, heads=4, groups=2), everything(60, 60)
    half = replace(call, query=call.query.to(dtype), key=call.key.to(dtype))
    check(half)
    found = moved(half).sweep(moved(asked), way="kernel")
    exact = call.sweep(asked, way="reference")
    # Each product changes by at most 2^-8 of itself (bfloat16: two numbers of 8 bits).
    products = call.query.abs() @ call.key.repeat_interleave(2, 1).abs().mT * call.scale
    change = float(products.max()) * 2 * torch.finfo(dtype).eps / 2
    assert float((found.lse.cpu() - exact.lse).abs().max()) <= change


def test_a_class_token_that_takes_everything_does_not_spoil_the_distance() -> None:
    call = random_call(80)
    key = call.key.clone()
    key[:, :, 0] = 60.0 * call.query.mean(2)
    query = call.query * 0.1 + call.query.mean(2, keepdim=True) * 20
    check(replace(call, query=query, key=key), beyond=2e-5)


def test_many_weight_vectors() -> None:
    weights = torch.rand(7, 40)
    check(random_call(40, 50), SweepRequest(weights=weights / weights.sum(-1, keepdim=True)))


def test_a_row_without_a_key_is_zero_everywhere_and_a_very_low_bias_is_a_key() -> None:
    bias = torch.rand(40, 40) > 0.5
    bias[3] = False
    for each in (bias, torch.where(bias, 0.0, -math.inf)):
        call = random_call(40, bias=each)
        check(call)
        found = moved(call).sweep(moved(everything(40, 40)), way="kernel")
        assert all((getattr(found, name)[:, :, 3] == 0).all() for name in NAMES[:-1])
    lowest = torch.finfo(torch.float32).min
    call = random_call(40, bias=torch.where(bias, 0.0, lowest))
    entropy = moved(call).sweep(way="kernel").entropy
    assert float(entropy[0, 0, 3]) == pytest.approx(math.log(40))


def test_nan_is_not_hidden() -> None:
    call = random_call(40)
    query = call.query.clone()
    query[0, 0, 3, 0] = math.nan
    found = moved(replace(call, query=query)).sweep(moved(everything(40, 40)), way="kernel")
    for name in NAMES[:-1]:
        assert bool(getattr(found, name)[0, 0, 3].isnan()), name
        assert bool(getattr(found, name)[0, 0, 4].isfinite()), name


def test_strided_inputs_and_parts_of_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "AT_ONCE", 1)  # one program a launch
    call = random_call(70, heads=3, batch=2)
    query, key = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (call.query, call.key))
    check(replace(call, query=query, key=key.mT.contiguous().mT))
    seen: list[tuple[int, int]] = []
    places = positions(70)
    asked = moved(SweepRequest(positions=(places, places)))
    moved(call).sweep(asked, way="kernel", progress=lambda done, of: seen.append((done, of)))
    assert seen == sorted(set(seen))
    assert len(seen) > 3
    assert seen[-1] == (140, 140)


@pytest.mark.skipif(DEVICE == "cuda", reason="the other tests have compiled them")
def test_the_kernels_compile_for_cards() -> None:
    """Triton makes machine code without a card; the interpreter takes more than it does."""
    script = Path(__file__).parents[1] / "compile_kernels.py"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["rows", "received"]
