"""Scenes with sentences, and the training of words on them."""

import json
from argparse import Namespace
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import train_words
from safetensors.torch import load_file
from train_words import Training
from word_scenes import COLOURS, scenes
from word_shapes import SHAPES

from attnviz.models import tiny_words
from attnviz.models.tiny_words import WordDecoder


def test_the_model_knows_the_words_of_scenes() -> None:
    assert tuple(COLOURS) == tiny_words.COLOURS
    assert tuple(SHAPES) == tiny_words.KINDS


def test_sentences_say_where_things_lie() -> None:
    """The thing named first is the larger one; the relation is that of the middles of masks."""
    relations = Counter[str]()
    for scene in islice(scenes(5), 60):
        words = scene.sentence.split()
        assert scene.objects.max() == words.count("a") + words.count("an")
        if scene.objects.max() == 1:
            continue
        (y0, x0), (y1, x1) = (np.argwhere(scene.objects == n).mean(0) for n in (1, 2))
        across, down = x1 - x0, y1 - y0
        if abs(across) > abs(down):
            expected = "left of" if across > 0 else "right of"
        else:
            expected = "above" if down > 0 else "below"
        assert f" {expected} a" in scene.sentence
        relations[expected] += 1
    assert len(relations) == 4


def test_a_seed_draws_the_same_scenes_from_any_number_on() -> None:
    whole, rest = list(islice(scenes(7), 4)), list(islice(scenes(7, 2), 2))
    for one, other in zip(whole[2:], rest, strict=True):
        assert one.sentence == other.sentence
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_a_training_learns_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_words, "CHUNK", 24)
    monkeypatch.setattr(train_words, "BATCH", 12)
    monkeypatch.setattr(train_words, "HELD_OUT_SCENES", 8)
    options = Namespace(out=tmp_path, scenes=48, seed=0)
    first = Training(options)
    first.run(first.counted(8))
    again = Training(options)
    assert again.steps == first.steps == 8
    again.run(again.counted(32))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["passes"] for line in log] == list(range(1, again.passes + 1))
    assert log[-1]["words"] < log[0]["words"]
    WordDecoder().load_state_dict(
        {
            n.removeprefix("decoder."): t
            for n, t in load_file(tmp_path / "tiny_words.safetensors").items()
        }
    )
    assert all(torch.isfinite(each).all() for each in again.decoder.parameters())
