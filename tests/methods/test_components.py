"""Components of tokens, held to singular values, planted parts and conditions of a minimum."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from method_models import COLUMNS, NAMES, ROWS, Seen, readings, seen
from numpy.typing import NDArray
from torch import Tensor

import attnviz
from attnviz.attention.layer_input import LayerInput
from attnviz.cli import main
from attnviz.errors import RecordingError, UsageError
from attnviz.explanation.fit_basis import fit_basis
from attnviz.explanation.layers import Layer
from attnviz.methods.bases import TokenSums
from attnviz.methods.components import Components, clusters, factorise, factors, k_means, pca

SAMPLES = Path(__file__).parents[2] / "sample_images"
Array = NDArray[np.float64]


def layer_of(model: Seen, number: int = 1) -> LayerInput:
    """A layer of both pictures; places of cells as on a grid."""
    reading = readings(model, torch.eye(model.calls[0].shape[3])[:1])[number]
    places = torch.tensor([[c % COLUMNS, c // COLUMNS] for c in range(ROWS * COLUMNS)])
    positions = torch.zeros(2, reading.call.shape[3], 2)
    positions[:, model.prefix :] = places.float()
    return replace(reading, keys=replace(reading.keys, positions=positions), number=number)


def vectors(reading: LayerInput, of: str, prefix: int) -> Array:
    """The tokens of both grids, (n, features), in float64."""
    assert reading.tokens is not None
    found = {
        "tokens": reading.tokens,
        "keys": torch.cat(list(reading.call.key.unbind(1)), -1),
        "queries": torch.cat(list(reading.call.query.unbind(1)), -1),
        "values": torch.cat(list(reading.call.value.unbind(1)), -1),
    }[of]
    return found[:, prefix:].flatten(0, 1).double().numpy()


def by_hand(x: Array) -> tuple[Array, Array]:
    """Standard scores and shares of variance by singular values; largest loading positive."""
    centred = x - x.mean(0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    sign = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    variances = values**2 / len(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = centred @ (axes * sign[:, None]).T / np.sqrt(variances)
    return scores, variances / variances.sum()


def inside_up(scores: Array) -> Array:
    """The scores, the first of which is higher inside of the grid than on its border."""
    rows, columns = np.divmod(np.arange(len(scores)) % (ROWS * COLUMNS), COLUMNS)
    edge = (rows % (ROWS - 1) == 0) | (columns % (COLUMNS - 1) == 0)
    sign = np.sign(scores[~edge, 0].mean() - scores[edge, 0].mean())
    return np.concatenate([scores[:, :1] * sign, scores[:, 1:]], 1)


def flat(found: Components, prefix: int) -> Array:
    """The maps of the grids' tokens, (n, components)."""
    maps = found.maps[:, 0, :, prefix:].movedim(1, -1).flatten(0, 1)
    return maps.double().numpy()


@pytest.mark.parametrize("of", ["tokens", "keys", "queries", "values"])
@pytest.mark.parametrize("name", NAMES)
def test_principal_components(name: str, of: str) -> None:
    model = seen(name)
    reading = layer_of(model)
    found = pca(reading, of=of, components="1,2,4")
    scores, shares = by_hand(vectors(reading, of, model.prefix))
    expected = inside_up(scores)[:, [0, 1, 3]]
    np.testing.assert_allclose(flat(found, model.prefix), expected, atol=1e-5)
    np.testing.assert_allclose(found.shares, shares[[0, 1, 3]], rtol=1e-5)
    assert found.numbers == (1, 2, 4)
    assert torch.isnan(found.maps[..., : model.prefix]).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_foreground_has_components_of_its_own(name: str) -> None:
    model = seen(name)
    reading, prefix = layer_of(model), model.prefix
    found = flat(pca(reading, foreground=0.1, components="1,2"), prefix)
    x = vectors(reading, "tokens", prefix)
    part = inside_up(by_hand(x)[0])[:, 0] > 0.1
    assert 2 < part.sum() < len(x)
    np.testing.assert_allclose(found[part], by_hand(x[part])[0][:, :2], atol=1e-5)
    assert np.isnan(found[~part]).all()


def test_tokens_of_high_norm_are_left_out_on_request() -> None:
    model = seen("vit")
    reading = layer_of(model)
    assert reading.tokens is not None
    tokens = reading.tokens.clone()
    tokens[0, 5] *= 50
    reading = replace(reading, tokens=tokens)
    found = flat(pca(reading, outliers="leave"), 1)
    assert np.isnan(found[4]).all()
    x = np.delete(vectors(reading, "tokens", 1), 4, 0)
    expected = by_hand(x)[0][:, 1:3]
    np.testing.assert_allclose(np.delete(found, 4, 0)[:, 1:], expected, atol=1e-5)
    assert pca(reading).shares[0] > 0.9  # else all is bent towards this one


def test_sums_over_many_pictures_are_those_of_all_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 12, generator=generator) * torch.arange(1, 13) + 1000
    sums = TokenSums()
    for part in torch.tensor_split(x, [1, 100, 100, 250]):
        sums.add(part, torch.zeros(len(part), dtype=torch.bool))
    axes = sums.axes(oriented=False)
    scores, shares = by_hand(x.double().numpy())
    np.testing.assert_allclose(axes.scores(x).numpy(), scores, atol=1e-6)
    np.testing.assert_allclose(axes.shares.numpy(), shares, rtol=1e-8)


def planted() -> tuple[Tensor, Tensor]:
    """Points around four far centres, and the centre of each."""
    generator = torch.Generator().manual_seed(1)
    places = torch.arange(60) % 4
    centres = 20 * torch.randn(4, 6, generator=generator, dtype=torch.float64)
    return centres[places] + torch.randn(60, 6, generator=generator), places


def test_planted_clusters_are_found_whatever_the_seed() -> None:
    x, places = planted()
    together = places[:, None] == places
    for seed in range(5):
        found = k_means(x, 4, seed)
        assert torch.equal(found[:, None] == found, together)
        assert torch.equal(found, k_means(x, 4, seed))


@pytest.mark.parametrize("name", NAMES)
def test_every_token_is_nearest_to_the_mean_of_its_cluster(name: str) -> None:
    model = seen(name)
    reading = layer_of(model)
    found = clusters(reading, parts=3)
    member = flat(found, model.prefix)
    assert set(np.unique(member)) == {0, 1}
    assert (member.sum(1) == 1).all()
    np.testing.assert_allclose(found.shares, member.mean(0))
    assert list(found.shares) == sorted(found.shares, reverse=True)
    x = vectors(reading, "tokens", model.prefix)
    means = np.stack([x[part == 1].mean(0) for part in member.T])
    distances = ((x[:, None] - means) ** 2).sum(-1)
    assert (distances.argmin(1) == member.argmax(1)).all()


def test_planted_factors_are_found() -> None:
    generator = torch.Generator().manual_seed(2)
    w = torch.rand(40, 3, generator=generator, dtype=torch.float64)
    w[:5], w[5:10], w[10:15] = torch.eye(3).double().repeat_interleave(5, 0).view(3, 5, 3)
    h = torch.rand(3, 10, generator=generator, dtype=torch.float64)
    h[torch.arange(3), torch.arange(3)] = 0
    found, parts = factorise(w @ h, 3)
    assert float(((found @ parts) - w @ h).norm() / (w @ h).norm()) < 1e-2
    torch.testing.assert_close(parts.norm(dim=1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_factors_are_a_minimum_over_their_weights(name: str) -> None:
    """Where a weight is 0 the loss rises with it; elsewhere its slope is 0."""
    model = seen(name)
    x = torch.from_numpy(vectors(layer_of(model), "tokens", model.prefix))
    x = x - x.amin(0)
    w, h = factorise(x, 3)
    assert min(float(w.min()), float(h.min())) >= 0
    slope = (w @ h - x) @ h.T
    scale = float((x @ h.T).abs().max())
    assert float(slope.min()) > -1e-3 * scale
    assert float((slope * w).abs().max()) < 1e-3 * scale * float(w.max())
    found = factors(layer_of(model), parts=3)
    assert sum(found.shares) == pytest.approx(1)
    assert np.nanmin(found.maps.numpy()) >= 0


def test_windows_are_one_picture() -> None:
    model = seen("vit")
    reading = layer_of(model)
    found = flat(pca(reading, of="values"), 1)  # two batches are two windows here
    assert np.allclose(found.mean(0), 0, atol=1e-5)
    assert np.allclose(found.std(0), 1, atol=1e-5)


def test_what_has_no_tokens_says_what_has() -> None:
    reading = replace(layer_of(seen("vit")), tokens=None)
    with pytest.raises(RecordingError, match="take --of keys"):
        pca(reading)
    pool = readings(seen("siglip"), torch.ones(1, 1))[-1]
    with pytest.raises(RecordingError, match="take --of keys or --of values"):
        pca(pool)
    assert pca(replace(pool, number=3), of="keys").numbers == (1, 2, 3)
    with pytest.raises(UsageError, match="give numbers from 1 to 16"):
        pca(layer_of(seen("vit")), components="40")
    with pytest.raises(UsageError, match="fewer than two tokens"):
        pca(layer_of(seen("vit")), foreground=50.0)


def test_a_picture_alone_has_the_colours_of_all_of_them(tmp_path: Path) -> None:
    names = ["cat.jpg", "teapot.jpg"]
    asked = ["--method", "pca", "--size", "64", "--foreground", "-1", "--quiet"]
    both = [*(str(SAMPLES / name) for name in names), "--basis", "shared"]
    assert main(["show", *both, *asked, "-o", str(tmp_path / "both")]) == 0
    basis = str(tmp_path / "both" / "basis.npz")
    alone = ["show", both[0], "--basis", basis, *asked, "-o", str(tmp_path / "alone")]
    assert main(alone) == 0
    pictures = [tmp_path / name / "cat.jpg" / "layer05-colours.png" for name in ("both", "alone")]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def on_grid(layer: Layer) -> Array:
    """The tokens of the grid after a layer's block."""
    assert layer.tokens is not None
    found: Array = layer.tokens[0].double().numpy()[layer.queries.cells[0] >= 0]
    return found


def test_a_basis_of_several_pictures_is_that_of_their_tokens(tmp_path: Path) -> None:
    model = attnviz.load_model("tiny", size=64)
    pictures = [attnviz.load_image(SAMPLES / name) for name in ("cat.jpg", "teapot.jpg")]
    observed = [attnviz.observe(each, model, tokens=True) for each in pictures]
    basis = fit_basis(lambda: observed)
    x = np.concatenate(parts := [on_grid(each.layers[5]) for each in observed])
    scores, shares = by_hand(x)
    np.testing.assert_allclose(basis.whole[5].shares.numpy(), shares[:16], rtol=1e-6)
    path = tmp_path / "basis.npz"
    np.savez(path, **basis.arrays())
    found = attnviz.explain(observed[1], method="pca", components="2,3", basis=str(path)).maps[0]
    expected = scores[len(parts[0]) :, 1:3].T.reshape(found.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(UsageError, match="was made with --of tokens"):
        attnviz.explain(observed[1], method="pca", of="keys", basis=str(path))
    other = attnviz.observe(pictures[0], model, tokens=True, layers="4")
    with pytest.raises(UsageError, match="is of layer 5, not 4"):
        attnviz.explain(other, method="pca", layers="4", basis=str(path))
    with pytest.raises(UsageError, match="there is no such file"):
        attnviz.explain(observed[1], method="pca", basis="no.npz")


def test_a_basis_is_of_the_weights_that_made_it(tmp_path: Path) -> None:
    """Another head and number type do not matter; another model of the same width does."""
    picture = attnviz.load_image(SAMPLES / "cat.jpg")
    model = attnviz.load_model("tiny", size=64)
    path = tmp_path / "basis.npz"
    arrays = fit_basis(lambda: [attnviz.observe(picture, model, tokens=True)]).arrays()
    np.savez(path, **arrays)

    def colours(other: attnviz.Model) -> NDArray[np.float32]:
        seen = attnviz.observe(picture, other, tokens=True)
        found: NDArray[np.float32] = attnviz.explain(seen, method="pca", basis=str(path)).maps
        return found

    headed = attnviz.load_model("tiny", size=64, head="class")
    halved = attnviz.load_model("tiny", size=64, dtype="bfloat16")
    np.testing.assert_allclose(colours(headed), colours(model), atol=1e-4)
    assert colours(halved).shape == colours(model).shape
    tuned = attnviz.load_model("tiny", size=64)
    with torch.no_grad():
        for parameter in list(tuned.module.parameters())[-20:]:
            parameter.mul_(1.01)
    with pytest.raises(UsageError, match=r"was made with tiny, whose weights are others .*name"):
        colours(tuned)
    np.savez(path, **(arrays | {"format": "attnviz basis 1"}))
    with pytest.raises(UsageError, match="does not say of which model; remove it"):
        colours(model)
