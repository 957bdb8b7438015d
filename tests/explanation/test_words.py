"""Words: rows equal those of eager generation, and cells lie where they were painted."""

from pathlib import Path

import pytest
from word_checks import SHAPES, check_places, check_rows, picture_of, prompt_of, without_mixing
from word_models import PLAIN

import attnviz


@pytest.fixture(scope="module", params=list(PLAIN))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model of each family, which has its name."""
    name: str = request.param
    folder = tmp_path_factory.mktemp("words") / name
    PLAIN[name](folder)
    return folder


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_equal_those_of_eager_generation(family: Path, shape: tuple[int, int]) -> None:
    model = attnviz.load_model(str(family), head="words")
    observation = attnviz.observe(picture_of(*shape), model, prompt=prompt_of(family), max_words=1)
    assert max(observation.errors.values()) < 1e-5
    check_rows(family, observation)


@pytest.mark.parametrize("shape", SHAPES[:1])
def test_a_painted_cell_is_found_at_its_place(family: Path, shape: tuple[int, int]) -> None:
    if family.name == "florence2":
        pytest.skip("its convolutions reach half a cell to the left: a token sees two cells alike")
    model = attnviz.load_model(str(family), head="words")
    without_mixing(model)
    check_places(model, shape, prompt_of(family), trials=4)
