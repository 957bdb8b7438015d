"""Models of sounds: what they are given, what is recorded, and where their tokens lie."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sounds
import torch
from numpy.typing import NDArray
from sounds import FRAMES, RATE, SECONDS, tone, transformers

import attnviz
from attnviz.errors import ModelError, UsageError
from attnviz.models.sound_measures import measured
from attnviz.output.make_record import make_record

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sounds.ast(tmp_path_factory.mktemp("models") / "ast")


def noise(path: Path, seconds: float = SECONDS) -> Path:
    samples = np.random.default_rng(3).uniform(-0.4, 0.4, round(seconds * RATE))
    return sounds.save(path, samples)


def filter_middles(filters: Array, rate: int) -> Array:
    """Mean frequency of each filter of an extractor, weighted by what it lets through."""
    frequencies = np.linspace(0, rate / 2, len(filters))
    total = filters.sum(0)
    nothing = np.full(len(total), np.nan)
    return np.asarray(np.divide(frequencies @ filters, total, nothing, where=total > 0))


# The extractor, the attribute with its filters, and the middle of its first window in samples.
EXTRACTORS: dict[str, tuple[str, dict[str, Any], str, float]] = {
    "ast": ("ASTFeatureExtractor", {"max_length": 256}, "mel_filters", 200),
    "whisper": ("WhisperFeatureExtractor", {"chunk_length": 4}, "mel_filters", 0),
    "clap": ("ClapFeatureExtractor", {"truncation": "rand_trunc"}, "mel_filters_slaney", 0),
}


@pytest.mark.parametrize("name", EXTRACTORS)
def test_axes_of_a_spectrogram_are_measured(name: str) -> None:
    kind, settings, attribute, middle = EXTRACTORS[name]
    made = sounds.extractor(kind, **settings)
    found = measured("x", made)
    hop = 480 if name == "clap" else 160
    assert found.step * found.rate == hop
    assert abs(found.start * found.rate - middle) < hop / 20
    assert (found.time_first, found.rising) == (name != "whisper", True)
    expected = filter_middles(np.asarray(getattr(made, attribute), dtype=np.float64), found.rate)
    known = np.isfinite(expected)
    rows = np.interp(found.hertz, np.maximum.accumulate(expected[known]), np.flatnonzero(known))
    # Low rows share a band of the Fourier transform with their neighbours.
    assert np.abs(rows - np.arange(len(rows)))[16:].max() < 0.5
    assert np.abs(rows - np.arange(len(rows))).max() < 1.5
    assert (np.diff(found.hertz) > 0).all()


def test_the_model_is_given_what_its_extractor_makes(folder: Path, tmp_path: Path) -> None:
    path = noise(tmp_path / "noise.wav", 0.8)
    model = attnviz.load_model(str(folder))
    picture = model.load(str(path))
    samples = np.frombuffer(path.read_bytes()[44:], "<i2") / np.float32(32768)
    made = sounds.extractor("ASTFeatureExtractor", max_length=FRAMES)
    expected = made(samples, sampling_rate=RATE, return_tensors="pt")["input_values"]
    module: Any = model.module
    given = module.arguments(model.pixels(picture, model.place(picture)))["input_values"]
    torch.testing.assert_close(given, expected, atol=1e-6, rtol=0)
    # 12 800 samples hold 78 whole windows of 400 samples, 160 apart.
    assert (picture.width, picture.height) == (78, 128)
    low, high = picture.range or (0, 0)
    grey = np.rint((expected[0, :78].numpy().T[::-1] - low) / (high - low) * 255)
    assert np.array_equal(picture.pixels[..., 0], grey)


def test_recorded_attention_is_that_of_the_eager_model(folder: Path, tmp_path: Path) -> None:
    model = attnviz.load_model(str(folder), head="class")
    picture = model.load(str(noise(tmp_path / "noise.wav")))
    observation = attnviz.observe(picture, model)
    eager = transformers.ASTForAudioClassification.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    module: Any = model.module
    pixels = model.pixels(picture, observation.placement)
    with torch.no_grad():
        output = eager(**module.arguments(pixels), output_attentions=True)
        torch.testing.assert_close(module(pixels), output.logits)
    assert model.labels == ("bark", "meow", "song")
    for number, weights in enumerate(output.attentions):
        found = observation.layers[number].call.matrix()
        assert float((found - weights).abs().max()) < 1e-5
        assert observation.errors[number] < 1e-5


def test_places_of_overlapping_patches_are_the_analytic_ones(folder: Path, tmp_path: Path) -> None:
    model = attnviz.load_model(str(folder))
    observation = attnviz.observe(model.load(str(noise(tmp_path / "noise.wav"))), model)
    layout = observation.layers[0].keys
    assert observation.layers[0].outside == (0, 1)  # class and distillation
    placed = observation.placed(layout)
    # Patches of 16x16, 10 apart; the model's rows begin at the lowest frequency, the picture's at
    # the highest.
    assert (layout.rows, layout.columns) == (12, 12)
    for token in (0, 11, 12, 143):
        row, column = divmod(token, 12)
        cell = divmod(int(layout.cells[0, 2 + token]), 12)
        middle = placed.middles()[0][cell[1]], placed.middles()[1][cell[0]]
        assert middle == pytest.approx((10 * column + 8, 128 - (10 * row + 8)))


@pytest.mark.parametrize("name", ["whisper", "clap"])
def test_other_encoders_of_spectrograms(name: str, tmp_path: Path) -> None:
    folder = getattr(sounds, name)(tmp_path / name)
    model = attnviz.load_model(str(folder))
    picture = model.load(str(noise(tmp_path / "noise.wav")))
    observation = attnviz.observe(picture, model)
    assert observation.calls.drawn == (0, 1)
    assert not observation.assumed
    assert max(observation.errors.values()) < 1e-5
    layout, placed = observation.layers[0].keys, observation.placed(observation.layers[0].keys)
    if name == "whisper":  # a token spans all frequencies and two frames
        assert (layout.rows, layout.columns) == (1, 100)
        assert placed.token_box(0, 7) == pytest.approx((14, 0, 16, 80))
        return
    # 1001 frames are resized to 1024, and patches are of 4x4 of these.
    assert (layout.rows, layout.columns) == (16, 256)
    width = 4 * 1001 / 1024
    assert placed.token_box(3, 7) == pytest.approx((7 * width, 12, 8 * width, 16), abs=0.02)


@pytest.mark.parametrize("name", ["whisper", "clap", "ast"])
def test_of_a_long_sound_the_beginning_is_seen(name: str, tmp_path: Path) -> None:
    """CLAP's extractor would take a random part."""
    model = attnviz.load_model(str(getattr(sounds, name)(tmp_path / name)))
    seconds = {"whisper": 2, "clap": 10, "ast": 1.29}[name]
    samples = np.random.default_rng(3).uniform(-0.4, 0.4, round(2 * seconds * RATE))
    start, whole = (
        model.load(str(sounds.save(tmp_path / f"{length}.wav", samples[:length])))
        for length in (round(seconds * RATE), len(samples))
    )
    assert start.features is not None
    assert whole.features is not None
    inner = np.s_[:, : start.width - 4]  # windows at the end reach beyond the shorter one
    np.testing.assert_allclose(start.features[inner], whole.features[inner], atol=1e-3)
    assert [note.kind for note in whole.notes][-1] == "long"
    assert "long" not in [note.kind for note in start.notes]


def test_a_place_in_a_sound_is_a_place_of_its_picture(folder: Path, tmp_path: Path) -> None:
    model = attnviz.load_model(str(folder))
    picture = model.load(str(noise(tmp_path / "noise.wav")))
    observation = attnviz.observe(picture, model)
    axes = picture.sound
    assert axes is not None
    x, y = axes.x(0.7), axes.y(2000)
    same = [attnviz.explain(observation, query=query) for query in ("0.7s,2000Hz", f"{x},{y}")]
    assert np.array_equal(same[0].maps, same[1].maps)
    assert str(same[0].query) == "0.7s,2000Hz"
    corners = f"{axes.x(0.2)},{axes.y(3000)},{axes.x(0.5)},{axes.y(500)}"
    boxes = [attnviz.explain(observation, query=q) for q in ("0.2s,500Hz,0.5s,3000Hz", corners)]
    np.testing.assert_allclose(boxes[0].maps, boxes[1].maps, atol=1e-7)
    for query, words in {
        "1.5s,100Hz": "lies outside of noise.wav, which is seen from 0 to 1.287 s",
        "0.5s,900Hz,0.6s,100Hz": "empty box",
    }.items():
        with pytest.raises(UsageError, match=words):
            attnviz.explain(observation, query=query)


@pytest.mark.parametrize(("at", "hertz"), [(0.28, 700.0), (0.683, 2600.0), (1.08, 5200.0)])
def test_a_tone_is_found_at_its_second_and_hertz(at: float, hertz: float, tmp_path: Path) -> None:
    """A model that looks at loud patches finds one to half a cell."""
    model = attnviz.load_model(str(sounds.loud(tmp_path / "loud")))
    picture = model.load(str(sounds.save(tmp_path / "tone.wav", tone(at, hertz))))
    found = attnviz.explain(attnviz.observe(picture, model), query="cls")
    peak = make_record(found).heads[0].map
    assert peak.peak_time == pytest.approx(at, abs=0.05)  # half a cell of ten frames
    made = sounds.extractor("ASTFeatureExtractor", max_length=FRAMES)
    middles = filter_middles(np.asarray(made.mel_filters, dtype=np.float64), RATE)
    bands = [int(np.nanargmin(np.abs(middles - f))) for f in (hertz, peak.peak_frequency or 0)]
    assert abs(bands[0] - bands[1]) <= 5  # half a cell of ten bands


def test_models_of_samples_are_refused(tmp_path: Path) -> None:
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=[16] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path)
    sounds.extractor("Wav2Vec2FeatureExtractor").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="takes the samples of a sound, and no spectrogram; give"):
        attnviz.load_model(str(tmp_path))


def test_a_model_without_its_extractor_says_so(tmp_path: Path) -> None:
    folder = sounds.ast(tmp_path / "ast", "ASTModel")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="save its feature extractor beside it"):
        attnviz.load_model(str(folder))
