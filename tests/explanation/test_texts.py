"""Texts as scores: CLIP's relevance on eager attention with autograd."""

from pathlib import Path
from typing import Any

import method_oracle as oracle
import numpy as np
import pictures
import pytest
import torch
from text_models import build, transformers

import attnviz
from attnviz.errors import UsageError
from attnviz.methods import METHODS

TEXTS = ["a tabby cat", "a red boat on a lake"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("clip", tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def seen(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> attnviz.Observation:
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    picture = attnviz.load_image(pictures.save(pictures.noise(90, 60), path))
    model = attnviz.load_model(str(folder), head="text")
    return attnviz.observe(picture, model, gradients=True)


def eager(folder: Path, seen: attnviz.Observation, text: str) -> tuple[list[Any], list[Any], float]:
    """A and ∇A of every layer of the vision tower, and the cosine."""
    model = transformers.CLIPModel.from_pretrained(folder, attn_implementation="eager").eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt")
    pixels = seen.model.pixels(seen.picture, seen.placement)
    out = model.vision_model(pixels, output_attentions=True, interpolate_pos_encoding=True)
    of_picture = model.visual_projection(out.pooler_output)[0]
    of_text = model.text_projection(model.text_model(**tokens).pooler_output)[0].detach()
    score = torch.cosine_similarity(of_picture, of_text, dim=0)
    gradients = torch.autograd.grad(score, out.attentions)
    attentions = [a.detach().double() for a in out.attentions]
    return attentions, [g.double() for g in gradients], score.item()


def test_relevance_for_texts_is_the_papers(folder: Path, seen: attnviz.Observation) -> None:
    found = attnviz.explain(seen, method="relevance", text=TEXTS)
    for text, one in zip(TEXTS, found.each(), strict=True):
        attentions, gradients, cosine = eager(folder, seen, text)
        r = oracle.relevance(attentions, gradients)[0, 0, 1:]
        scored = one.questions[0].target
        assert scored is not None
        assert scored.target.text == text
        assert float(scored.value) == pytest.approx(cosine, abs=1e-5)
        expected = r.reshape(one.maps.shape[2:]).numpy()
        np.testing.assert_allclose(one.maps[0, 0], expected, atol=1e-5 * expected.max(), rtol=1e-4)


def test_every_method_of_gradients_takes_texts(seen: attnviz.Observation) -> None:
    for name, method in METHODS.items():
        if method.scored:
            maps = attnviz.explain(seen, method=name, text=TEXTS).maps
            assert np.isfinite(maps).all()
            assert not np.allclose(maps[0], maps[1], atol=0)  # of attcat, two layers say little


def test_an_attention_pool_behind_the_layers_is_asked_too(tmp_path: Path) -> None:
    model = attnviz.load_model(str(build("siglip 2, of one shape", tmp_path / "m")), head="text")
    picture = attnviz.load_image(pictures.save(pictures.noise(90, 60), tmp_path / "p.png"))
    seen = attnviz.observe(picture, model, gradients=True)
    for method in ("relevance", "rollout", "gradient-rollout"):
        text = TEXTS if METHODS[method].scored else ()
        found = attnviz.explain(seen, method=method, text=text)
        assert {str(question.query) for question in found.questions} == {"pool"}
        assert np.isfinite(found.maps).all()
    with pytest.raises(UsageError, match="different tokens"):
        attnviz.explain(seen, method="legrad", text=TEXTS)
    below = attnviz.explain(seen, method="legrad", text=TEXTS, layers="1").maps
    assert np.isfinite(below).all()


def test_the_norm_of_a_unit_vector_is_refused(seen: attnviz.Observation) -> None:
    with pytest.raises(UsageError, match="--text"):
        attnviz.explain(seen, method="relevance", target="norm")


@pytest.mark.parametrize("against", [[TEXTS[1]], ["rest"]])
def test_a_text_against_another(
    folder: Path, seen: attnviz.Observation, against: list[str]
) -> None:
    texts = TEXTS if against == ["rest"] else TEXTS[:1]
    found = attnviz.explain(seen, method="relevance", text=texts, against=against).each()[0]
    attentions, ours, cosine = eager(folder, seen, TEXTS[0])
    _, theirs, other = eager(folder, seen, TEXTS[1])
    gradients = [a - b for a, b in zip(ours, theirs, strict=True)]
    expected = oracle.relevance(attentions, gradients)[0, 0, 1:].reshape(found.maps.shape[2:])
    scored = found.questions[0].target
    assert scored is not None
    assert float(scored.value) == pytest.approx(cosine - other, abs=1e-5)
    atol = 1e-5 * float(expected.max())
    np.testing.assert_allclose(found.maps[0, 0], expected.numpy(), atol=atol, rtol=1e-4)
