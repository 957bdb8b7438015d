"""Rollout and relevance of words through language model, projector and encoder, by oracles."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from word_checks import PROMPT, picture_of, prompt_of
from word_models import deepseek_vl_hybrid, florence2, idefics3, llava, mllama, trocr
from word_oracle import ANSWER, answered_by, eager, relevance_of, step, weights_of

import attnviz
from attnviz.attribution import propagate
from attnviz.errors import RecordingError, UsageError
from attnviz.explanation.explanation import Explanation
from attnviz.explanation.score_gradients import score_of
from attnviz.io.picture import Picture
from attnviz.models.model import Model

WIDE = picture_of(480, 320)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Path]:
    made: dict[str, Path] = {}

    def of(family: Any) -> Path:
        name = family.__name__
        if name not in made:
            made[name] = tmp_path_factory.mktemp("beyond") / name
            family(made[name])
            _open_gates(made[name])
        return made[name]

    return of


def _open_gates(folder: Path) -> None:
    """Gates of attention across that are closed before training let words see the picture."""
    import safetensors.torch  # noqa: PLC0415 — tests of words have it

    path = folder / "model.safetensors"
    state = safetensors.torch.load_file(path)
    state |= {name: each + 0.5 for name, each in state.items() if name.endswith("_gate")}
    safetensors.torch.save_file(state, path, metadata={"format": "pt"})


def explained(model: Model, picture: Picture, prompt: str, method: str, **more: Any) -> Explanation:
    gradients = method != "rollout"
    seen = attnviz.observe(picture, model, prompt=prompt, answer=ANSWER, gradients=gradients)
    return attnviz.explain(seen, query="word:red", method=method, **more)


def _inside(model: Model) -> Any:
    """Its module, of whose parts only the test knows."""
    return model.module


def rows_of(found: Explanation) -> list[int]:
    """The positions that predict the word, from the end of the sequence."""
    text = found.observation.text
    assert text is not None
    return [row - text.tokens for row in found.query.tokens]


def agrees(found: Explanation, truth: Tensor, within: float = 1e-5) -> None:
    mine = torch.from_numpy(found.maps.reshape(truth.shape)).double()
    assert float(truth.abs().max()) > 0
    torch.testing.assert_close(mine, truth, rtol=0, atol=within * float(truth.abs().max()))


def test_rollout_goes_through_the_encoder_of_llava(folders: Any) -> None:
    """The words see the tokens before the encoder's last block, without the class token."""
    model = attnviz.load_model(str(folders(llava)), head="words")
    found = explained(model, WIDE, PROMPT, "rollout")
    answered = answered_by(model, WIDE, PROMPT)
    first, _, *language = weights_of(eager(model, folders(llava)), answered)
    rows = rows_of(found)
    row = step(language[2])[0][rows].mean(0) @ step(language[1])[0] @ step(language[0])[0]
    places = (answered.arguments["input_ids"][0] == _inside(model).config.image_token_id).nonzero()
    truth = row[places[:, 0]] @ step(first)[0, 1:]
    agrees(found, truth[1:].view(6, 6))


def test_rollout_shares_merged_tokens_out(folders: Any) -> None:
    """Idefics 3: four patches of a tile to a token; four tiles and the whole picture."""
    model = attnviz.load_model(str(folders(idefics3)), head="words")
    found = explained(model, WIDE, PROMPT, "rollout", layers="1")
    answered = answered_by(model, WIDE, PROMPT)
    one, two, *language = weights_of(eager(model, folders(idefics3)), answered)
    row = step(language[1])[0][rows_of(found)].mean(0) @ step(language[0])[0]
    places = (answered.arguments["input_ids"][0] == _inside(model).config.image_token_id).nonzero()
    merged = row[places[:, 0]].view(5, 4, 4)
    patches = merged.repeat_interleave(2, 1).repeat_interleave(2, 2) / 4  # (tiles, 8, 8)
    tiles = torch.einsum("tn,tnm->tm", patches.flatten(1), step(two) @ step(one)).view(5, 8, 8)
    agrees(found, _joined(tiles), 1e-4)  # where the tiles lie is measured through the processor


def test_rollout_goes_across_to_an_encoder(folders: Any) -> None:
    """TrOCR: words attend to words, then across; both keep a half of the words' row."""
    model = attnviz.load_model(str(folders(trocr)), head="words")
    found = explained(model, WIDE, prompt_of(folders(trocr)), "rollout")
    answered = answered_by(model, WIDE, "")
    first, second, *decoder = weights_of(eager(model, folders(trocr)), answered)
    row = torch.zeros(decoder[0].shape[-1], dtype=torch.float64)
    rows = rows_of(found)
    row[rows] = 1 / len(rows)
    seen = torch.zeros(first.shape[-1], dtype=torch.float64)
    for own, across in reversed(list(zip(decoder[::2], decoder[1::2], strict=True))):
        seen = seen + row @ across[0] / 2
        row = row / 2 @ step(own)[0]
    truth = seen @ step(second)[0] @ step(first)[0]
    agrees(found, truth[1:].view(4, 4))


def _llava_block(module: Any) -> Any:
    tower = module.model.vision_tower
    return getattr(tower, "vision_model", tower).encoder.layers[0]


def _joined(tiles: Tensor) -> Tensor:
    """Four tiles of the picture side by side, and the whole picture spread over them."""
    whole = tiles[4].repeat_interleave(2, 0).repeat_interleave(2, 1) / 4
    rows = [torch.cat([tiles[0], tiles[1]], 1), torch.cat([tiles[2], tiles[3]], 1)]
    return torch.cat(rows) + whole


def _in_blocks(pixels: Tensor, rows: int, columns: int) -> Tensor:
    """Sums over blocks of a picture (3, h, w)."""
    _, height, width = pixels.shape
    return pixels.sum(0).view(rows, height // rows, columns, width // columns).sum((1, 3))


CASES = {
    "llava": (llava, WIDE, _llava_block, 6, 1),
    "mllama": (
        mllama, picture_of(56, 56), lambda m: m.model.vision_model.transformer.layers[0], 4, 1,
    ),
    "trocr": (trocr, WIDE, lambda m: m.encoder.layers[0], 4, 1),
}  # fmt: skip


@pytest.mark.parametrize("at", ["tokens", "pixels"])
@pytest.mark.parametrize("name", list(CASES))
def test_attnlrp_goes_back_to_the_picture(folders: Any, name: str, at: str) -> None:
    family, picture, block, cells, before = CASES[name]
    folder = folders(family)
    model = attnviz.load_model(str(folder), head="words")
    found = explained(model, picture, prompt_of(folder), "attnlrp", at=at)
    answered = answered_by(model, picture, prompt_of(folder))
    module, rows = eager(model, folder), rows_of(found)
    relevance = relevance_of(module, answered, block(module), rows, pixels=at == "pixels")
    if at == "pixels":
        truth = _in_blocks(relevance.reshape(-1, *relevance.shape[-3:])[0], cells, cells)
    else:
        tokens = relevance.sum(-1).flatten()[before : before + cells**2]
        truth = tokens.view(cells, cells)
    agrees(found, truth)


@pytest.mark.parametrize("at", ["tokens", "pixels"])
def test_attnlrp_of_tiles_is_put_together(folders: Any, at: str) -> None:
    """Idefics 3: a pixel shuffle, four tiles and the whole picture."""
    folder = folders(idefics3)
    model = attnviz.load_model(str(folder), head="words")
    found = explained(model, picture_of(60, 60), PROMPT, "attnlrp", at=at)
    answered = answered_by(model, picture_of(60, 60), PROMPT)
    module = eager(model, folder)
    block = module.model.vision_model.encoder.layers[0]
    relevance = relevance_of(module, answered, block, rows_of(found), pixels=at == "pixels")
    if at == "tokens":
        truth = _joined(relevance.sum(-1).view(5, 8, 8))
    else:
        tiles = torch.stack([_in_blocks(each, 8, 8) for each in relevance[0]])
        tiles[4] = 0
        truth = _joined(tiles) + _in_blocks(relevance[0, 4], 16, 16)
    agrees(found, truth, 1e-3 if at == "tokens" else 1e-5)


def test_attnlrp_of_the_embedded_model() -> None:
    """tiny-words: the tokens before its first block and after its last, both of which it reads."""
    picture = attnviz.load_image("sample_images/scene.png")
    model = attnviz.load_model("tiny-words")
    answer = "a black mug left of an orange bird"
    seen = attnviz.observe(picture, model, answer=answer, gradients=True)
    found = attnviz.explain(seen, query="word:bird", method="attnlrp")
    answered = answered_by(model, picture, "", answer)
    module: Any = attnviz.load_model("tiny-words").module.double()
    block = module.vision.blocks[0]
    relevance = relevance_of(module, answered, block, rows_of(found), pixels=False)
    agrees(found, relevance.sum(-1)[0, 5:].view(found.maps.shape[-2:]))


def test_relevance_of_picture_and_words_sums_to_the_logit(folders: Any) -> None:
    """Without biases, and with weights of attention as constants, nothing is lost on the way."""
    model = attnviz.load_model(str(folders(llava)), head="words")
    for name, each in model.module.named_parameters():
        if name.endswith("bias"):
            each.data.zero_()
    entering: list[Tensor] = []
    first = _inside(model).model.language_model.layers[0]
    hook = first.register_forward_pre_hook(lambda _, given: entering.append(given[0]))
    seen = attnviz.observe(WIDE, model, prompt=PROMPT, answer=ANSWER, gradients=True)
    hook.remove()
    found = attnviz.explain(seen, query="word:red", method="attnlrp", rule="cp")
    target = found.questions[0].target
    assert target is not None
    assert seen.run is not None
    score = score_of(seen, seen.run.output, target.target).value
    of_all = propagate(score, entering[-1], rule="cp")[0]
    torch.testing.assert_close(of_all.sum(), score.detach(), rtol=1e-4, atol=0)
    assert seen.run.seen is not None
    assert seen.run.seen.tokens is not None
    of_tokens = propagate(score, seen.run.seen.tokens, rule="cp")
    of_picture = of_all[seen.layers[0].keys.on_picture[0]].sum()
    torch.testing.assert_close(of_tokens.sum(), of_picture, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_asked_is_told(folders: Any) -> None:
    model = attnviz.load_model(str(folders(llava)), head="words")
    seen = attnviz.observe(WIDE, model, prompt=PROMPT, answer=ANSWER, gradients=True)
    with pytest.raises(UsageError, match=r"through all of the model; leave --layers out \(2 is"):
        attnviz.explain(seen, method="attnlrp", layers="1")
    with pytest.raises(UsageError, match="begins with the picture; leave --start-layer out"):
        attnviz.explain(seen, method="attnlrp", start_layer=1)
    with pytest.raises(UsageError, match="runs the model on parts of the picture"):
        attnviz.explain(seen, method="integrated-gradients")
    found = attnviz.explain(seen, method="rollout", start_layer=1)
    assert found.maps.shape[-2:] == (6, 6)
    assert not np.allclose(found.maps, attnviz.explain(seen, method="rollout").maps)


def test_what_an_encoder_does_not_allow_is_told(tmp_path: Path) -> None:
    """Florence-2's attends over channels, in blocks of pictures; DeepSeek-VL hybrid has two."""
    florence2(tmp_path / "florence2")
    deepseek_vl_hybrid(tmp_path / "deepseek")
    model = attnviz.load_model(str(tmp_path / "florence2"), head="words")
    with pytest.raises(
        RecordingError, match=r"no place of the picture \(channels\); take --method"
    ):
        explained(model, WIDE, PROMPT, "rollout")
    with pytest.raises(RecordingError, match="it is no stack of blocks; take --at pixels"):
        explained(model, WIDE, PROMPT, "attnlrp")
    assert np.abs(explained(model, WIDE, PROMPT, "attnlrp", at="pixels").maps).max() > 0
    model = attnviz.load_model(str(tmp_path / "deepseek"), head="words")
    for method in ("rollout", "attnlrp"):
        with pytest.raises(UsageError, match="has 2 encoders of the picture"):
            explained(model, WIDE, PROMPT, method)


def test_rollout_takes_the_maximum_of_heads_and_leaves_small_weights_out(folders: Any) -> None:
    model = attnviz.load_model(str(folders(llava)), head="words")
    seen = attnviz.observe(WIDE, model, prompt=PROMPT, answer=ANSWER)
    found = attnviz.explain(seen, query="word:red", method="rollout", fusion="max", discard=0.5)
    run = seen.whole_run()
    numbers = [*run.behind(run.language[-1]), run.language[-1]]
    rows = list(found.query.tokens)
    state = None
    for number in reversed(numbers):
        matrix = run.recording[number].matrix()[0].double().amax(0)
        least = matrix.flatten().sort().values[matrix.numel() // 2]
        kept = matrix.clone()
        kept[matrix < least] = 0
        kept[0, 0] = matrix[0, 0]  # the class token's own entry, or that of the first word
        full = kept + torch.eye(len(kept))
        full = full / full.sum(-1, keepdim=True)
        if state is None:
            state = full[rows].mean(0)
        elif len(full) == len(state):
            state = state @ full
        else:  # the tower, whose class token words do not see
            state = torch.cat([torch.zeros(1), state[seen.layers[0].keys.on_picture[0]]]) @ full
    assert state is not None
    agrees(found, state[1:].view(6, 6))
