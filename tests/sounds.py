"""Sounds, and models of sounds built from configs with their own feature extractors."""

import warnings
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

transformers: Any = pytest.importorskip("transformers")
Samples = NDArray[np.float64]
RATE, SECONDS, FRAMES = 16_000, 1.3, 128
"""Rate of the models, and a length that fills their 128 frames of 10 ms."""
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "max_length": FRAMES}  # fmt: skip


def tone(at: float, hertz: float, *, lasts: float = 0.1, seconds: float = SECONDS) -> Samples:
    """A tone with its middle at a time, soft at both ends, in an otherwise silent sound."""
    time = np.arange(round(seconds * RATE)) / RATE
    inside = np.abs(time - at) < lasts / 2
    shape = np.where(inside, np.cos(np.pi * (time - at) / lasts) ** 2, 0)
    return np.asarray(0.5 * shape * np.sin(2 * np.pi * hertz * time))


def save(path: Path, samples: Samples, rate: int = RATE) -> Path:
    """Samples, (samples,) or (samples, channels), as a WAV of 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return path


def extractor(name: str, **settings: Any) -> Any:
    """A feature extractor of transformers, whose empty filters need no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, name)(**settings)


def ast(folder: Path, kind: str = "ASTForAudioClassification", **settings: Any) -> Path:
    """An Audio Spectrogram Transformer with random weights, and its feature extractor."""
    labels = dict(enumerate(("bark", "meow", "song")))
    config = transformers.ASTConfig(**SMALL, id2label=labels, **settings)
    torch.manual_seed(0)
    getattr(transformers, kind)(config).save_pretrained(folder)
    extractor("ASTFeatureExtractor", max_length=FRAMES).save_pretrained(folder)
    return folder


def loud(folder: Path) -> Path:
    """An AST of one layer whose every token looks at the loudest patch."""
    config = transformers.ASTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_length=FRAMES,
    )  # fmt: skip
    model = transformers.ASTModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "layernorm" in name and name.endswith("weight") else 0.0)
        weights = model.state_dict()
        # Feature 0 of a token is the mean of its patch; 1 is constant, so that the norm keeps it.
        weights["embeddings.patch_embeddings.projection.weight"][0] = 1 / 256
        weights["embeddings.patch_embeddings.projection.bias"][1] = -8.0
        weights["layers.0.attention.q_proj.bias"].fill_(1.0)
        weights["layers.0.attention.k_proj.weight"][:, 0] = 200.0
    model.save_pretrained(folder)
    extractor("ASTFeatureExtractor", max_length=FRAMES).save_pretrained(folder)
    return folder


def whisper(folder: Path) -> Path:
    """A Whisper with random weights, for sounds of two seconds."""
    of_each = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}
    sizes = {f"{part}_{n}": v for part in ("encoder", "decoder") for n, v in of_each.items()}
    config = transformers.WhisperConfig(
        d_model=32, max_source_positions=100, vocab_size=50, pad_token_id=1, bos_token_id=1,
        eos_token_id=1, decoder_start_token_id=1, **sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
    extractor("WhisperFeatureExtractor", chunk_length=2).save_pretrained(folder)
    return folder


def clap(folder: Path) -> Path:
    """A CLAP with random weights: its audio tower folds the spectrogram into a square."""
    audio = {"hidden_size": 64, "patch_embeds_hidden_size": 16, "depths": [1, 1],
             "num_attention_heads": [2, 4], "num_hidden_layers": 2, "window_size": 8}  # fmt: skip
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "vocab_size": 50}  # fmt: skip
    torch.manual_seed(0)
    config = transformers.ClapConfig(audio_config=audio, text_config=text)
    transformers.ClapModel(config).save_pretrained(folder)
    extractor("ClapFeatureExtractor", truncation="rand_trunc").save_pretrained(folder)
    return folder
