"""Checks of words: rows equal those of eager generation, cells lie where they were painted."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from softmaxes import Softmaxes
from torch import nn

import attnviz
from attnviz.explanation.observation import Observation
from attnviz.io.picture import Picture, with_pixels
from attnviz.models.model import Model
from attnviz.models.prompts import placeholders

PROMPT = "What is the cat sitting on?"
SHAPES = [(480, 320), (200, 420), (60, 40)]
SILENT = ("trocr", "donut", "pix2struct")
"""Families that take no prompt."""


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
    prompted = words.prompted(with_pixels(observation.picture).image(), text.prompt)
    count = text.tokens - text.prompt_tokens
    with torch.no_grad():
        truth = eager.generate(
            **prompted.arguments, max_new_tokens=count, min_new_tokens=count, do_sample=False,
            num_beams=1, output_attentions=True, return_dict_in_generate=True,
            suppress_tokens=sorted(placeholders(words.module, words.processor)),
        )  # fmt: skip
    given = getattr(truth, "cross_attentions", None) or truth.attentions
    number, layer = next(iter(observation.layers.items()))
    keys = layer.call.shape[3]
    if keys not in (text.tokens, given[0][number].shape[-1]):  # it does not return those across
        answered = words.answered(prompted, None, 1)
        with Softmaxes() as softmaxes, torch.no_grad():
            eager(**answered.arguments)
        made = [each for each in softmaxes.found if each.shape[-2:] == (text.tokens, keys)]
        assert len(made) == observation.count
        for each, layer in zip(made, observation.layers.values(), strict=True):
            assert torch.allclose(layer.call.matrix(), each, atol=1e-5)
        return
    for step in range(count):
        of_layers = given[step]
        assert len(of_layers) == observation.count
        for number, layer in observation.layers.items():
            rows = layer.call.rows([text.prompt_tokens + step - 1])[0, :, 0]
            row = of_layers[number][0, :, -1]
            seen = row.shape[-1]  # the cache grows; a sliding one has the last tokens alone
            first = 0 if layer.call.shape[3] != text.tokens else text.prompt_tokens + step - seen
            mine = rows[:, first : first + seen]
            assert torch.allclose(mine, row, atol=1e-5)
            assert float(rows.sum() - mine.sum()) < 1e-5


def without_mixing(model: Model) -> None:
    """Make tokens of the picture depend on their own pixels alone: nothing attends any more."""
    assert model.words is not None
    ends = ("out_proj", "o_proj", "projection", "projection_layer", "proj", "dense", "output")
    count = 0
    for name, part in model.words.module.named_modules():
        above, _, last = name.rpartition(".")
        if isinstance(part, nn.Linear) and "att" in above and last in ends:
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
