"""Pictures and texts in one space, against transformers' own logits."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
import torch
from text_models import FAMILIES, LENGTH, TEXTS, build, byte_pairs
from torch import Tensor

import attnviz
from attnviz.models import resolve_target, scoring
from attnviz.models.targets import of_text, parse

transformers: Any = pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(family, tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("clip", tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> attnviz.Picture:
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    return attnviz.load_image(pictures.save(pictures.noise(90, 60), path))


def as_patches(pixels: Tensor, side: int) -> dict[str, Tensor]:
    """SigLIP 2's input, by indices: each patch row by row, its colours last."""
    rows, columns = pixels.shape[2] // side, pixels.shape[3] // side
    image = pixels[0].permute(1, 2, 0)
    cut = [
        image[y * side : (y + 1) * side, x * side : (x + 1) * side].reshape(-1)
        for y in range(rows)
        for x in range(columns)
    ]
    return {
        "pixel_values": torch.stack(cut)[None],
        "pixel_attention_mask": torch.ones(1, rows * columns, dtype=torch.long),
        "spatial_shapes": torch.tensor([[rows, columns]]),
    }


def expected(folder: Path, pixels: Tensor, texts: list[str]) -> Tensor:
    """Cosines (1, texts), from the logits of the whole model, called as its card says."""
    own = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    kind = own.config.model_type
    if kind.startswith("siglip"):
        tokens = tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt")
        inputs = {"input_ids": tokens["input_ids"]}
    else:
        inputs = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    if kind == "siglip2":
        inputs |= as_patches(pixels, 16)
    else:
        inputs |= {"pixel_values": pixels, "interpolate_pos_encoding": True}
    logits = own(**inputs).logits_per_image - getattr(own, "logit_bias", 0)
    cosines: Tensor = logits / own.logit_scale.exp()
    return cosines


def scores(model: attnviz.Model, pixels: Tensor, texts: list[str]) -> Tensor:
    targets = [resolve_target.resolve(model, of_text(text)) for text in texts]
    output = model.module(pixels)
    return torch.stack([scoring.score(model, output, target).value for target in targets])


def test_scores_are_the_cosines_of_the_models_own_logits(
    folder: Path, picture: attnviz.Picture
) -> None:
    model = attnviz.load_model(str(folder), head="text")
    pixels = model.pixels(picture, model.place(picture))
    assert pixels.shape[2] != pixels.shape[3]
    with torch.no_grad():
        cosines = expected(folder, pixels, TEXTS)[0]
        found = scores(model, pixels, TEXTS)
    torch.testing.assert_close(found, cosines, rtol=0, atol=1e-5)
    assert float(cosines.max() - cosines.min()) > 1e-3
    assert (model.head, model.labels) == ("text", None)


def test_the_score_has_the_gradient_of_the_models_own_logits(
    folder: Path, picture: attnviz.Picture
) -> None:
    model = attnviz.load_model(str(folder), head="text")
    pixels = model.pixels(picture, model.place(picture)).requires_grad_()
    (found,) = torch.autograd.grad(scores(model, pixels, TEXTS[:1])[0], pixels)
    (own,) = torch.autograd.grad(expected(folder, pixels, TEXTS[:1])[0, 0], pixels)
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-7)
    assert found.abs().max() > 0


def test_embeddings_are_of_length_1_and_one_for_each(folder: Path) -> None:
    model = attnviz.load_model(str(folder), head="text")
    assert model.texts is not None
    embedded = model.texts(TEXTS)
    pictured = model.module(torch.rand(2, 3, 64, 64))
    assert embedded.shape == (3, pictured.shape[1])
    lengths = torch.cat([embedded, pictured]).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(5))
    assert not embedded.requires_grad


def test_what_is_recorded_is_that_of_the_model_without_texts(
    folder: Path, picture: attnviz.Picture
) -> None:
    plain, model = (attnviz.load_model(str(folder), head=head) for head in ("none", "text"))
    facts = ("layers", "heads", "features", "patch", "size", "prefix", "class_token", "fixed")
    assert [getattr(plain, name) for name in facts] == [getattr(model, name) for name in facts]
    seen = [attnviz.observe(picture, each, layers="all") for each in (plain, model)]
    assert seen[0].count == seen[1].count >= 2
    maps = [attnviz.explain(each, layers="all").maps for each in seen]
    np.testing.assert_array_equal(maps[0], maps[1])


def test_no_text_tower_runs_while_a_resolved_target_is_scored(
    folder: Path, picture: attnviz.Picture
) -> None:
    model = attnviz.load_model(str(folder), head="text")
    target = resolve_target.resolve(model, of_text("a tabby cat"))
    with torch.no_grad():
        output = model.module(model.pixels(picture, model.place(picture)))
        with attnviz.record() as recording:
            scored = scoring.score(model, output, target)
    assert len(recording) == 0
    assert (scored.target, scored.probability) == (target, None)


def test_case_does_not_matter_where_the_tower_saw_none(family: str, folder: Path) -> None:
    model = attnviz.load_model(str(folder), head="text")
    assert model.texts is not None
    lower, upper = model.texts(["a tabby cat", "A Tabby CAT"])
    if family not in ("altclip", "chinese clip"):
        assert torch.equal(lower, upper)


def test_a_text_that_is_too_long_says_how_much_fits(family: str, folder: Path) -> None:
    model = attnviz.load_model(str(folder), head="text")
    assert model.texts is not None
    # SigLIP 2's ends in nothing here, the tokenizer of the test; the others in one or two marks.
    marks = {"siglip 2": 0, "siglip 2, of one shape": 0, "siglip": 1}.get(family, 2)
    fits = " ".join("q" * ((LENGTH - marks) // 2))
    model.texts([fits])
    long = " ".join("q" * 40)
    with pytest.raises(attnviz.AttnvizError, match=f"and {model.spec} reads {LENGTH}; gi") as told:
        resolve_target.resolve(model, of_text(long))
    assert "…" in str(told.value)
    assert "\n" not in str(told.value)


def test_random_weights_have_texts_too(clip: Path) -> None:
    models = [
        attnviz.load_model(str(clip), head="text", random_weights=True, seed=s) for s in (1, 1, 2)
    ]
    first, same, other = (model.texts(["a"]) for model in models if model.texts is not None)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_without_a_tokenizer_it_says_so(clip: Path, tmp_path: Path) -> None:
    transformers.AutoModel.from_pretrained(clip).save_pretrained(tmp_path / "mute")
    with pytest.raises(attnviz.AttnvizError, match="no tokenizer lies beside its weights"):
        attnviz.load_model(str(tmp_path / "mute"), head="text")
    assert attnviz.load_model(str(tmp_path / "mute")).head == "none"


def test_a_missing_library_says_what_to_install(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("unrecognized configuration class")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(attnviz.AttnvizError, match=r"its tokenizer .* pip install 'attnviz\[hf\]'"):
        attnviz.load_model(str(clip), head="text")


def test_a_tokenizer_of_another_model_is_told(clip: Path, tmp_path: Path) -> None:
    transformers.AutoModel.from_pretrained(clip).save_pretrained(tmp_path / "model")
    names = ["<|startoftext|>", "<|endoftext|>", *(f"unused{i}" for i in range(90)), "a</w>"]
    vocabulary = {name: i for i, name in enumerate(names)}
    (tmp_path / "model" / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "model" / "merges.txt").write_text("#version: 0.2\n")
    model = attnviz.load_model(str(tmp_path / "model"), head="text")
    with pytest.raises(attnviz.AttnvizError, match="has tokens that its text tower has not"):
        resolve_target.resolve(model, of_text("a"))


def test_what_has_no_text_tower_is_refused(clip: Path, tmp_path: Path) -> None:
    whole = transformers.AutoConfig.from_pretrained(clip)
    whole.num_labels = 3
    transformers.CLIPForImageClassification(whole).save_pretrained(tmp_path / "classes")
    byte_pairs(tmp_path / "classes")
    transformers.CLIPVisionModel(whole.vision_config).save_pretrained(tmp_path / "vision")
    told = {
        "classes": r"its checkpoint lacks \d+ weights of the two towers",
        "vision": "its model type is 'clip_vision_model'",
    }
    for name, said in told.items():
        with pytest.raises(attnviz.AttnvizError, match=f"no text tower .{said}.*clip-base-16"):
            attnviz.load_model(str(tmp_path / name), head="text")


@pytest.mark.parametrize(
    ("spec", "said"),
    [("tiny", "composites"), ("random", "one attention layer"), ("dinov2-small", "DINOv2 knows")],
)
def test_models_by_name_without_texts_are_refused_offline(spec: str, said: str) -> None:
    with pytest.raises(attnviz.AttnvizError, match=rf"no text tower \(.*{said}.*siglip-base"):
        attnviz.load_model(spec, head="text")


def test_texts_and_other_targets_do_not_mix(clip: Path) -> None:
    plain, model = (attnviz.load_model(str(clip), head=head) for head in ("none", "text"))
    with pytest.raises(attnviz.AttnvizError, match=r"--text a cat: .* has no text tower, or is"):
        resolve_target.resolve(plain, of_text("a cat"))
    for target in ("auto", "norm", "3", "tabby", "norm:cls"):
        with pytest.raises(attnviz.AttnvizError, match=r"is asked for texts.*; give --text alone"):
            resolve_target.resolve(model, parse(target))
