# mypy: disable-error-code="no-untyped-call,no-any-return"
"""Detectors, segmenters and models with words of transformers, built small: calls against eager.

A model run with `attn_implementation="eager"` and `output_attentions=True` returns its weights.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import detectors
import numpy as np
import pictures
import pytest
import torch
from PIL import Image
from torch import Tensor

import attnviz
from attnviz.errors import UsageError
from attnviz.recording import Recording

transformers = pytest.importorskip("transformers")

MODELS: dict[str, Callable[[], Any]] = {
    name: partial(detectors.FAMILIES[name].build, transformers)
    for name in ("DETR", "Conditional DETR", "DAB-DETR", "Deformable DETR", "RT-DETR", "D-FINE")
}
deformable = partial(detectors.deformable, transformers)
rt_detr = partial(detectors.rt_detr, transformers)


def run(model: Any, **inputs: Any) -> tuple[Recording, Any]:
    model.eval().set_attn_implementation("eager")
    picture = inputs["pixel_values"]
    picture = picture if picture.ndim == 4 else None
    with torch.no_grad(), attnviz.record(picture=picture) as recording:
        output = model(**inputs, output_attentions=True)
    return recording, output


def laid(call: attnviz.AttentionCall, weights: Tensor) -> Tensor:
    """(B, H, N, M), or (B, N, H, levels, points) as a window for each query."""
    return weights if call.kind != "sampled" else weights.flatten(3).flatten(0, 1)[:, :, None]


def decoder(self_attention: Iterable[Tensor], cross: Iterable[Tensor]) -> list[Tensor]:
    return [each for pair in zip(self_attention, cross, strict=True) for each in pair]


@pytest.mark.parametrize("name", MODELS)
def test_every_call_of_a_detector_has_the_eager_weights(name: str) -> None:
    torch.manual_seed(0)
    recording, output = run(MODELS[name](), pixel_values=torch.randn(1, 3, 64, 96))
    pieces = decoder(output.decoder_attentions, output.cross_attentions)
    expected = [*output.encoder_attentions, *pieces]
    assert recording.unread == []
    assert len(recording) == len(expected)
    for call, weights in zip(recording, expected, strict=True):
        torch.testing.assert_close(call.matrix(), laid(call, weights), atol=1e-5, rtol=0)
        assert (call.check() or 0) < 1e-5


@pytest.mark.parametrize("size", [(64, 96), (224, 224)])
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("RT-DETR", "D-FINE")])
def test_object_queries_lie_nowhere(name: str, size: tuple[int, int]) -> None:
    """Those of RT-DETR and D-FINE are tokens of their encoders, which they pick."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    x = torch.randn(1, 3, *size)
    with torch.no_grad(), attnviz.record(picture=x) as recording:
        model(pixel_values=x)
    objects = [call for call in recording if call.query.shape[2] == 5 or len(call.query) == 5]
    assert len(objects) == 4
    for call in objects:
        places = call.query_positions
        assert places is None or bool(places.isnan().all())


@pytest.mark.parametrize("two_stage", [False, True])
def test_objects_that_are_picked_among_tokens_keep_the_places_of_these(two_stage: bool) -> None:
    """As any token that is picked: RT-DETR, and Deformable DETR of two stages."""
    torch.manual_seed(0)
    more = {"two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 5}
    model = (deformable(**more) if two_stage else rt_detr("RTDetr")).eval()
    with torch.no_grad(), attnviz.record(picture=(x := torch.randn(1, 3, 64, 96))) as recording:
        model(pixel_values=x)
    objects = [call for call in recording if call.shape[2:] == (5, 5)]
    assert len(objects) == 2
    for call in objects:
        places = call.query_positions
        assert places is not None
        steps = (places[0] - places[0, 0]) / 8  # all levels are multiples of the finest
        torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
        torch.testing.assert_close(call.key_positions, places)


@pytest.mark.parametrize("two_stage", [False, True])
def test_where_objects_are_predicted_they_lie_nowhere(tmp_path: Path, two_stage: bool) -> None:
    """Also those that were picked among tokens; attention among them is not drawn, by name."""
    torch.manual_seed(0)
    more = {"two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 5}
    (deformable(**more) if two_stage else rt_detr("RTDetr")).save_pretrained(tmp_path)
    model = attnviz.load_model(str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    picture = attnviz.Picture("noise.png", pixels)
    seen = attnviz.observe(picture, model, fit="squash")
    assert len(seen.objects) == 5
    among = {n: why for n, why in seen.calls.not_drawn.items() if "among objects" in why}
    assert len(among) == 2
    of_objects = [layer for layer in seen.layers.values() if layer.objects]
    assert len(of_objects) == 2
    assert not any(layer.queries.on_picture.any() for layer in of_objects)
    assert all(layer.keys.on_picture.any() for layer in of_objects)
    with pytest.raises(UsageError, match="among objects, which lie nowhere"):
        attnviz.observe(picture, model, fit="squash", layers=str(min(among)))


def test_the_layers_of_deformable_detr_are_drawn(tmp_path: Path) -> None:
    """From a place: the points of the token of the finest level; of objects an average."""
    torch.manual_seed(0)
    deformable().save_pretrained(tmp_path)
    model = attnviz.load_model(str(tmp_path))
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    seen = attnviz.observe(attnviz.load_image(tmp_path / "picture.png"), model, fit="squash")
    assert sorted(seen.layers) == [0, 1, 3, 5]  # 2 and 4 are between objects
    assert seen.unexplained == ()
    grid, tokens, call = seen.placement.grid, seen.layers[0].queries, seen.layers[0].call
    assert (tokens.rows, tokens.columns) == (grid.input_height // 8, grid.input_width // 8)
    found = attnviz.explain(seen, query="44,20", layers="0")
    x, y = seen.placement.to_input(44.5, 20.5)
    numbers = np.nonzero(tokens.cells[:, 0] == y // 8 * tokens.columns + x // 8)[0].tolist()
    assert numbers[0] < tokens.rows * tokens.columns  # of the finest level
    assert call.points is not None
    for answer in found.answers:
        assert answer.head is not None
        places = call.points[numbers, answer.head].reshape(-1, 2)
        expected = {tuple(place) for place in places.tolist() if place[0] == place[0]}
        assert {(point.x, point.y) for point in answer.points} == expected
        levels = {point.level for point in answer.points}
        assert levels <= {0, 1, 2}
        inside = sum(point.weight for point in answer.points)
        assert answer.values.sum() == pytest.approx(inside, abs=1e-5)
    objects = attnviz.explain(seen, query="pool", layers="5")
    assert objects.query.kind == "pool"
    assert all(not answer.points or len(answer.points) <= 5 * 12 for answer in objects.answers)


def test_masked_attention_and_deformable_attention_of_mask2former_are_recorded() -> None:
    torch.manual_seed(0)
    model = detectors.mask2former(transformers)
    recording, output = run(model, pixel_values=torch.randn(1, 3, 64, 96))
    assert [call.kind for call in recording[:6]] == ["softmax"] * 4 + ["sampled"] * 2
    for call, weights in zip(recording[7::2], output.attentions, strict=True):
        torch.testing.assert_close(call.matrix(), weights, atol=1e-5, rtol=0)
        assert call.query_positions is not None
        assert bool(call.query_positions.isnan().all())
    assert max(call.check() or 0 for call in recording) < 1e-5
    assert recording.unread == []


def test_every_softmax_of_oneformer_is_recorded_and_its_objects_lie_nowhere() -> None:
    torch.manual_seed(0)
    config = transformers.OneFormerConfig(
        backbone_config=detectors.swin(transformers), hidden_dim=32, mask_dim=32, conv_dim=32,
        num_queries=6,
        encoder_feedforward_dim=32, dim_feedforward=32, encoder_layers=2, decoder_layers=3,
        query_dec_layers=2, num_attention_heads=4, task_seq_len=7, is_training=False,
        use_pretrained_backbone=False,
    )  # fmt: skip
    recording, output = run(
        transformers.OneFormerForUniversalSegmentation(config),
        pixel_values=torch.randn(1, 3, 64, 96),
        task_inputs=torch.randint(0, 50, (1, 7)),
    )
    assert recording.unread == []
    assert [call.kind for call in recording[:6]] == ["softmax"] * 4 + ["sampled"] * 2
    assert max(call.check() or 0 for call in recording) < 1e-5
    for call in recording[6:]:  # two blocks that make queries of the picture, two that decode them
        assert call.query_positions is None or bool(call.query_positions.isnan().all())
    # Each layer returns its self-attention, then its cross-attention, which ran before.
    expected = [weights for layer in output.attentions for weights in reversed(layer)]
    for call, weights in zip(recording[10:], expected, strict=True):
        found = call.matrix() if weights.ndim == 4 else call.matrix().mean(1)
        torch.testing.assert_close(found, weights, atol=1e-5, rtol=0)


def shuffled(picture: Tensor) -> Tensor:
    """Patches of 8 pixels, twice in time, as Qwen2-VL's processor lays them: 2×2 after 2×2."""
    _, c, h, w = picture.shape
    x = picture[:, None].expand(1, 2, c, h, w)
    x = x.reshape(2, c, h // 16, 2, 8, w // 16, 2, 8).permute(2, 5, 3, 6, 1, 0, 4, 7)
    return x.reshape(h * w // 64, c * 2 * 8 * 8)


def test_flat_patches_in_an_order_of_their_own_have_their_places() -> None:
    torch.manual_seed(0)
    config = transformers.Qwen2_5_VLConfig(vision_config={
        "depth": 2, "hidden_size": 16, "out_hidden_size": 16, "num_heads": 2,
        "intermediate_size": 32, "patch_size": 8, "window_size": 32, "fullatt_block_indexes": [1],
    }).vision_config  # fmt: skip
    tower = transformers.models.qwen2_5_vl.modeling_qwen2_5_vl
    model = tower.Qwen2_5_VisionTransformerPretrainedModel(config).eval()
    picture = torch.randn(1, 3, 32, 48)
    with torch.no_grad(), attnviz.record(picture=picture) as recording:
        model(shuffled(picture), grid_thw=torch.tensor([[1, 4, 6]]))
    corner = torch.tensor([[4.0, 4.0], [12.0, 4.0], [4.0, 12.0], [12.0, 12.0]])
    blocks = [(0, 0), (16, 0), (0, 16), (16, 16), (32, 0), (32, 16)]  # a window of 32, another
    places = torch.cat([corner + torch.tensor(block) for block in blocks])
    assert [call.shape[2] for call in recording] == [16, 8, 24]
    for call, expected in zip(recording, (places[:16], places[16:], places), strict=True):
        assert call.query_positions is not None
        torch.testing.assert_close(call.query_positions[0], expected)
        torch.testing.assert_close(call.key_positions, call.query_positions)
        assert (call.check() or 0) < 1e-5


WORDS = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip


def test_gemma_3_has_the_eager_weights() -> None:
    torch.manual_seed(0)
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=WORDS | {"head_dim": 8, "sliding_window": 8}, vision_config=vision,
        mm_tokens_per_image=4, image_token_index=63, boi_token_index=61, eoi_token_index=62,
    )  # fmt: skip
    words = torch.tensor([[5, 61, 63, 63, 63, 63, 62, 7, 8, 9]])
    recording, output = run(
        transformers.Gemma3ForConditionalGeneration(config),
        pixel_values=torch.randn(1, 3, 32, 32),
        input_ids=words,
        token_type_ids=(words == 63).long(),
    )
    assert recording.unread == []
    found = recording[len(recording) - len(output.attentions) :]
    for call, weights in zip(found, output.attentions, strict=True):
        torch.testing.assert_close(call.matrix(), weights, atol=1e-5, rtol=0)
    assert max(call.check() or 0 for call in recording) < 1e-5


def test_mllama_has_the_eager_weights() -> None:
    torch.manual_seed(0)
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_global_layers": 1, "attention_heads": 4, "image_size": 32, "patch_size": 8,
        "max_num_tiles": 1, "vision_output_dim": 64, "intermediate_layers_indices": [0],
        "supported_aspect_ratios": [[1, 1]],
    }  # fmt: skip
    text = WORDS | {"cross_attention_layers": [1], "rope_parameters": {"rope_type": "default"}}
    config = transformers.MllamaConfig(vision_config=vision, text_config=text, image_token_index=63)
    recording, output = run(
        transformers.MllamaForConditionalGeneration(config),
        pixel_values=torch.randn(1, 1, 1, 3, 32, 32),
        aspect_ratio_ids=torch.ones(1, 1, dtype=torch.long),
        aspect_ratio_mask=torch.ones(1, 1, 1, dtype=torch.long),
        input_ids=torch.tensor([[63, 5, 7, 8]]),
        cross_attention_mask=torch.ones(1, 4, 1, 1, dtype=torch.long),
    )
    assert recording.unread == []
    found = recording[len(recording) - len(output.attentions) :]
    for call, weights in zip(found, output.attentions, strict=True):
        torch.testing.assert_close(call.matrix(), weights, atol=1e-5, rtol=0)
    assert max(call.check() or 0 for call in recording) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_detector_is_loaded_as_what_it_is(name: str, tmp_path: Path) -> None:
    """RT-DETR's and D-FINE's boxes are refined within the decoder: its heads are parts of it."""
    torch.manual_seed(0)
    own = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    own.save_pretrained(tmp_path / "model")
    pictures.noise(96, 64).save(tmp_path / "noise.png")
    model = attnviz.load_model(str(tmp_path / "model"))
    picture = attnviz.load_image(tmp_path / "noise.png")
    seen = attnviz.observe(picture, model)
    assert max(seen.errors.values()) < 1e-4
    assert attnviz.explain(seen, layers="all").answers
    with torch.no_grad():
        expected = own(pixel_values=(x := model.pixels(picture, seen.placement)))
        torch.testing.assert_close(model.module(x), expected.last_hidden_state)
