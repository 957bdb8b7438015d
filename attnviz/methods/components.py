"""Parts of a picture by its tokens alone: principal components, clusters and factors."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from torch import Tensor

from attnviz.attention.layer_input import LayerInput
from attnviz.attention.token_norms import norm_limit
from attnviz.errors import RecordingError, UsageError
from attnviz.methods.bases import Basis, TokenSums, load_basis
from attnviz.methods.rollout import of_itself

Values = NDArray[np.float64]
_ROUNDS, _STARTS = 200, 4
_TINY = 1e-12


class Components(NamedTuple):
    """Several maps of one layer.

    Attributes:
        maps: (windows, 1, components, keys) float32; NaN where a token is left out.
        numbers: the number of each component, from 1.
        shares: what each explains: a share of the variance, of the tokens, or of all weights.
    """

    maps: Tensor
    numbers: tuple[int, ...]
    shares: tuple[float, ...]


def pca(
    layer: LayerInput,
    *,
    of: str = "tokens",
    components: str = "1,2,3",
    foreground: float | None = None,
    outliers: str = "keep",
    basis: str = "own",
) -> Components:
    """Standard scores of tokens along their principal axes, (windows, 1, components, keys).

        x = tokens after the layer, or keys … of all heads    # (grid tokens, features)
        v, λ = eigenvectors and eigenvalues of cov(x), largest first
        map_k = (x - mean(x)) @ v_k / sqrt(λ_k)

    With `foreground`, tokens whose map_1 is not over it are left out, and the components are those
    of the others. An axis has its largest number positive; the first one points from the border of
    the grid to its inside.

    Oquab et al. 2023, DINOv2, 2304.07193; the scores are those of DINOv3's code.

    Args:
        layer: the layer.
        of: `tokens`, `keys`, `queries` or `values`.
        components: numbers of components from 1, with commas.
        foreground: the least first score of the tokens that are drawn; None draws all.
        outliers: `leave` leaves tokens of high norm out.
        basis: `own`, or the file of a basis of several pictures.

    Raises:
        RecordingError: the tokens were not kept, or are no keys.
        UsageError: there are fewer components, or the basis is of something else.
    """
    numbers = tuple(dict.fromkeys(map(int, components.split(","))))
    features, chosen = tokens_of(layer, of), chosen_tokens(layer, outliers)
    found = (
        own_basis(layer, features[chosen], chosen, of, foreground)
        if basis == "own"
        else _checked(load_basis(basis), basis, layer, of, foreground)
    )
    number = layer.number or 0
    axes = found.whole[number]
    if foreground is not None:
        scores = axes.scores(features.cpu())[..., 0]
        chosen &= (scores > foreground).to(chosen.device)
        axes = found.foreground[number]
    most = len(axes.variances)
    if max(numbers) > most or not min(numbers):
        raise UsageError(f"--components {components}: give numbers from 1 to {most}")
    places = [n - 1 for n in numbers]
    scores = axes.scores(features.cpu())[..., places].movedim(-1, 1)  # (windows, K, keys)
    shares = tuple(axes.shares[places].tolist())
    return Components(_masked(scores, chosen), numbers, shares)


def clusters(
    layer: LayerInput,
    *,
    of: str = "tokens",
    parts: int = 5,
    outliers: str = "keep",
    cluster_seed: int = 0,
) -> Components:
    """1 where a token is nearest to the mean of a cluster, else 0; the largest cluster first.

    k-means on the tokens of the grid: the best of four starts by k-means++, each until no token
    moves. A map's share is that of the tokens.

    MacQueen 1967; Arthur & Vassilvitskii 2007.

    Raises:
        RecordingError: the tokens were not kept, or are no keys.
        UsageError: there are fewer tokens than parts.
    """
    features, chosen = tokens_of(layer, of), chosen_tokens(layer, outliers)
    x = _at_least(features[chosen], parts)
    places = k_means(x, parts, cluster_seed)
    order = places.bincount(minlength=parts).argsort(descending=True, stable=True)
    member = (places[:, None] == order).double()  # (n, K)
    return _laid(member, chosen, tuple(member.mean(0).tolist()))


def factors(
    layer: LayerInput, *, of: str = "tokens", parts: int = 5, outliers: str = "keep"
) -> Components:
    """W of X ≈ W·H, both without negative numbers, (windows, 1, parts, keys).

        X = x - x.min(0)                      # (grid tokens, features)
        minimise |X - W @ H|² over W, H >= 0  # rows of H of length 1

    A map's share is that of all of W; the largest comes first.

    Lee & Seung 1999; Collins et al. 2018, Deep Feature Factorization, 1806.10206.

    Raises:
        RecordingError: the tokens were not kept, or are no keys.
        UsageError: there are fewer tokens than parts.
    """
    features, chosen = tokens_of(layer, of), chosen_tokens(layer, outliers)
    x = _at_least(features[chosen], parts)
    weights, _ = factorise(x - x.amin(0), parts)
    total = weights.sum(0)
    order = total.argsort(descending=True, stable=True)
    shares = (total / total.sum().clamp_min(_TINY))[order]
    return _laid(weights[:, order], chosen, tuple(shares.tolist()))


def tokens_of(layer: LayerInput, of: str) -> Tensor:
    """The vectors of a layer's key tokens, (windows, keys, features) float32.

    Raises:
        RecordingError: they were not kept, or are not those of the keys.
    """
    call = layer.call
    if of in ("tokens", "queries") and not of_itself(layer):
        raise RecordingError("queries and keys of this layer differ; take --of keys or --of values")
    if of == "tokens":
        if layer.tokens is None:
            raise RecordingError(
                "the tokens after this layer are not known: it is no block of a plain stack; take "
                "--of keys (in Python: or observe with tokens=True)"
            )
        return layer.tokens.detach().float()
    if call.explicit and of != "values":
        raise RecordingError(f"this layer has weights without {of}; take --of values")
    vectors = {"keys": call.key, "queries": call.query, "values": call.value}[of]
    return vectors.detach().float().transpose(1, 2).flatten(2)


def chosen_tokens(layer: LayerInput, outliers: str) -> Tensor:
    """Which tokens count, (windows, keys): those of the grid, without those of high norm.

    Raises:
        RecordingError: the tokens' norms are not known.
    """
    grid = layer.keys.grid if bool(layer.keys.on_picture.any()) else layer.keys.taking_part
    if outliers == "keep":
        return grid.clone()
    if layer.tokens is None:
        raise RecordingError("tokens after this layer are not known, so none has a high norm")
    norms: Tensor = layer.tokens.detach().float().norm(dim=-1)
    _, limit = norm_limit(norms[layer.queries.taking_part])
    usual: Tensor = norms <= limit
    return grid & usual


def on_border(layer: LayerInput, chosen: Tensor) -> Tensor:
    """Which chosen tokens lie on the outermost ring of the grid, (n,)."""
    grid = layer.keys.positions[layer.keys.grid]
    if not len(grid):
        return torch.zeros(int(chosen.sum()), dtype=torch.bool)
    places = layer.keys.positions[chosen]
    return ((places == grid.amin(0)) | (places == grid.amax(0))).any(-1)


def own_basis(
    layer: LayerInput, x: Tensor, chosen: Tensor, of: str, foreground: float | None
) -> Basis:
    """The basis of one picture's chosen tokens x, (n, features)."""
    number, border = layer.number or 0, on_border(layer, chosen)
    sums = TokenSums()
    sums.add(x, border)
    whole = sums.axes(oriented=True)
    if foreground is None:
        return Basis(of, {number: whole})
    part, sums = whole.scores(x.cpu())[:, 0] > foreground, TokenSums()
    sums.add(x.cpu()[part], border.cpu()[part])
    return Basis(of, {number: whole}, {number: sums.axes(oriented=False)}, foreground)


def _checked(
    basis: Basis, path: str, layer: LayerInput, of: str, foreground: float | None
) -> Basis:
    """A basis that fits the question."""
    number = layer.number or 0
    if basis.of != of or basis.over != foreground:
        over = "" if basis.over is None else f" --foreground {basis.over:g}"
        raise UsageError(f"--basis {path} was made with --of {basis.of}{over}; give these")
    if number not in basis.whole:
        layers = ", ".join(map(str, basis.whole))
        raise UsageError(f"--basis {path} is of layer {layers}, not {number}; give --layers")
    width, wanted = len(basis.whole[number].mean), tokens_of(layer, of).shape[-1]
    if width != wanted:
        raise UsageError(
            f"--basis {path} is of another model: its tokens have {width} features, not {wanted}"
        )
    return basis


def k_means(x: Tensor, count: int, seed: int) -> Tensor:
    """The cluster of each of (n, features) points, (n,); all starts go on together."""
    generator = torch.Generator().manual_seed(seed)
    points = x.numpy()
    centres = np.concatenate([starts(x, count, generator).numpy() for _ in range(_STARTS)])
    places = np.full((_STARTS, len(points)), -1)
    for _ in range(_ROUNDS):
        distances = (centres**2).sum(1)[:, None] - 2 * centres @ points.T  # less |x|²
        moved = distances.reshape(_STARTS, count, -1).argmin(1)
        if np.array_equal(moved, places):
            break
        places = moved
        member = (places[:, None] == np.arange(count)[:, None]).astype(points.dtype)
        member = member.reshape(len(centres), -1)  # (starts · count, n)
        sizes = member.sum(1, keepdims=True)
        centres = np.where(sizes > 0, member @ points / np.maximum(sizes, 1), centres)
    each = zip(centres.reshape(_STARTS, count, -1), places, strict=True)
    inertia = [float(((points - of_start[nearest]) ** 2).sum()) for of_start, nearest in each]
    return torch.from_numpy(places[int(np.argmin(inertia))])


def starts(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """First centres by k-means++: points far from those before are likelier."""
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    squares = (x - x[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        if float(squares.sum()) == 0:  # fewer different points than clusters
            squares = torch.ones_like(squares)
        chosen.append(int(torch.multinomial(squares, 1, generator=generator)))
        squares = torch.minimum(squares, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen].clone()


def factorise(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """W (n, count) and H (count, features), ≥ 0, of X (n, features) ≥ 0; rows of H of length 1.

    Hierarchical alternating least squares (Cichocki & Phan 2009), begun with the positive parts of
    the singular vectors (Boutsidis & Gallopoulos 2008), so that no chance plays a role.
    """
    values = x.numpy()
    w, h = first_factors(values, count)  # (count, n), (count, features)
    halves = _Half(w, h, values.T), _Half(h, w, values)
    for _ in range(_ROUNDS):
        step = w.copy()
        for half in halves:
            half.improve()
        step -= w
        if np.vdot(step, step) <= 1e-8 * np.vdot(w, w):
            break
    length = np.maximum(np.linalg.norm(h, axis=1), _TINY)[:, None]
    return torch.from_numpy((w * length).T), torch.from_numpy(h / length)


def first_factors(x: Values, count: int) -> tuple[Values, Values]:
    """The first W, (count, n), and H, (count, features), of X (n, features)."""
    wide = x.shape[0] < x.shape[1]
    gram = x @ x.T if wide else x.T @ x
    squares, near = eigh(gram, subset_by_index=[max(len(gram) - count, 0), len(gram) - 1])
    lengths, near = np.sqrt(np.maximum(squares[::-1], 0)), near[:, ::-1].T
    far = near @ (x if wide else x.T) / np.maximum(lengths, _TINY)[:, None]
    pair = (near, far) if wide else (far, near)  # left and right singular vectors, as rows
    above, below = (
        np.multiply(*(np.linalg.norm(part(0, each), axis=1) for each in pair))
        for part in (np.maximum, np.minimum)
    )
    sign, scale = np.where(above < below, -1.0, 1.0)[:, None], np.sqrt(lengths)[:, None]
    level = np.sqrt(x.mean()) * 1e-2 + _TINY  # zeros would stay zeros
    w, h = (np.maximum(each * sign, 0) * scale + level for each in pair)
    return w, h


class _Half:
    """One of both factors, W (count, n), while the other, H (count, features), stays; X is given.

    Arrays and their rows are made once: a round has some thirty short steps, and there are 200.
    """

    def __init__(self, w: Values, h: Values, x: Values) -> None:
        self._h, self._x, self._w = h, x, w
        self._projected, self._gram = np.empty_like(w), np.empty((len(w), len(w)))
        self._diagonal = self._gram.reshape(-1)[:: len(w) + 1]
        self._rows = list(zip(self._gram, self._projected, w, strict=True))

    def improve(self) -> None:
        """Set each row of W in place to its exact minimum ≥ 0."""
        np.matmul(self._h, self._x, out=self._projected)
        np.matmul(self._h, self._h.T, out=self._gram)
        size = np.maximum(self._diagonal, _TINY)[:, None]
        self._diagonal[:] = 0
        self._gram /= size
        self._projected /= size
        for of_others, of_x, row in self._rows:
            np.subtract(of_x, of_others.dot(self._w), out=row)
            np.maximum(row, 0, out=row)


def _at_least(x: Tensor, count: int) -> Tensor:
    if len(x) < count:
        raise UsageError(f"--parts {count}: this layer has {len(x)} tokens; give fewer")
    return x.double().cpu()


def _laid(values: Tensor, chosen: Tensor, shares: tuple[float, ...]) -> Components:
    """Values of the chosen tokens, (n, K), as maps."""
    maps = values.new_zeros(*chosen.shape, values.shape[1])
    maps[chosen.cpu()] = values
    return Components(
        _masked(maps.movedim(-1, 1), chosen), tuple(range(1, values.shape[1] + 1)), shares
    )


def _masked(maps: Tensor, chosen: Tensor) -> Tensor:
    """Maps (windows, K, keys) as (windows, 1, K, keys) float32, NaN where not chosen."""
    left_out = ~chosen.cpu()[:, None].expand_as(maps)
    return maps.float().masked_fill(left_out, torch.nan)[:, None].to(chosen.device)
