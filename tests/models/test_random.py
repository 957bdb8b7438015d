import hashlib
import math
from pathlib import Path

import numpy as np
import pictures
import pytest
import torch
from safetensors.torch import save_file

import attnviz
from attnviz.models.random import EmbeddedAttention, sine_cosine
from attnviz.models.weights import initial_state


def module(model: attnviz.Model) -> EmbeddedAttention:
    assert isinstance(model.module, EmbeddedAttention)
    return model.module


def test_the_same_seed_gives_the_same_numbers_on_every_machine() -> None:
    state = initial_state(EmbeddedAttention(8, 64, 16), seed=0)
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].numpy().tobytes())
    assert digest.hexdigest()[:16] == "d461a27eafda4a9b"


def test_seeds_differ_and_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002 — the global one is what must not move
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    a, b = (module(attnviz.load_model("random", seed=seed)).embed.weight for seed in (0, 1))
    assert not torch.equal(a, b)
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002


def test_it_is_built_with_as_many_heads_as_are_counted() -> None:
    for heads, features in ((1, 64), (8, 64), (12, 72), (5, 65), (100, 100)):
        model = attnviz.load_model("random", heads=heads)
        assert (model.heads, model.features) == (heads, features)
        assert module(model).attention.n_heads == heads


def test_positions_are_sines_and_cosines_of_row_and_column() -> None:
    code = sine_cosine(3, 5, 8)
    row, column = 2, 3
    found = code[row * 5 + column].tolist()
    expected = [
        f(index / 10000 ** (i / 2)) for index in (row, column)
        for f in (math.sin, math.cos) for i in range(2)
    ]  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-6)
    assert sine_cosine(2, 2, 6)[:, 4:].abs().sum() == 0


def test_a_token_is_the_embedding_of_its_own_patch(tmp_path: Path) -> None:
    pictures.noise(96, 64).save(tmp_path / "noise.png")
    picture = attnviz.load_image(tmp_path / "noise.png")
    model = attnviz.load_model("random", patch=32, size=78)
    placement = model.place(picture)
    pixels = model.pixels(picture, placement)
    assert pixels.shape == (1, 3, 64, 96)
    tokens = module(model).tokens(pixels)
    embed = module(model).embed
    patch = (picture.pixels[32:64, 64:96] / 255 - 0.5) / 0.25
    values = torch.from_numpy(patch).float().permute(2, 0, 1).flatten()
    expected = embed(values) + sine_cosine(2, 3, 64)[5]
    torch.testing.assert_close(tokens[0, 5], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors"])
def test_weights_of_either_kind_are_the_layers(suffix: str, tmp_path: Path) -> None:
    layer = attnviz.MultiHeadAttention(4, 32)
    path = tmp_path / f"layer.{suffix}"
    if suffix == "safetensors":
        save_file(layer.state_dict(), path)
    else:
        torch.save(layer.state_dict(), path)
    model = attnviz.load_model("random", heads=4, weights=str(path))
    assert model.features == 32
    assert model.weights == str(path)
    for name, value in layer.state_dict().items():
        assert torch.equal(module(model).attention.state_dict()[name], value)


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(32, 32, dtype=torch.long),
        torch.ones(32, 32, dtype=torch.bool),
        torch.ones(32, 32, dtype=torch.complex64),
        torch.ones(32, 32).to_sparse(),
        torch.empty(32, 32, device="meta"),
        torch.full((32, 32), 1e300, dtype=torch.float64),
    ],
)
def test_weights_that_are_no_dense_finite_floats_are_named(
    value: torch.Tensor, tmp_path: Path
) -> None:
    state = attnviz.MultiHeadAttention(4, 32).state_dict()
    torch.save({**state, "k_linear.weight": value}, tmp_path / "odd.pt")
    with pytest.raises(attnviz.AttnvizError, match=r"(?s)odd\.pt.*k_linear\.weight "):
        attnviz.load_model("random", heads=4, weights=str(tmp_path / "odd.pt"))


def test_weights_that_heads_do_not_divide_ask_for_their_number(tmp_path: Path) -> None:
    torch.save(attnviz.MultiHeadAttention(7, 63).state_dict(), tmp_path / "seven.pt")
    with pytest.raises(attnviz.AttnvizError, match=r"seven\.pt: 63 features .* --heads"):
        attnviz.load_model("random", weights=str(tmp_path / "seven.pt"))
    model = attnviz.load_model("random", heads=7, weights=str(tmp_path / "seven.pt"))
    assert model.features == 63


def test_pixels_are_tokens_of_side_1() -> None:
    model = attnviz.load_model("random", tokens="pixels")
    assert (model.patch, model.size, model.tokens) == (1, 64, "pixels")
    with pytest.raises(attnviz.AttnvizError, match="--patch 16"):
        attnviz.load_model("random", tokens="pixels", patch=16)
