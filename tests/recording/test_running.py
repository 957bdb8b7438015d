"""A recorded model runs as ever: compiled, differentiated, in threads, after an exception."""

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jacrev, vmap
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils.checkpoint import checkpoint

import attnviz
from attnviz.attention import AttentionCall
from attnviz.recording import Recording

Watch = Callable[..., tuple[Recording, Any]]
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch",  # torch's compiler loads what torch itself deprecates
    "ignore:flex_attention called without torch.compile:UserWarning",
)


def by_hand(x: Tensor) -> Tensor:
    return (x @ x.mT * 0.3).softmax(-1) @ x


def fused(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], scale=0.3)[:, 0]


def assert_is(call: AttentionCall, expected: Tensor) -> None:
    assert (call.matrix() - expected).abs().max() < 1e-5
    error = call.check()
    assert error is not None
    assert error < 1e-5


def weights(x: Tensor) -> Tensor:
    """Of the functions above, (B, 1, N, N)."""
    return (x @ x.mT * 0.3).softmax(-1)[:, None].detach()


@pytest.mark.parametrize("attention", [by_hand, fused])
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_models_are_recorded_uncompiled_and_stay_compiled(
    attention: Callable[[Tensor], Tensor], backend: str, fullgraph: bool
) -> None:
    x, compiled_runs = torch.randn(2, 5, 8), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch._dynamo.reset()
    model = torch.compile(attention, backend=backend, fullgraph=fullgraph)
    expected = attention(x)
    with torch.no_grad():
        if backend != "inductor":  # that takes seconds; it is not asked to compile at all
            compiled_runs.append(model(x))
        with attnviz.record() as recording:
            output = model(x)
        if backend != "inductor":
            compiled_runs.append(model(x))
    assert torch.equal(output, expected)
    assert all(torch.equal(run, expected) for run in compiled_runs)
    (call,) = recording
    assert_is(call, weights(x))


def causal(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return i >= j


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("change", ["none", "bias", "cap"])
@pytest.mark.parametrize("groups", [4, 2])
def test_flex_attention_is_recorded_with_what_its_functions_do(
    masked: bool, change: str, groups: int, watch: Watch
) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 16, 8), torch.randn(2, groups, 16, 8), torch.randn(2, groups, 16, 6)
    bias = torch.randn(4, 16, 16)
    scores = q @ k.repeat_interleave(4 // groups, 1).mT * 0.4
    mod: Any = None
    if change == "bias":
        scores, mod = scores + bias, lambda s, _b, h, i, j: s + bias[h, i, j]
    elif change == "cap":
        scores, mod = 2 * torch.tanh(scores / 2), lambda s, *_: 2 * torch.tanh(s / 2)
    mask = None
    if masked:
        mask = create_block_mask(causal, 2, 4, 16, 16, device="cpu", BLOCK_SIZE=8)
        scores = scores.masked_fill(torch.ones(16, 16).triu(1).bool(), -torch.inf)
    recording, _ = watch(
        lambda: flex_attention(q, k, v, mod, mask, scale=0.4, enable_gqa=groups < 4)
    )
    (call,) = recording
    assert_is(call, scores.softmax(-1))


def test_recordings_nest_and_each_has_what_ran_inside_of_it() -> None:
    x, y = torch.randn(2, 1, 4, 6).unbind()
    with attnviz.record() as outer:
        by_hand(x)
        with attnviz.record() as inner:
            fused(y)
            by_hand(x)
        fused(x)
    assert (len(outer), len(inner)) == (4, 2)
    for call, tokens in zip([*outer, *inner], [x, y, x, x, y, x], strict=True):
        assert_is(call, weights(tokens))


def test_two_threads_record_each_its_own() -> None:
    found: dict[int, Recording] = {}
    barrier = threading.Barrier(2)
    pictures = torch.randn(2, 1, 4, 6)

    def work(number: int) -> None:
        with attnviz.record() as found[number]:
            barrier.wait(10)
            for _ in range(number + 1):
                by_hand(pictures[number])
            barrier.wait(10)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, recording in found.items():
        assert len(recording) == number + 1
        for call in recording:
            assert_is(call, weights(pictures[number]))


def test_after_an_exception_nothing_is_watched_and_the_next_recording_is_whole() -> None:
    x = torch.randn(1, 4, 6)

    def broken() -> None:
        by_hand(x)
        raise KeyError("of the model")

    with pytest.raises(KeyError, match="of the model"), attnviz.record() as first:
        broken()
    by_hand(x)
    assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()
    with attnviz.record() as second:
        fused(x)
    by_hand(x)
    assert (len(first), len(second)) == (1, 1)
    assert_is(first[0], weights(x))
    assert_is(second[0], weights(x))


def test_an_error_of_where_is_the_callers() -> None:
    def where(_: AttentionCall) -> bool:
        raise ValueError("of the caller")

    for attention in (by_hand, fused):
        with pytest.raises(ValueError, match="of the caller"), attnviz.record(where=where):
            attention(torch.randn(1, 4, 6))


@pytest.mark.parametrize("attention", [by_hand, fused])
def test_gradients_are_those_without_and_the_backward_pass_is_no_call(
    attention: Callable[[Tensor], Tensor], watch: Watch
) -> None:
    layer, x = nn.Linear(8, 8), torch.randn(2, 5, 8)

    def run(through: Callable[[Tensor], Tensor] = attention) -> list[Tensor]:
        layer.zero_grad()
        y = x.clone().requires_grad_()
        torch.autograd.backward(through(layer(y)).square().sum())
        return [t.grad.clone() for t in (y, *layer.parameters()) if t.grad is not None]

    recording, gradients = watch(run)
    assert len(gradients) == 3
    assert len(recording) == 1
    assert recording.unread == []
    for reentrant in (False, True):  # what is computed once more is no call either
        recording, _ = watch(
            lambda r=reentrant: run(lambda t: checkpoint(attention, t, use_reentrant=r))
        )
        assert len(recording) == 1
        assert_is(recording[0], weights(layer(x)))


TRANSFORMED: dict[str, Callable[[Tensor], Any]] = {
    "vmap": vmap(lambda t: by_hand(t[None])[0]),
    "grad": grad(lambda x: by_hand(x).square().sum()),
    "grad of a fused kernel": grad(lambda x: fused(x).square().sum()),
    "vmap of grad": vmap(grad(lambda t: by_hand(t[None]).square().sum())),
    "jacrev": jacrev(lambda x: by_hand(x).sum(0)),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_transformed_functions_run_as_without_and_are_recorded(name: str, watch: Watch) -> None:
    x = torch.randn(2, 5, 8)
    recording, _ = watch(lambda: TRANSFORMED[name](x))
    (call,) = recording
    assert_is(call, weights(x))
    assert recording.unread == []


def test_conjugates_are_resolved_as_ever(watch: Watch) -> None:
    x = torch.randn(3, 4, 4, dtype=torch.complex64)
    with torch.inference_mode():
        watch(lambda: torch.linalg.multi_dot([x[0].conj(), x[1], x[2].mH]))
        watch(lambda: torch.fft.irfft(torch.fft.rfft(x.real).conj()))
        watch(lambda: torch.einsum("bij,bkj->bik", x, x.conj()))


def test_a_first_recording_does_not_load_the_compiler() -> None:
    code = (
        "import sys, torch, attnviz\n"
        "x = torch.randn(1, 4, 6)\n"
        "with attnviz.record() as r: (x @ x.mT).softmax(-1) @ x\n"
        "assert len(r) == 1 and 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
