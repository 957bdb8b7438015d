"""Words of models whose processors need torchvision."""

import itertools
from pathlib import Path

import pytest
import torch
from torchvision_schemas import import_or_skip
from word_checks import (
    PROMPT,
    SHAPES,
    check_places,
    check_rows,
    picture_of,
    prompt_of,
    without_mixing,
)

import attnviz

import_or_skip("torchvision")  # before transformers, which looks for it
from word_models import WITH_TORCHVISION, qwen2_5_vl  # noqa: E402
from word_oracle import ANSWER, answered_by, eager, relevance_of, step, weights_of  # noqa: E402


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


def _in_order(patches: torch.Tensor) -> torch.Tensor:
    """Qwen's patches, four of a token one after the other, as a picture of 12 × 18 of them."""
    return patches.view(6, 9, 2, 2).transpose(1, 2).reshape(12, 18)


def test_words_go_back_through_windows_and_flat_patches(tmp_path: Path) -> None:
    """Qwen2.5-VL: relevance of each flat patch; rollout through windows in their own order."""
    folder = tmp_path / "qwen2_5_vl"
    qwen2_5_vl(folder)
    model = attnviz.load_model(str(folder), head="words")
    picture = picture_of(480, 320)
    seen = attnviz.observe(picture, model, prompt=PROMPT, answer=ANSWER, gradients=True)
    answered = answered_by(model, picture, PROMPT)
    module = eager(model, folder)
    found = attnviz.explain(seen, query="word:red", method="attnlrp", at="pixels")
    assert seen.text is not None
    rows = [row - seen.text.tokens for row in found.query.tokens]
    blocks = module.model.visual.blocks
    relevance = relevance_of(module, answered, blocks[0], rows, pixels=True)
    truth = _in_order(relevance.sum(-1))
    mine = torch.from_numpy(found.maps[0, 0]).double()
    torch.testing.assert_close(mine, truth, rtol=0, atol=1e-5 * float(truth.abs().max()))

    rolled = attnviz.explain(seen, query="word:red", method="rollout")
    answered.arguments["pixel_values"].requires_grad_(False)
    *tower, one, two, three = weights_of(module, answered)
    row = step(three)[0][rows].mean(0) @ step(two)[0] @ step(one)[0]
    image = answered.arguments["input_ids"][0] == module.config.image_token_id
    order = [
        9 * y + x
        for down, right in itertools.product(range(0, 6, 2), range(0, 9, 2))
        for y, x in itertools.product((down, down + 1), (right, right + 1))
        if x < 9
    ]
    merged = row[image][order].repeat_interleave(4) / 4  # in the order of the windows
    *windows, whole = tower
    state = merged @ step(whole[0])
    for layer in (windows[len(windows) // 2 :], windows[: len(windows) // 2]):
        parts = torch.split(state, [each.shape[-1] for each in layer])
        state = torch.cat([part @ step(each[0]) for part, each in zip(parts, layer, strict=True)])
    back = torch.empty_like(state).view(-1, 4)
    back[order] = state.view(-1, 4)
    mine = torch.from_numpy(rolled.maps[0, 0]).double()
    torch.testing.assert_close(mine, _in_order(back), rtol=0, atol=1e-5)
