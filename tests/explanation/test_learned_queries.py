"""Words that see the picture through learned queries alone, against eager attention in float64."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from word_checks import PROMPT, painted, picture_of
from word_models import LEARNED
from word_oracle import ANSWER, answered_by, eager, step, weights_of

import attnviz
from attnviz.cli.check_notes import of_text
from attnviz.errors import UsageError
from attnviz.explanation.observation import Observation
from attnviz.models.model import Model
from attnviz.output.make_record import make_record

WIDE = picture_of(480, 320)
QUERIES = {"blip2": 8, "instructblip": 8, "idefics2": 40, "kosmos2": 64}


@pytest.fixture(scope="module", params=list(LEARNED))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("learned") / str(request.param)
    LEARNED[request.param](made)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return attnviz.load_model(str(folder), head="words")


@pytest.fixture(scope="module")
def seen(model: Model) -> Observation:
    return attnviz.observe(WIDE, model, prompt=PROMPT, answer=ANSWER)


def _through(weights: list[Tensor], tokens: int) -> tuple[Tensor, Tensor]:
    """The rows of queries, (windows, queries, tokens), through calls of which some read tokens.

    Weights are (windows, queries, keys). Keys are the picture's tokens, the queries and what else
    attends among them, or first the tokens and then the queries. The second result is what the
    queries keep of themselves.
    """
    queries = min(each.shape[-2] for each in weights)
    count = max(each.shape[-2] for each in weights)
    own = torch.eye(count, dtype=torch.float64)[:queries].expand(len(weights[0]), -1, -1)
    read = torch.zeros(len(weights[0]), queries, tokens, dtype=torch.float64)
    for each in reversed(weights):
        rows = each.shape[-2]
        if each.shape[-1] == rows:
            own = own @ step(each)
            continue
        asking = own[..., :rows] / 2
        read = read + asking @ each[..., :tokens]
        back = asking @ each[..., tokens:] if each.shape[-1] > tokens else 0
        own = torch.cat([asking + back, own[..., rows:]], -1)
    return read, own


def test_rows_go_through_the_queries(folder: Path, model: Model, seen: Observation) -> None:
    """Rows of words times those of the queries, of every layer; and rollout, through the tower."""
    if folder.name == "kosmos2":
        pytest.skip("its mask does not run in float64")
    answered = answered_by(model, WIDE, PROMPT)
    found = weights_of(eager(model, folder), answered)
    tower, between, language = found[:2], found[2:-3], found[-3:]
    tokens = tower[0].shape[-1]
    read, _ = _through(between, tokens)
    cells = slice(1, None) if tokens % 2 else slice(None)  # behind the class token
    of_cells = read[..., cells] / read[..., cells].sum(-1, keepdim=True)
    explained = attnviz.explain(seen, query="word:red", layers="all")
    text = seen.text
    assert text is not None
    ids = answered.arguments["input_ids"][0]
    mask = answered.arguments.get("image_embeds_position_mask")
    image = ids == ids.mode().values if mask is None else mask[0] > 0
    rows = list(explained.query.tokens)
    for layer, mine in zip(language, explained.maps.mean(1), strict=True):
        row = layer[0][rows].mean(0)[image]
        truth = _drawn(torch.einsum("tq,tqc->tc", row.view(len(read), -1), of_cells), folder)
        torch.testing.assert_close(torch.from_numpy(mine).double(), truth, rtol=0, atol=1e-5)
    rolled = attnviz.explain(seen, query="word:red", method="rollout")
    row = step(language[2])[0][rows].mean(0) @ step(language[1])[0] @ step(language[0])[0]
    entering = torch.einsum("tq,tqn->tn", row[image].view(len(read), -1), read)
    for each in reversed(tower):
        entering = torch.einsum("tn,tnm->tm", entering, step(each))
    truth = _drawn(entering[:, cells], folder)
    torch.testing.assert_close(
        torch.from_numpy(rolled.maps[0, 0]).double(), truth, rtol=0, atol=1e-5
    )


def _drawn(cells: Tensor, folder: Path) -> Tensor:
    """Cells of each window as a map: the picture, or four tiles and the whole picture."""
    if folder.name != "idefics2":
        return cells.view(4, 4)
    tiles = cells.view(5, 4, 6)
    rows = [torch.cat([tiles[0], tiles[1]], 1), torch.cat([tiles[2], tiles[3]], 1)]
    return torch.cat(rows) + tiles[4].repeat_interleave(2, 0).repeat_interleave(2, 1) / 4


def test_a_painted_cell_is_found_at_its_place(model: Model) -> None:
    """What the queries read there changes, where nothing else mixes tokens of the picture."""
    tower = next(
        part for name, part in model.module.named_modules() if name.endswith("vision_model")
    )
    for name, part in tower.named_modules():
        if name.endswith(("out_proj", "projection")) and isinstance(part, torch.nn.Linear):
            part.weight.data.zero_()
    picture, numbers = picture_of(480, 320), np.random.default_rng(1)

    def read(seen: Any) -> tuple[Any, Tensor]:
        run = attnviz.observe(seen, model, prompt=PROMPT, answer=ANSWER).whole_run()
        table, tokens = run.numbered
        first = next(
            n
            for n, each in tokens.items()
            if table.lattice_of(each.queries) is None and table.lattice_of(each.keys) is not None
        )
        keys = run.recording[first].key.transpose(1, 2).flatten(2)  # (windows, keys, features)
        lattice = table.lattice_of(tokens[first].keys)
        order = {int(number): i for i, number in enumerate(lattice.numbers)}
        places = [order.get(int(number), -1) for number in tokens[first].keys.ravel()]
        return (run.layout_of(lattice), np.array(places)), keys.flatten(0, 1)

    (layout, places), before = read(picture)
    high, wide = layout.stride
    for _ in range(4):
        row, column = int(numbers.integers(layout.rows)), int(numbers.integers(layout.columns))
        box = [layout.left + column * wide, layout.top + row * high]
        box += [box[0] + wide, box[1] + high]
        left, top, right, bottom = (round(each) for each in box)
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, 480), min(bottom, 320)
        if min(right - left, bottom - top) < 8:
            continue
        _, after = read(painted(picture, (left, top, right, bottom)))
        change = (after - before).norm(dim=-1).numpy()
        token = int(np.where(places >= 0, change, -1).argmax())
        share = layout.summed(np.eye(layout.cells.shape[1])[places[token]])
        assert share[row * layout.columns + column] > 0.2  # of the whole picture four cells a token


def test_the_record_says_through_how_many(seen: Observation, folder: Path) -> None:
    count = QUERIES[folder.name]
    assert seen.learned_queries == count
    found = attnviz.explain(seen, query="words")
    data = make_record(found).data()
    assert data["text"]["learned_queries"] == count
    for head in data["heads"]:
        assert head["distance_px"] is None
        assert 0 < head["image_mass"] < 1
    for answer in found.answers:
        assert answer.row is not None
        assert np.isclose(answer.row.image, answer.values.sum(), rtol=1e-4)
        assert np.allclose(answer.row.views[0], answer.values, atol=1e-6)
    assert seen.text is not None
    assert f"through {count} learned queries" in of_text(seen.text, count)[0]
    with pytest.raises(UsageError, match="only words look at the picture"):
        attnviz.explain(seen, query="100,100")


def test_methods_with_a_score_go_through_them(model: Model) -> None:
    seen = attnviz.observe(WIDE, model, prompt=PROMPT, answer=ANSWER, gradients=True)
    for method in ("gradient-attention", "relevance", "attnlrp"):
        maps = attnviz.explain(seen, query=["word:red", "word:mat"], method=method).maps
        assert np.isfinite(maps).all()
        assert float(np.abs(maps).max()) > 0
        assert not np.allclose(maps[0], maps[1])
