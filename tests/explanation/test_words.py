"""Words: rows equal those of eager generation, and cells lie where they were painted."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from word_models import PLAIN, transformers

import attnviz
from attnviz.errors import ModelError, UsageError
from attnviz.explanation.observation import Observation
from attnviz.io.picture import Picture
from attnviz.models.model import Model

PROMPT = "What is the cat sitting on?"
SHAPES = [(480, 320), (200, 420), (60, 40)]
SILENT = ("trocr", "donut")
"""Families that take no prompt."""


@pytest.fixture(scope="module", params=list(PLAIN))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model of each family, which has its name."""
    name: str = request.param
    folder = tmp_path_factory.mktemp("words") / name
    PLAIN[name](folder)
    return folder


def picture_of(width: int, height: int) -> Picture:
    """A picture with something in every cell."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    return Picture("noise.png", np.asarray(image))


def prompt_of(folder: Path) -> str:
    return "" if folder.name in SILENT else PROMPT


def check_rows(folder: Path, observation: Observation) -> None:
    """Rows of every token of the answer equal those of an eager, cached `generate`."""
    text, words = observation.text, observation.model.words
    assert text is not None
    assert words is not None
    assert text.agrees
    eager = words.module.__class__.from_pretrained(folder, attn_implementation="eager").eval()
    prompted = words.prompted(observation.picture.image(), text.prompt)  # type: ignore[attr-defined]
    count = text.tokens - text.prompt_tokens
    with torch.no_grad():
        truth = eager.generate(
            **prompted.arguments, max_new_tokens=count, min_new_tokens=count, do_sample=False,
            num_beams=1, output_attentions=True, return_dict_in_generate=True,
            suppress_tokens=sorted(words._placeholders()),
        )  # fmt: skip
    for step in range(count):
        across = getattr(truth, "cross_attentions", None)
        of_layers = (across or truth.attentions)[step]
        assert len(of_layers) == observation.count
        for number, layer in observation.layers.items():
            rows = layer.call.rows([text.prompt_tokens + step - 1])[0, :, 0]
            row = of_layers[number][0, :, -1]
            seen = row.shape[-1]  # the cache grows; a sliding one has the last tokens alone
            first = 0 if layer.call.shape[3] != text.tokens else text.prompt_tokens + step - seen
            mine = rows[:, first : first + seen]
            assert torch.allclose(mine, row, atol=1e-5)
            assert float(rows.sum() - mine.sum()) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_equal_those_of_eager_generation(family: Path, shape: tuple[int, int]) -> None:
    model = attnviz.load_model(str(family), head="words")
    observation = attnviz.observe(
        picture_of(*shape), model, prompt=prompt_of(family), max_words=1
    )
    assert max(observation.errors.values()) < 1e-5
    check_rows(family, observation)


def without_mixing(model: Model) -> None:
    """Make tokens of the picture depend on their own pixels alone: its encoder attends no more."""
    assert model.words is not None
    ends = ("out_proj", "o_proj", "attn.proj", "attention.output.dense", "attention.dense")
    count = 0
    for name, part in model.words.module.named_modules():
        tower = "vision" in name or "visual" in name or name.startswith("encoder.")
        if isinstance(part, nn.Linear) and tower and name.endswith(ends):
            part.weight.data.zero_()
            count += 1
            if part.bias is not None:
                part.bias.data.zero_()
    assert count


def painted(picture: Picture, box: tuple[int, int, int, int]) -> Picture:
    """The picture with a pattern in a box."""
    pixels = picture.pixels.copy()
    left, top, right, bottom = box
    part = pixels[top:bottom, left:right]
    pattern = np.indices(part.shape[:2]).sum(0) // 4 % 2 * 255
    part[...] = np.where(pattern[..., None] > 0, 255 - part, 0)
    return Picture("painted.png", pixels)


def check_places(model: Model, shape: tuple[int, int], prompt: str, trials: int = 4) -> None:
    """A cell that is painted changes the key of the token that lies there more than all others."""
    picture, numbers = picture_of(*shape), np.random.default_rng(1)

    def keys(seen: Picture) -> tuple[Observation, torch.Tensor]:
        found = attnviz.observe(seen, model, prompt=prompt, answer="a red mat")
        return found, found.layers[found.calls.drawn[0]].call.key[0]

    observation, before = keys(picture)
    for view in observation.views:
        cells = view.layout.cells[0]
        box, (high, wide) = view.box, view.layout.stride or (0, 0)
        chosen = numbers.permutation(np.flatnonzero(cells >= 0))
        done = 0
        for token in chosen:
            row, column = divmod(int(cells[token]), view.layout.columns)
            left, top = round(box.left + column * wide), round(box.top + row * high)
            right, bottom = round(left + wide), round(top + high)
            left, top = max(left, 0), max(top, 0)
            right, bottom = min(right, picture.width), min(bottom, picture.height)
            if min(right - left, bottom - top) < 4 or done == trials:
                continue
            done += 1
            _, after = keys(painted(picture, (left, top, right, bottom)))
            change = (after - before).norm(dim=-1).mean(0).numpy()
            assert int(np.where(cells >= 0, change, -1).argmax()) == token
        assert done or view.layout.size < 2


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_a_painted_cell_is_found_at_its_place(family: Path, shape: tuple[int, int]) -> None:
    model = attnviz.load_model(str(family), head="words")
    without_mixing(model)
    check_places(model, shape, prompt_of(family), trials=3)
