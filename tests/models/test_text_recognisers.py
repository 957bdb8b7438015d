"""Readers of text lines, and MAE with hidden patches: weights are the eager ones, places are known.

Patches are 4 × 4 or 4 × 8 pixels; a decoder's queries are characters, which lie nowhere.
"""

from pathlib import Path
from typing import Any

import eager
import numpy as np
import pictures
import pytest
import torch
from torch import Tensor, nn

import attnviz

transformers: Any = pytest.importorskip("transformers")
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def places_of(call: attnviz.AttentionCall) -> Tensor:
    """Places of a call's keys but the first, of one window."""
    assert call.key_positions is not None
    return call.key_positions[0, 1:]


def middles(rows: int, columns: int, tall: float, wide: float) -> Tensor:
    """Centres of the cells of a grid as x, y, row by row."""
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    return torch.stack([wide * x.flatten(), tall * y.flatten()], 1)


def test_mgp_str_equals_its_eager_attention(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = {**SMALL, "max_token_length": 7, "num_character_labels": 12}
    config = transformers.MgpstrConfig(**settings, num_bpe_labels=9, num_wordpiece_labels=9)
    transformers.MgpstrForSceneTextRecognition(config).save_pretrained(tmp_path)
    pictures.noise(128, 32).save(tmp_path / "line.png")
    model = attnviz.load_model(str(tmp_path))
    seen = attnviz.observe(attnviz.load_image(tmp_path / "line.png"), model)
    assert seen.calls.not_drawn == {}
    kind = transformers.MgpstrForSceneTextRecognition
    own = kind.from_pretrained(tmp_path, attn_implementation="eager")
    pixels = model.pixels(seen.picture, seen.placement)
    with torch.no_grad():
        found = own(pixels, output_attentions=True, output_a3_attentions=True)
    for number, weights in enumerate([*found.attentions, *found.a3_attentions]):
        call = seen.layers[number].call
        torch.testing.assert_close(call.matrix().reshape(weights.shape), weights, atol=1e-5, rtol=0)
        torch.testing.assert_close(places_of(call), middles(8, 32, 4, 4))


class Parseq(nn.Module):
    """PARSeq (2207.06966): a plain encoder; characters ask the text before them and the picture."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.img_size = (32, 128)
        self.embed = nn.Conv2d(3, width, (4, 8), (4, 8))
        self.pos_embed = nn.Parameter(0.3 * torch.randn(1, 128, width))
        layer = nn.TransformerEncoderLayer(width, 4, 64, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.characters = nn.Parameter(torch.randn(1, 5, width))
        self.text = nn.Parameter(torch.randn(1, 5, width))
        self.of_text = nn.MultiheadAttention(width, 4, batch_first=True)
        self.of_picture = nn.MultiheadAttention(width, 4, batch_first=True)
        self.head = nn.Linear(width, 10)

    def memory(self, pixels: Tensor) -> Tensor:
        x: Tensor = self.embed(pixels).flatten(2).mT + self.pos_embed
        return self.encoder(x)  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor) -> Tensor:
        memory = self.memory(pixels)
        asks = self.characters.expand(len(pixels), -1, -1)
        text = self.text.expand(len(pixels), -1, -1)
        asks = asks + self.of_text(asks, text, text)[0]
        asks = asks + self.of_picture(asks, memory, memory)[0]
        return self.head(asks)  # type: ignore[no-any-return]


def test_characters_of_a_reader_like_parseq_look_where_a_softmax_by_hand_says() -> None:
    model, pixels = Parseq().eval(), torch.randn(1, 3, 32, 128)
    with torch.no_grad(), attnviz.record(picture=pixels) as recording:
        model(pixels)
    assert len(recording) == 4  # two of the encoder, of text, of the picture
    memory = model.memory(pixels)
    asks = model.characters + model.of_text(model.characters, model.text, model.text)[0]
    _, weights = model.of_picture(asks, memory, memory, average_attn_weights=False)
    torch.testing.assert_close(recording[3].matrix(), weights, atol=1e-5, rtol=0)
    torch.testing.assert_close(recording[3].key_positions, middles(8, 16, 4, 8)[None])
    assert recording[3].query_positions is None or recording[3].query_positions.isnan().all()
    x = model.embed(pixels).flatten(2).mT + model.pos_embed
    for number, layer in enumerate(model.encoder.layers):
        part = layer.self_attn
        q, k, _ = (x @ part.in_proj_weight.mT + part.in_proj_bias).chunk(3, -1)
        q, k = (each.view(1, 128, 4, 8).transpose(1, 2) for each in (q, k))
        by_hand = (q @ k.mT / 8**0.5).softmax(-1)
        torch.testing.assert_close(recording[number].matrix(), by_hand, atol=1e-5, rtol=0)
        torch.testing.assert_close(recording[number].key_positions, middles(8, 16, 4, 8)[None])
        x = layer(x)
    assert eager.attend(model.of_picture, asks, memory, memory).shape == asks.shape


MAE = """
import torch
import transformers

SETTINGS = dict(
    image_size=64, patch_size=16, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=64, decoder_hidden_size=32, decoder_num_attention_heads=2,
    decoder_num_hidden_layers=1, decoder_intermediate_size=32, mask_ratio=0.75,
)


def mae():
    torch.manual_seed(0)
    return transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**SETTINGS))
"""


def test_of_a_model_that_hides_patches_the_visible_ones_lie_at_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder sees four of sixteen patches; the decoder has all, of which twelve are masks."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(MAE, encoding="utf-8")
    pictures.noise(64, 64).save("noise.png")
    seen = attnviz.observe(attnviz.load_image("noise.png"), attnviz.load_model("py:nets.py:mae"))
    assert seen.calls.not_drawn == {}
    net: Any = seen.model.module
    net = getattr(net, "module", net)
    torch.manual_seed(0)
    pixels, noise = seen.model.pixels(seen.picture, seen.placement), torch.rand(1, 16)
    with torch.no_grad(), attnviz.record(picture=pixels) as recording:
        net(pixels, noise=noise)
    visible = noise.argsort(1)[0, :4]
    torch.testing.assert_close(places_of(recording[0]), middles(4, 4, 16, 16)[visible])
    shown = places_of(recording[2])  # in the picture's order again
    assert shown.isfinite().all(1).nonzero()[:, 0].tolist() == sorted(visible.tolist())
    for answer in attnviz.explain(seen, layers="all", query="cls").answers:
        places = places_of(seen.layers[answer.layer].call).numpy()
        inside = np.isfinite(places).all(1)
        cells = (places[inside, 1] // 16 * 4 + places[inside, 0] // 16).astype(int)
        assert len(cells) == 4
        assert np.flatnonzero(answer.drawn.ravel()).tolist() == sorted(cells.tolist())
        row = seen.layers[answer.layer].call.matrix()[0, answer.head, 0, 1:].numpy()[inside]
        np.testing.assert_allclose(answer.values.ravel()[cells], row, atol=1e-6)
