"""200 seeded mutations of a small checkpoint: each gives the right maps, or an error in a line."""

import json
import shutil
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pictures
import pytest
import torch

import attnviz
from attnviz.cli import main
from attnviz.errors import ModelError

transformers: Any = pytest.importorskip("transformers")
COUNT = 200
THROUGH_THE_COMMAND_LINE, TWICE = 10, 3  # every so many
ERRORS: dict[str, list[bool]] = {}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "vit"
    checkpoints.build(transformers, "ViTModel", folder, **checkpoints.SMALL)
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    pictures.noise(60, 40).save(path)
    return path


@pytest.fixture(scope="module")
def right(source: Path, photo: Path) -> np.ndarray[Any, Any]:
    """Class token to patches in every layer and head, by the library's own eager attention."""
    own = transformers.ViTModel.from_pretrained(source, attn_implementation="eager")
    model = attnviz.load_model(str(source))
    picture = attnviz.load_image(photo)
    placement = model.place(picture)
    with torch.no_grad():
        found = own(
            model.pixels(picture, placement), output_attentions=True, interpolate_pos_encoding=True
        )
    grid = placement.grid
    rows = [weights[0, :, 0, 1:].reshape(-1, grid.rows, grid.columns) for weights in found[-1]]
    return np.concatenate([row.numpy() for row in rows])


def maps(folder: Path, photo: Path) -> tuple[attnviz.Model, np.ndarray[Any, Any]]:
    model = attnviz.load_model(str(folder))
    seen = attnviz.observe(attnviz.load_image(photo), model)
    found = attnviz.explain(seen, layers="all").maps
    return model, found.reshape(-1, *found.shape[-2:])


@pytest.mark.parametrize("seed", range(COUNT))
def test_a_mutated_checkpoint_is_right_or_refused(
    seed: int,
    *,
    source: Path,
    photo: Path,
    right: np.ndarray[Any, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mutations = checkpoints.Mutations(seed)
    folder = tmp_path / "mutated"
    mutations.apply(source, folder)
    refused = ""
    try:
        model, found = maps(folder, photo)
    except ModelError as error:
        refused = str(error)
    else:
        np.testing.assert_allclose(found, right, atol=1e-6, rtol=0)
        assert (model.weights, model.loaded) == ("pretrained", 1.0)
        if seed % TWICE == 0:
            assert np.array_equal(maps(folder, photo)[1], found)
    if refused:
        assert "\n" not in refused
        assert "; " in refused  # what to type next
        assert refused.startswith(str(folder))
    ERRORS.setdefault(mutations.kind, []).append(bool(refused))
    if seed % THROUGH_THE_COMMAND_LINE == 0:
        capsys.readouterr()
        code = main(["stats", str(photo), "-m", str(folder), "--json", "-o", str(tmp_path / "o")])
        out, err = capsys.readouterr()
        assert code == int(bool(refused))
        if refused:
            assert (out, len(err.splitlines())) == ("", 1)
            assert not (tmp_path / "o").exists()
        else:
            assert json.loads(out)["check"]["loaded"] == 1.0
    shutil.rmtree(folder)


def test_the_mutations_tried_something() -> None:
    """What only renames is read, what destroys is refused: neither is always the answer."""
    if sum(map(len, ERRORS.values())) < COUNT:
        pytest.skip("some mutations were left out")
    for kind in ("prefix", "wrapper_inside", "lightning", "precision", "wrapped"):
        assert not any(ERRORS[f"change_{kind}"]), kind
    for kind in ("drop_layer", "depth", "truncate", "to_timm", "adapters", "nothing_left"):
        assert all(ERRORS[f"change_{kind}"]), kind
    assert 0.3 < np.mean([refused for each in ERRORS.values() for refused in each]) < 0.9
