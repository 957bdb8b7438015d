# mypy: disable-error-code="no-any-return,no-untyped-call,operator"
# Models are written as people write them, who annotate no more than they like.
"""Forms of attention that are no textbook softmax(q·kᵀ)·v, as small modules of a picture.

`py:forms.py:NAME` loads one. Each keeps the weights that it computed itself, (B, H, Nq, Nk), in
`weights`: the oracle of what a recording must say.
"""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, ROWS, COLUMNS = 16, 2, 4, 6
TOKENS = ROWS * COLUMNS


class Form(nn.Module):
    """Patches of 8 pixels, one attention, and a linear layer."""

    patch_size, image_size = 8, (32, 48)
    kind: ClassVar[str] = "softmax"
    sums_to_one: ClassVar[bool] = True
    pools: ClassVar[bool] = False
    """Whether the queries lie nowhere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.embed = nn.Conv2d(3, WIDTH, 8, 8)
        self.pos = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.weights: Tensor | None = None

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind()

    def joined(self, weights: Tensor, v: Tensor) -> Tensor:
        """Weights (B, H, N, M) times values, heads side by side."""
        self.weights = weights
        return (weights @ v).transpose(1, 2).flatten(2)

    def attend(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embed(pixels).flatten(2).mT + self.pos
        return self.out(self.attend(x))


FORMS: dict[str, type[Form]] = {}


def form(cls: type[Form]) -> type[Form]:
    FORMS[cls.__name__] = cls
    return cls


# Pooling by a small network.


class Pool(Form):
    """ABMIL (1802.04712): softmax(w·tanh(Vh))."""

    kind, pools = "pooling", True
    gated = True

    def __init__(self) -> None:
        super().__init__()
        self.v, self.u, self.w = nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8), nn.Linear(8, 1)

    def scores(self, h: Tensor) -> Tensor:
        gate = self.u(h).sigmoid() if self.gated else 1
        return self.w(self.v(h).tanh() * gate)  # (…, N, 1)


@form
class PoolOfMatrices(Pool):
    """The original: one bag, `torch.mm(A, H)`."""

    gated = False

    def attend(self, x: Tensor) -> Tensor:
        h = x.squeeze(0)
        a = F.softmax(self.scores(h).transpose(1, 0), dim=1)
        self.weights = a[None, None]
        return torch.mm(a, h)


@form
class PoolOfBatches(Pool):
    def attend(self, x: Tensor) -> Tensor:
        a = self.scores(x).transpose(1, 2).softmax(-1)
        self.weights = a[:, None]
        return a @ x


@form
class PoolBySum(Pool):
    def attend(self, x: Tensor) -> Tensor:
        a = self.scores(x).softmax(1)
        self.weights = a.transpose(1, 2)[:, None]
        return (a * x).sum(1)


@form
class PoolByEinsum(Pool):
    def attend(self, x: Tensor) -> Tensor:
        a = self.scores(x).squeeze(-1).softmax(-1)
        self.weights = a[:, None, None]
        return torch.einsum("bn,bnd->bd", a, x)


@form
class PoolByVector(Pool):
    """A matrix times a vector of weights."""

    def attend(self, x: Tensor) -> Tensor:
        a = self.scores(x[0])[:, 0].softmax(0)
        self.weights = a[None, None, None]
        return x[0].T @ a


@form
class PoolOfAMap(Pool):
    """Over a map of features, (B, C, H, W)."""

    def attend(self, x: Tensor) -> Tensor:
        a = self.scores(x).mT.softmax(-1)
        self.weights = a[:, None]
        features = x.mT.unflatten(2, (ROWS, COLUMNS))
        return (features * a.unflatten(2, (ROWS, COLUMNS))).sum((2, 3))


@form
class PoolOfSigmoids(Pool):
    """Weights that do not sum to one."""

    kind, sums_to_one = "sigmoid", False

    def attend(self, x: Tensor) -> Tensor:
        a = self.scores(x).sigmoid()
        self.weights = a.transpose(1, 2)[:, None]
        return (a.transpose(1, 2) @ x)[:, 0]


@form
class PoolBranches(Pool):
    """CLAM's branches: a row of weights for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(8, 3)

    def attend(self, x: Tensor) -> Tensor:
        a = F.softmax(self.scores(x[0]).T, dim=1)
        self.weights = a[None, None]
        return a @ x[0]


# A softmax in another spelling.


@form
class ExpAndSum(Form):
    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        e = (q @ k.mT * 0.3).exp()
        return self.joined(e / e.sum(-1)[..., None], v)


@form
class LogSoftmax(Form):
    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        return self.joined((q @ k.mT * 0.3).log_softmax(-1).exp(), v)


@form
class Broadcast(Form):
    """Products by broadcasting, on both sides of the softmax."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        a = (q[:, :, :, None] * k[:, :, None]).sum(-1).softmax(-1)
        self.weights = a
        return (a[..., None] * v[:, :, None]).sum(3).transpose(1, 2).flatten(2)


@form
class Additive(Form):
    """Bahdanau et al. (1409.0473): v·tanh(q + k)."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(WIDTH // HEADS, 1)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        s = self.score(torch.tanh(q[:, :, :, None] + k[:, :, None])).squeeze(-1)
        return self.joined(s.softmax(-1), v)


@form
class Distances(Form):
    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        return self.joined((-torch.cdist(q, k)).softmax(-1), v)


# Weights that are altered after their softmax, or that are none.


@form
class Sigmoid(Form):
    kind, sums_to_one = "sigmoid", False

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        return self.joined((q @ k.mT * 0.3 - math.log(TOKENS)).sigmoid(), v)


@form
class SquaredRelu(Form):
    kind, sums_to_one = "power", False

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        return self.joined((q @ k.mT).relu().square() / TOKENS, v)


@form
class Difference(Form):
    """Differential attention (2410.05258)."""

    kind, sums_to_one = "difference", False

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        a, b = ((q[..., half] @ k[..., half].mT).softmax(-1) for half in (slice(4), slice(4, 8)))
        return self.joined(a - 0.8 * b, v)


@form
class Sink(Form):
    """A learned logit for each head, whose column is dropped."""

    kind, sums_to_one = "sink", False

    def __init__(self) -> None:
        super().__init__()
        self.sinks = nn.Parameter(torch.randn(HEADS))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        s = q @ k.mT * 0.3
        sinks = self.sinks.view(1, -1, 1, 1).expand(len(x), -1, TOKENS, 1)
        return self.joined(torch.cat([s, sinks], -1).softmax(-1)[..., :-1], v)


@form
class PlusOne(Form):
    """Softmax plus one: exp(s) / (1 + Σ exp(s))."""

    kind, sums_to_one = "exponential", False

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        e = (q @ k.mT * 0.3).exp()
        return self.joined(e / (1 + e.sum(-1, keepdim=True)), v)


@form
class Mixed(Form):
    """Heads mixed by a convolution after the softmax, and a norm (DeepViT, 2103.11886)."""

    kind, sums_to_one = "mixed", False

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(HEADS, HEADS, 1)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        return self.joined(self.mix((q @ k.mT).softmax(-1)), v)


@form
class Gated(Form):
    """A gate between content and places (2103.10697)."""

    kind = "sum"

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(HEADS, TOKENS, TOKENS))
        self.gate = nn.Parameter(torch.randn(HEADS, 1, 1))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        gate = self.gate.sigmoid()
        return self.joined((1 - gate) * (q @ k.mT).softmax(-1) + gate * self.places.softmax(-1), v)


@form
class Renormalised(Form):
    """Weights under a threshold are dropped, the rest is renormalised."""

    kind = "renormalised"

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        a = (q @ k.mT).softmax(-1)
        a = torch.where(a > a.mean(-1, keepdim=True), a, 0.0)
        return self.joined(a / a.sum(-1, keepdim=True), v)


# Keys that differ for each query.


class Local(Form):
    """A window of 3×3 neighbours around each query, gathered by `unfold`; one head."""

    def gathered(self, x: Tensor) -> Tensor:
        """(B, N, C) → (B, C, 9, N)."""
        columns = F.unfold(x.mT.unflatten(2, (ROWS, COLUMNS)), 3, padding=1)
        return columns.unflatten(1, (-1, 9))

    def projected(self, x: Tensor) -> list[Tensor]:
        return list(self.qkv(x).chunk(3, -1))


@form
class LocalByProducts(Local):
    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.projected(x)
        k, v = (self.gathered(each).permute(0, 3, 2, 1) for each in (k, v))  # (B, N, 9, C)
        a = (q[:, :, None] @ k.mT * 0.2).softmax(-1)  # (B, N, 1, 9)
        self.weights = a.flatten(0, 1)[:, None]
        return (a @ v).squeeze(2)


@form
class LocalBySums(Local):
    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.projected(x)
        k, v = self.gathered(k), self.gathered(v)  # (B, C, 9, N)
        a = (q.mT[:, :, None] * k * 0.2).sum(1).softmax(1)  # (B, 9, N)
        self.weights = a.permute(0, 2, 1).flatten(0, 1)[:, None, None]
        return (a[:, None] * v).sum(2).mT


class Stack(nn.Module):
    """Layers of several kinds, one after the other, with a residual; no norm, no projection."""

    patch_size, image_size = 8, (32, 48)
    kinds: ClassVar[tuple[type[Form], ...]] = (LogSoftmax, Additive, Gated)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(kind() for kind in self.kinds)

    def forward(self, pixels: Tensor) -> Tensor:
        first = self.layers[0]
        x = first.embed(pixels).flatten(2).mT + first.pos
        for layer in self.layers:
            x = x + layer.attend(x)
        return x


class StackWithDifference(Stack):
    """The same with one whose rows do not sum to one."""

    kinds = (LogSoftmax, Difference, Additive)


def named(name: str) -> Callable[[], Form]:
    def make() -> Form:
        return FORMS[name]()

    return make


for _name in FORMS:
    globals()[_name.lower()] = named(_name)
