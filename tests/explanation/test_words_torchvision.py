"""Words of models whose processors need torchvision."""

from pathlib import Path

import pytest
from torchvision_schemas import import_or_skip
from word_checks import SHAPES, check_places, check_rows, picture_of, prompt_of, without_mixing

import attnviz

import_or_skip("torchvision")  # before transformers, which looks for it
from word_models import WITH_TORCHVISION  # noqa: E402


@pytest.fixture(scope="module", params=list(WITH_TORCHVISION))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model of each family, which has its name."""
    name: str = request.param
    folder = tmp_path_factory.mktemp("words") / name
    WITH_TORCHVISION[name](folder)
    return folder


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_equal_those_of_eager_generation(family: Path, shape: tuple[int, int]) -> None:
    model = attnviz.load_model(str(family), head="words")
    observation = attnviz.observe(picture_of(*shape), model, prompt=prompt_of(family), max_words=1)
    assert max(observation.errors.values()) < 1e-5
    check_rows(family, observation)


@pytest.mark.parametrize("shape", SHAPES[:1])
def test_a_painted_cell_is_found_at_its_place(family: Path, shape: tuple[int, int]) -> None:
    model = attnviz.load_model(str(family), head="words")
    without_mixing(model)
    check_places(model, shape, prompt_of(family), trials=4)
