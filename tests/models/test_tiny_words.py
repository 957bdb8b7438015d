"""The embedded model with words: what it says of drawn scenes, and where its words look."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from word_scenes import HELD_OUT, Scene, scenes

import attnviz
from attnviz.cli import main
from attnviz.errors import ModelError, UsageError
from attnviz.io.picture import Picture
from attnviz.models.model import Model
from attnviz.models.tiny_words import COLOURS, KINDS, START, VOCABULARY, Attention, SceneDescriber
from attnviz.statistics.maps import DrawnMap

SCENE = "sample_images/scene.png"
SENTENCE = "a black mug left of an orange bird"


@pytest.fixture(scope="module")
def model() -> Model:
    return attnviz.load_model("tiny-words")


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    return list(islice(scenes(HELD_OUT, 200), 40))


def picture_of(scene: Scene) -> Picture:
    return Picture("scene.png", scene.pixels)


def thing_of(words: Sequence[str], number: int) -> int:
    """The thing that a word of a sentence is of: 1 or 2; 0 for none."""
    articles = sum(word in ("a", "an") for word in words[: number + 1])
    return articles if words[number] in (*COLOURS, *KINDS) else 0


def test_it_says_what_scenes_show_and_looks_there(model: Model, drawn: list[Scene]) -> None:
    """Sentences of scenes it never saw; nouns point into their things, by the default heads."""
    right, inside, chance = 0, [], []
    for scene in drawn:
        seen = attnviz.observe(picture_of(scene), model)
        assert seen.text is not None
        assert seen.text.agrees
        if seen.text.answer == scene.sentence:
            right += 1
        else:
            seen = attnviz.observe(picture_of(scene), model, answer=scene.sentence)
        words = scene.sentence.split()
        found = attnviz.explain(seen, heads="localized")
        means = [each for each in found.answers if each.head is None]
        assert len(means) == len(words)
        for number, answer in enumerate(means):
            if words[number] not in KINDS:
                continue
            mask = scene.objects == thing_of(words, number)
            x, y = DrawnMap(answer.values, answer.drawn, answer.placement).peak
            inside.append(bool(mask[int(y), int(x)]))
            chance.append(mask.mean())
    assert right >= 0.9 * len(drawn)
    assert np.mean(inside) >= max(0.85, np.mean(chance) + 0.3)


def test_rows_are_those_of_its_own_softmax(model: Model, drawn: list[Scene]) -> None:
    """Recorded rows of every word equal softmax(q·kᵀ/√d) in float64, of the pixels it was given."""
    assert isinstance(model.module, SceneDescriber)
    assert model.words is not None
    seen = attnviz.observe(picture_of(drawn[0]), model)
    assert seen.text is not None
    pixels = model.words.processor([Image.fromarray(drawn[0].pixels)])["pixel_values"]
    ids = torch.tensor([[START, *seen.text.ids]])
    caught = []
    blocks = model.module.decoder.blocks
    attentions = [part for part in blocks.modules() if isinstance(part, Attention)][1::2]
    hooks = [
        each.register_forward_pre_hook(lambda _, given: caught.append(given)) for each in attentions
    ]
    with torch.no_grad():
        model.module(pixels, ids)
    for hook in hooks:
        hook.remove()
    assert sorted(seen.layers) == [0, 1, 2]
    for number, (x, memory) in enumerate(caught):
        attention = attentions[number]
        q, k = (
            linear(each).double().unflatten(2, (4, 32)).transpose(1, 2)
            for linear, each in ((attention.q_linear, x), (attention.k_linear, memory))
        )
        expected = (q @ k.transpose(2, 3) / 32**0.5).softmax(-1).float()
        rows = seen.layers[number].call.matrix()
        torch.testing.assert_close(rows, expected, atol=1e-5, rtol=0)
        keys = seen.layers[number].keys
        count = keys.rows * keys.columns
        assert keys.cells.shape[1] == 5 + count
        assert (keys.cells[0, :5] < 0).all()  # class token and registers
        np.testing.assert_array_equal(keys.cells[0, 5:], np.arange(count))


def test_a_beginning_is_gone_on_from(model: Model) -> None:
    picture = attnviz.load_image(SCENE)
    seen = attnviz.observe(picture, model, prompt="a black")
    assert seen.text is not None
    assert seen.text.answer == "mug left of an orange bird"
    assert [word.word for word in seen.text.prompt_words] == ["a", "black"]


def test_unknown_words_are_named(model: Model) -> None:
    picture = attnviz.load_image(SCENE)
    with pytest.raises(UsageError, match=r"does not know 'zebra'; its words are a, an, .*hat"):
        attnviz.observe(picture, model, answer="a red zebra")
    with pytest.raises(UsageError, match="does not know 'what'"):
        attnviz.observe(picture, model, prompt="What is it?")
    assert len(set(VOCABULARY)) == len(VOCABULARY)


def test_show_needs_no_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", SCENE, "-m", "tiny-words", "-o", str(tmp_path)]) == 0
    assert SENTENCE in " ".join(capsys.readouterr().out.split())
    record = json.loads((tmp_path / "scene.png" / "stats.json").read_text())
    assert record["text"]["answer"] == SENTENCE
    assert (tmp_path / "scene.png" / "sheet.png").exists()
    line = ["stats", SCENE, "-m", "tiny-words", "--json", "-q", "word:bird"]
    for method in ("gradient-attention", "value-norm"):
        assert main([*line, "--method", method]) == 0
        assert json.loads(capsys.readouterr().out)["query"]["word"] == "bird"
    assert main([*line[:-2], "--max-words", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["text"]["answer"] == "a black mug"
    page = tmp_path / "scene.html"
    assert main(["explore", SCENE, "-m", "tiny-words", "-o", str(page)]) == 0
    assert SENTENCE in page.read_text()
    capsys.readouterr()
    assert main(["show", SCENE, "-m", "tiny-words", "--size", "200"]) == 2
    assert "--size 200: tiny-words takes about 144" in capsys.readouterr().err


def test_a_control_looks_at_the_same_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random weights say something else, so they are given the model's answer."""
    line = [SCENE, "-m", "tiny-words", "-q", "word:bird", "--json"]
    assert main(["compare", *line, "--random-weights", "-o", str(tmp_path)]) == 0
    masks = ["--masks", "sample_images/masks/scene.png"]
    assert main(["evaluate", *line, *masks]) == 0
    assert '"baseline": "random weights"' in capsys.readouterr().out
    for more, group in (
        ([], "perturbation"),
        ([*masks, "--metrics", "masks,randomisation"], "random"),
    ):
        assert main(["evaluate", *line, *more]) == 2
        assert f"answers in words, of which {group}" in capsys.readouterr().err


def test_what_it_cannot_do_is_told(model: Model) -> None:
    with pytest.raises(ModelError, match="no class head"):
        attnviz.load_model("tiny-words", head="class")
    with pytest.raises(ModelError, match="no text tower"):
        attnviz.load_model("tiny-words", head="text")
    with pytest.raises(UsageError, match="--mean: the processor of a model with words prepares"):
        attnviz.load_model("tiny-words", mean="0.1")
    long = " ".join(["a red fish"] * 3)
    with pytest.raises(UsageError, match=r"takes 15 words in all, .* have 18; give fewer"):
        attnviz.observe(attnviz.load_image(SCENE), model, prompt=long, answer=long)


def test_random_weights_are_those_of_the_seed() -> None:
    one, same, other = (
        attnviz.load_model("tiny-words", random_weights=True, seed=seed) for seed in (1, 1, 2)
    )
    state = one.module.state_dict()
    for name, each in same.module.state_dict().items():
        assert torch.equal(state[name], each)
    name = "decoder.words.weight"
    assert not torch.equal(state[name], other.module.state_dict()[name])
