# mypy: disable-error-code="no-untyped-call,no-any-return"
"""Smoothed maps, held to means computed by hand and to the mirror image of their question."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

import attnviz
from attnviz.cli import main
from attnviz.errors import UsageError
from attnviz.explanation.again import smoothed
from attnviz.explanation.smoothing import Smoothing, parse_smoothing
from attnviz.io.picture import Picture
from attnviz.methods import METHODS

CAT = Path(__file__).parents[2] / "sample_images" / "cat.jpg"
SIZE = (176, 120)  # what `tiny` takes of this shape: nothing is resized


@cache
def model() -> attnviz.Model:
    return attnviz.load_model("tiny", head="class", size=145)


@cache
def pixels() -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(CAT).convert("RGB").resize(SIZE))


@cache
def seen(*, mirrored: bool = False) -> attnviz.Observation:
    shown = pixels()[:, ::-1].copy() if mirrored else pixels()
    picture = Picture("cat.png", shown)
    return attnviz.observe(picture, model(), layers="all", gradients=True, tokens=True)


def asked(kind: str, folder: Path, *, mirrored: bool) -> str:
    """A place of the picture, or the same place of its mirror image."""
    width = SIZE[0]
    if kind == "mask":
        mask = np.zeros((SIZE[1], width), np.uint8)
        mask[20:71, 13:60] = 255
        path = folder / f"mask{mirrored:d}.png"
        Image.fromarray(mask[:, ::-1].copy() if mirrored else mask).save(path)
        return str(path)
    if kind == "box":
        return f"{width - 60},20,{width - 13},71" if mirrored else "13,20,60,71"
    return f"{width - 1 - 37},50" if mirrored else "37,50"


@pytest.mark.parametrize("kind", ["point", "box", "mask", "cls", "mean"])
def test_flips_of_the_mirror_image_are_mirrored_flips(kind: str, tmp_path: Path) -> None:
    there, back = (
        kind if kind in ("cls", "mean") else asked(kind, tmp_path, mirrored=mirrored)
        for mirrored in (False, True)
    )
    both = "attention", "relevance"
    for method in both:
        options: dict[str, Any] = {"method": method, "smooth": "flips"}
        if method == "relevance":
            options["target"] = "3"
        one = attnviz.explain(seen(), query=there, **options)
        other = attnviz.explain(seen(mirrored=True), query=back, **options)
        atol = 1e-5 * float(one.maps.max())
        np.testing.assert_allclose(one.maps, other.maps[..., ::-1], atol=atol)
        # and each is the mean of the two maps of their own
        options.pop("smooth")
        plain = attnviz.explain(seen(), query=there, **options).maps
        flipped = attnviz.explain(seen(mirrored=True), query=back, **options).maps[..., ::-1]
        np.testing.assert_allclose(one.maps, (plain + flipped) / 2, atol=atol)
        assert np.abs(plain - flipped).max() > 100 * atol


def test_a_place_of_a_score_is_mirrored_too(tmp_path: Path) -> None:
    vit(tmp_path / "vit")
    bare = attnviz.load_model(str(tmp_path / "vit"), size=145)
    observed = [
        attnviz.observe(Picture("cat.png", each), bare, gradients=True)
        for each in (pixels(), pixels()[:, ::-1].copy())
    ]
    maps = [
        attnviz.explain(
            seen, method="gradient-attention", smooth="flips",
            target=f"norm:{asked('mask', tmp_path, mirrored=mirrored)}",
        ).maps
        for seen, mirrored in zip(observed, (False, True), strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(maps[0], maps[1][..., ::-1], atol=1e-5 * float(maps[0].max()))


def test_a_cropped_and_a_padded_picture_are_mirrored_where_they_lie() -> None:
    wide = np.asarray(Image.open(CAT).convert("RGB").resize((184, 120)))
    for fit in ("crop", "pad"):
        fitted = [
            attnviz.explain(
                attnviz.observe(Picture("cat.png", each.copy()), model(), fit=fit),
                query=f"{x},50", smooth="flips",
            ).maps
            for each, x in ((wide, 60), (wide[:, ::-1], 184 - 1 - 60))
        ]  # fmt: skip
        # resized pixels are rounded to 1/255
        np.testing.assert_allclose(fitted[0], fitted[1][..., ::-1], atol=0.02 * fitted[0].max())


def vit(folder: Path) -> Any:
    """A small model of transformers in a folder; returns transformers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        patch_size=8, image_size=96, initializer_range=0.3,
    )  # fmt: skip
    transformers.ViTModel(config).eval().save_pretrained(folder)
    return transformers


def test_noise_is_the_mean_of_attention_over_noisy_pictures(tmp_path: Path) -> None:
    transformers = vit(tmp_path)
    own = transformers.ViTModel.from_pretrained(tmp_path, attn_implementation="eager").double()
    loaded = attnviz.load_model(str(tmp_path))
    picture = Picture("cat.png", np.asarray(Image.open(CAT).convert("RGB").resize((96, 96))))
    observed = attnviz.observe(picture, loaded, fit="squash")
    found = attnviz.explain(observed, smooth="noise:3", sigma=0.2, seed=5)
    stream = np.random.RandomState(5)
    rows = []
    for _ in range(3):
        noisy = picture.pixels / 255 + stream.normal(0, 0.2, (96, 96, 3))
        shown = torch.from_numpy((noisy - 0.5) / 0.5).permute(2, 0, 1)[None]
        with torch.no_grad():
            attentions = own.eval()(shown, output_attentions=True).attentions[-1]
        rows.append(attentions[0, :, 0, 1:].numpy())
    expected = np.mean(rows, 0).reshape(4, 12, 12)
    np.testing.assert_allclose(found.maps[0], expected, atol=1e-5 * expected.max())
    assert found.smoothing == Smoothing("noise", 3, 0.2, 5)
    others = attnviz.explain(observed, smooth="noise:3", sigma=0.2, seed=6).maps
    assert not np.allclose(found.maps, others, atol=1e-5 * expected.max())


@pytest.mark.parametrize("method", [n for n, each in METHODS.items() if not each.components])
def test_every_method_has_a_mean(method: str) -> None:
    options: dict[str, Any] = {"target": ["1", "2"]} if METHODS[method].scored else {}
    layers = "3,5" if METHODS[method].merges != "layers" else "5"
    plain = attnviz.explain(seen(), method=method, layers=layers, **options)
    mean = smoothed(plain, Smoothing("flips"))
    assert mean.maps.shape == plain.maps.shape
    assert np.isfinite(mean.maps).all()
    assert [q.target and q.target.target for q in mean.questions] == [
        q.target and q.target.target for q in plain.questions
    ]


def test_localized_heads_stay_the_same() -> None:
    plain = attnviz.explain(seen(), heads="localized:3")
    mean = attnviz.explain(seen(), heads="localized:3", smooth="flips")
    assert mean.questions[0].localized == plain.questions[0].localized
    assert not np.array_equal(mean.answers[0].values, plain.answers[0].values)


def test_words_are_smoothed_with_the_same_answer_before_the_mirror_image() -> None:
    """The mirrored scene would be described otherwise: its left is the other's right."""
    words = attnviz.load_model("tiny-words", head="words")
    scene = attnviz.load_image(CAT.with_name("scene.png"))
    turned = Picture("scene.png", scene.pixels[:, ::-1].copy())
    one = attnviz.observe(scene, words, gradients=True)
    assert one.text is not None
    other = attnviz.observe(turned, words, answer=one.text.answer, gradients=True)
    for method in ("attention", "gradient-attention"):
        found = attnviz.explain(one, method=method, smooth="flips")
        here, there = (attnviz.explain(each, method=method).maps for each in (one, other))
        expected = (here + there[..., ::-1]) / 2
        np.testing.assert_allclose(found.maps, expected, atol=1e-5 * float(expected.max()))
        assert [question.query for question in found.questions] == [
            question.query for question in attnviz.explain(one, method=method).questions
        ]
    with pytest.raises(UsageError, match="take --smooth flips"):
        attnviz.explain(one, smooth="noise:2")
    ratios = attnviz.observe(scene, words, prompt="a", baseline_prompt="an")
    with pytest.raises(UsageError, match="leave one of them out"):
        attnviz.explain(ratios, smooth="flips")


@pytest.mark.parametrize(
    ("text", "sigma", "told"),
    [
        ("blur", None, "--smooth 'blur' cannot be read; give flips, or noise:N"),
        ("noise:0", None, "with N from 1 to 1000"),
        ("flips", 0.1, "--sigma 0.1 is of noise; give it with --smooth noise:16"),
        (None, 0.1, "give it with --smooth noise:16"),
        ("noise:4", 1.5, "--sigma 1.5: give a number over 0 and at most 1"),
    ],
)
def test_what_cannot_be_read_is_said(text: str | None, sigma: float | None, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse_smoothing(text, sigma)


def test_what_has_no_mean_is_refused() -> None:
    with pytest.raises(UsageError, match="parts of pca differ from run to run"):
        attnviz.explain(seen(), method="pca", smooth="flips")
    kept = replace(seen(), pixels=None)
    with pytest.raises(UsageError, match="the model's input is not there"):
        attnviz.explain(kept, smooth="flips")


def test_the_record_says_what_was_done(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--smooth", "noise:2", "--sigma", "0.1", "--seed", "7", "--heads", "0,"]
    assert main(["stats", str(CAT), *options, "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["smoothing"] == {"kind": "noise", "pictures": 2, "sigma": 0.1, "seed": 7}
    assert main(["schema"]) == 0
    jsonschema.validate(record, json.loads(capfd.readouterr().out))
    assert main(["show", str(CAT), "--smooth", "flips", "-o", str(tmp_path), "--no-preview"]) == 0
    written = json.loads((tmp_path / "cat.jpg" / "stats.json").read_text())
    assert written["smoothing"]["kind"] == "flips"
    (tmp_path / "in").mkdir()
    Image.open(CAT).resize((96, 64)).save(tmp_path / "in" / "a.png")
    batch = ["batch", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--smooth", "flips"]
    assert main([*batch, "--pictures", "none"]) == 0
    line = json.loads((tmp_path / "out" / "stats.jsonl").read_text())
    assert line["smoothing"] == {"kind": "flips", "pictures": 2, "sigma": None, "seed": None}
    Image.open(CAT.with_name("scene.png")).save(tmp_path / "in" / "a.png")
    words = ["-m", "tiny-words", "--max-words", "9", "--pictures", "none", "--smooth", "flips"]
    assert main(["batch", str(tmp_path / "in"), "-o", str(tmp_path / "words"), *words]) == 0
    line = json.loads((tmp_path / "words" / "stats.jsonl").read_text())
    assert line["smoothing"]["kind"] == "flips"
    capfd.readouterr()
    assert main(["stats", str(CAT), "--smooth", "flips", "--method", "pca"]) == 2
    assert "the parts of pca differ" in capfd.readouterr().err
