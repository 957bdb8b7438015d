"""What looks like softmax(q·kᵀ)·v and is not is said; what does not is left in peace."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnviz.recording import Recording

Watch = Callable[..., tuple[Recording, Any]]
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
H, N = 3, 6


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.softmax(-1) @ (k.softmax(-2).mT @ v)


def linear_attention_behind_a_layer(q: Tensor, _k: Tensor, _v: Tensor) -> Tensor:
    x: Tensor = nn.Linear(4, 24)(q[:, 0])
    q, k, v = x.view(2, N, 3, 2, 4).permute(2, 0, 3, 1, 4)
    output: Tensor = q.softmax(-1) @ (k.softmax(-2).mT @ v)
    return output


def renormalised(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    a = (q @ k.mT).softmax(-1)
    return (a / (1e-6 + a.sum(-2, keepdim=True))) @ v


def renormalised_in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    a = (q @ k.mT).softmax(-1)
    a /= a.sum(-1, keepdim=True)
    return a @ v


def slots_that_compete(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    a = (q @ k.mT).softmax(-1)
    return a.mT @ v


def gated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    a, places, gate = (q @ k.mT).softmax(-1), torch.randn(H, N, N).softmax(-1), torch.rand(H, 1, 1)
    return ((1 - gate) * a + gate * places) @ v


def difference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.mT).softmax(-1) - 0.5 * (k @ q.mT).softmax(-1)) @ v


def heads_switched_off(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.mT).softmax(-1) * torch.tensor([1.0, 0.0, 1.0])[:, None, None]) @ v


def dropped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.dropout((q @ k.mT).softmax(-1), 0.5) @ v


def mixed_by_a_convolution_before(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores: Tensor = nn.Conv2d(H, H, 1)(q @ k.mT)
    return scores.softmax(-1) @ v


def mixed_by_a_convolution_after(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mixed: Tensor = nn.Conv2d(H, H, 1)((q @ k.mT).softmax(-1))
    return mixed @ v


def with_a_sink(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.cat([q @ k.mT, torch.randn(1, H, 1, 1).expand(2, H, N, 1)], -1)
    return scores.softmax(-1)[..., :-1] @ v


def some_queries_of_the_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1)[:, :, :1] @ v


def distances(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (-torch.cdist(q, k)).softmax(-1) @ v


def products_by_broadcasting(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q[..., :, None, :] * k[..., None, :, :]).sum(-1).softmax(-1) @ v


def experts(q: Tensor, _k: Tensor, _v: Tensor) -> Tensor:
    scores: Tensor = nn.Linear(4, 5)(q[:, 0].contiguous())
    return scores.softmax(-1) @ torch.randn(5, 4)


def values_for_each_query(q: Tensor, _k: Tensor, _v: Tensor) -> Tensor:
    weight = torch.randn(4, 5).expand(2, 4, 5)
    scores = (q.flatten(1, 2)[:, :N] @ weight).permute(0, 2, 1)  # (2, 5, N)
    return scores.reshape(10, 1, N).softmax(-1) @ torch.randn(10, N, 4)


def sigmoid(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).sigmoid() @ v


def squared_relu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).relu().square() @ v


EXPLICIT: list[tuple[Attention, str, bool]] = [
    (renormalised, "renormalised", False),
    (renormalised_in_place, "renormalised", True),
    (slots_that_compete, "slots", False),
    (gated, "sum", True),
    (difference, "difference", False),
    (heads_switched_off, "gate", True),
    (dropped, "gate", False),
    (mixed_by_a_convolution_before, "softmax", True),
    (mixed_by_a_convolution_after, "mixed", False),
    (with_a_sink, "sink", False),
    (some_queries_of_the_softmax, "softmax", True),
    (distances, "softmax", True),
    (experts, "softmax", True),
    (values_for_each_query, "softmax", True),
    (sigmoid, "sigmoid", False),
    (squared_relu, "power", False),
]


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    ("attention", "kind", "sums"), EXPLICIT, ids=lambda p: getattr(p, "__name__", "")
)
def test_weights_that_are_no_softmax_of_products_are_kept(
    attention: Attention, kind: str, sums: bool, inference: bool, watch: Watch
) -> None:
    torch.manual_seed(0)
    with torch.inference_mode(inference):
        q, k, v = torch.randn(3, 2, H, N, 4).unbind()
        recording, _ = watch(lambda: attention(q, k, v))
    (call,) = recording
    assert call.explicit
    assert (call.kind, call.sums_to_one) == (kind, sums)
    assert (call.check() or 0) < 1e-5
    assert recording.unread == []


def linear_attention_of_rectified_features(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    output = q.relu() @ (k.relu().mT @ F.pad(v, (0, 1), value=1.0))
    return output[..., :-1] / (output[..., -1:] + 1e-6)


def averaged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    a = (q @ k.mT).softmax(-1)
    return (a[..., None] * v[:, :, None]).mean(3)


def added(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (each.flatten(0, 1) for each in (q, k, v))
    return torch.baddbmm(q, (q @ k.mT).softmax(-1), v)


def sorted_before_values(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    a = (q @ k.mT).softmax(-1).sort(-1).values
    return (a[..., None] * v[:, :, None]).sum(3)


@pytest.mark.parametrize(
    ("attention", "said"),
    [
        (averaged, "weights whose products with values are averaged, not summed"),
        (added, "a softmax(q·kᵀ) whose product with values is added to a tensor"),
        (sorted_before_values, "weights whose keys are moved by sort"),
    ],
)
def test_weights_that_cannot_be_read_are_said(
    attention: Attention, said: str, watch: Watch
) -> None:
    q, k, v = torch.randn(3, 2, H, N, 4).unbind()
    recording, _ = watch(lambda: attention(q, k, v))
    assert len(recording) == 0
    assert recording.unread == [said]


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    "attention",
    [
        linear_attention,
        linear_attention_behind_a_layer,
        linear_attention_of_rectified_features,
    ],
)
def test_what_has_no_weights_over_tokens_is_said(
    attention: Attention, inference: bool, watch: Watch
) -> None:
    torch.manual_seed(0)
    with torch.inference_mode(inference):
        q, k, v = torch.randn(3, 2, H, N, 4).unbind()
        recording, _ = watch(lambda: attention(q, k, v))
    assert len(recording) == 0
    assert recording.unread == ["linear attention, q·(kᵀ·v), which has no weights over tokens"]


def test_products_by_broadcasting_are_exact(watch: Watch) -> None:
    q, k, v = torch.randn(3, 2, H, N, 4).unbind()
    (call,), _ = watch(lambda: products_by_broadcasting(q, k, v))
    assert not call.explicit
    torch.testing.assert_close(call.matrix(), (q @ k.mT).softmax(-1))


def classification(q: Tensor, _k: Tensor, _v: Tensor) -> Tensor:
    return torch.topk(nn.Linear(4, 10)(q[:, 0, 0]).softmax(-1), 3)[0]


def expectation(q: Tensor, _k: Tensor, _v: Tensor) -> Tensor:
    return torch.sum(nn.Linear(4, 10)(q[:, 0, 0]).softmax(-1) * torch.arange(10.0), -1)


def weights_that_are_only_looked_at(q: Tensor, k: Tensor, _v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1).mean(1).amax(-1)


def selected_kernels(q: Tensor, _k: Tensor, _v: Tensor) -> Tensor:
    gates = nn.Linear(4, 8)(q.mean((1, 2))).view(2, 2, 4).softmax(1)  # over two branches
    return torch.sum(torch.stack([q, q.relu()], 1) * gates[:, :, None, None], 1)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    "attention",
    [
        classification,
        expectation,
        weights_that_are_only_looked_at,
        selected_kernels,
    ],
)
def test_what_has_no_softmax_before_values_is_neither_recorded_nor_said(
    attention: Attention, inference: bool, watch: Watch
) -> None:
    torch.manual_seed(0)
    with torch.inference_mode(inference):
        q, k, v = torch.randn(3, 2, H, N, 4).unbind()
        recording, _ = watch(lambda: attention(q, k, v))
    assert len(recording) == 0
    assert recording.unread == []


def test_learned_memory_is_attention_with_keys_that_are_no_tokens(watch: Watch) -> None:
    x, keys, values = torch.randn(12, 8), torch.randn(5, 8), torch.randn(5, 8)
    recording, _ = watch(lambda: (x @ keys.T).softmax(-1) @ values)
    (call,) = recording
    torch.testing.assert_close(call.matrix()[0, 0], (x @ keys.T).softmax(-1))


def scanned(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mamba without its kernel."""
    factors, state, found = k.sigmoid(), torch.zeros(2, H, 4), []
    for i in range(N):
        state = factors[:, :, i] * state + v[:, :, i]
        found.append((state * q[:, :, i]).sum(-1))
    return torch.stack(found, -1)


def test_a_scan_of_the_tokens_is_said(watch: Watch) -> None:
    q, k, v = torch.randn(3, 2, H, 2 * N, 4).unbind()
    recording, _ = watch(lambda: (scanned(q, k, v), scanned(q[:, :, 6:], k[:, :, 6:], v[:, :, 6:])))
    assert len(recording) == 0
    assert recording.unread == []  # six steps are no scan
    (recording, _) = watch(lambda: twelve_steps(k, v))
    assert recording.unread == ["a recurrence over tokens, which has no weights over them (a scan)"]


def twelve_steps(k: Tensor, v: Tensor) -> Tensor:
    state = torch.zeros(2, H, 4)
    for i in range(2 * N):
        state = k[:, :, i] * state + v[:, :, i]
    return state
