"""What is asked of words: queries, scores, shares, and what is refused."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from word_checks import PROMPT, picture_of
from word_models import blip, llava, transformers, trocr

import attnviz
from attnviz.errors import ModelError, UsageError
from attnviz.explanation.observation import Observation
from attnviz.explanation.words_asked import mean_row
from attnviz.geometry import queries
from attnviz.models.model import Model
from attnviz.models.transcript import find_words
from attnviz.output.make_record import make_record
from attnviz.output.write_pictures import write_maps

ANSWER = "a red mat on a box"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("words") / "llava"
    llava(made)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return attnviz.load_model(str(folder), head="words")


@pytest.fixture(scope="module")
def observation(model: Model) -> Observation:
    return attnviz.observe(picture_of(480, 320), model, prompt=PROMPT, answer=ANSWER)


def test_words_have_the_tokens_that_write_their_letters() -> None:
    pieces = {1: b"a", 2: b" r", 3: b"ed", 4: b" caf", 5: b"\xc3", 6: b"\xa9", 7: b", 2"}

    def decode(ids: Any) -> str:
        return b"".join(pieces[each] for each in ids).decode(errors="replace")

    text, words = find_words(decode, [1, 2, 3, 4, 5, 6, 7], 10, [-1.0, -2, -4, -8, -16, -32, -64])
    assert text == "a red café, 2"
    assert [(w.word, w.start, w.end, w.tokens, w.logprob) for w in words] == [
        ("a", 0, 1, (10,), -1.0),
        ("red", 2, 5, (11, 12), -6.0),
        ("café", 6, 10, (13, 14, 15), -56.0),
        ("2", 12, 13, (16,), -64.0),
    ]


@pytest.mark.parametrize(
    ("typed", "kind", "name", "numbers"),
    [
        ("word:cat", "word", "cat", (1.0,)),
        ("word:cat#2", "word", "cat", (2.0,)),
        ("prompt:the", "prompt_word", "the", (1.0,)),
        ("token:17", "token", None, (17.0,)),
        ("words", "words", None, ()),
    ],
)
def test_words_are_read_and_written_as_typed(
    typed: str, kind: str, name: str | None, numbers: tuple[float, ...]
) -> None:
    query = queries.parse(typed)
    assert (query.kind, query.name, query.numbers) == (kind, name, numbers)
    assert str(query) == typed


def test_a_word_looks_from_the_position_that_predicts_it(observation: Observation) -> None:
    text = observation.text
    assert text is not None
    found = attnviz.explain(observation, query="word:red", layers="1")
    (word,) = [each for each in text.words if each.word == "red"]
    rows = [token - 1 for token in word.tokens]
    layer = observation.layers[1]
    truth = layer.call.matrix()[0][:, rows].mean(1)[:, layer.keys.on_picture[0]]
    assert np.allclose(found.maps[0].reshape(4, -1), truth, atol=1e-6)


def test_a_word_of_the_prompt_looks_from_its_own_position(observation: Observation) -> None:
    text = observation.text
    assert text is not None
    found = attnviz.explain(observation, query="prompt:cat", layers="1")
    (word,) = [each for each in text.prompt_words if each.word == "cat"]
    assert found.query.tokens == word.tokens
    token = attnviz.explain(observation, query=f"token:{word.tokens[0]}", layers="1")
    assert np.array_equal(found.maps, token.maps)


def test_all_words_are_asked_by_default_in_their_order(observation: Observation) -> None:
    found = attnviz.explain(observation)
    asked = [str(question.query) for question in found.questions]
    assert asked == ["word:a", "word:red", "word:mat", "word:on", "word:a#2", "word:box"]
    second = attnviz.explain(observation, query="word:a#2")
    assert np.array_equal(found.maps[4], second.maps)


def test_shares_of_a_row_add_up(observation: Observation) -> None:
    text = observation.text
    assert text is not None
    found = attnviz.explain(observation, query="word:box", layers="2")
    rows = found.query.tokens
    layer = observation.layers[2]
    matrix = layer.call.matrix()[0][:, list(rows)].mean(1).numpy()
    words = [n for n in range(1, text.tokens) if n not in text.placeholders]
    for answer in found.answers:
        assert answer.row is not None
        assert math.isclose(answer.row.image, answer.values.sum(), rel_tol=1e-5)
        assert math.isclose(answer.row.text, matrix[answer.head, words].sum(), rel_tol=1e-5)


def test_log_probabilities_are_those_of_the_logits(model: Model, observation: Observation) -> None:
    assert model.words is not None
    prompted = model.words.prompted(picture_of(480, 320).image(), PROMPT)
    answered = model.words.answered(prompted, ANSWER, 32)
    with torch.no_grad():
        whole = {**answered.arguments, "logits_to_keep": 0}
        logits = model.words.module(**whole).logits[0].log_softmax(-1)
    ids = answered.arguments["input_ids"][0]
    assert observation.text is not None
    for word in observation.text.words:
        truth = sum(float(logits[token - 1, ids[token]]) for token in word.tokens)
        assert word.logprob is not None
        assert math.isclose(word.logprob, truth, rel_tol=1e-5)


def weights_of(folder: Path, kind: Any, model: Model, rows: list[int]) -> list[Tensor]:
    """A ⊙ ∇A of eager weights for the logits of what these rows predict, layer by layer."""
    assert model.words is not None
    eager = kind.from_pretrained(folder, attn_implementation="eager").eval()
    prompted = model.words.prompted(picture_of(480, 320).image(), PROMPT)
    answered = model.words.answered(prompted, ANSWER, 32)
    kept: list[Tensor] = []

    def spy(*given: Any, **settings: Any) -> Tensor:
        found = softmax(*given, **settings)
        if found.requires_grad:
            found.retain_grad()
            kept.append(found)
        return found

    softmax, F.softmax = F.softmax, spy
    try:
        (name,) = prompted.pictures
        pixels = answered.arguments[name].requires_grad_()
        arguments = {**answered.arguments, name: pixels, "logits_to_keep": 0}
        logits = eager(**arguments).logits[0]
    finally:
        F.softmax = softmax
    ids = answered.arguments["input_ids"][0]
    score = torch.stack([logits[row, ids[row + 1]] for row in rows]).sum()
    torch.autograd.backward(score, inputs=kept)
    of_text = [each for each in kept if each.shape[-2] == len(logits)]
    found = []
    for each in of_text:
        assert each.grad is not None
        found.append((each * each.grad)[0].detach())
    return found


def test_the_gradient_is_that_of_the_word(folder: Path, model: Model) -> None:
    seen = attnviz.observe(
        picture_of(480, 320), model, prompt=PROMPT, answer=ANSWER, gradients=True
    )
    found = attnviz.explain(
        seen, query=["word:red", "word:box"], method="gradient-attention", layers="1"
    )
    assert [str(q.target.target) for q in found.questions if q.target] == ["word:red", "word:box"]
    for number, question in enumerate(found.questions):
        rows = list(question.query.tokens)
        kind = transformers.LlavaForConditionalGeneration
        truth = weights_of(folder, kind, model, rows)[1]
        truth = truth[:, rows].clamp_min(0).mean((0, 1))[seen.layers[1].keys.on_picture[0]]
        assert float(truth.max()) > 0
        mine = found.maps[number].reshape(-1)
        assert np.allclose(mine, truth, atol=1e-5 * float(truth.max()))
    own = attnviz.explain(seen, query=["word:red", "word:box"], method="attribution")
    assert [str(q.target.target) for q in own.questions if q.target] == ["word:red", "word:box"]
    assert own.maps.min() >= 0
    assert not np.allclose(own.maps[0], own.maps[1])


def test_maps_are_divided_by_those_after_another_prompt(model: Model) -> None:
    picture, general = picture_of(480, 320), "Describe the picture."
    asked = {"prompt": PROMPT, "answer": ANSWER}
    found = attnviz.observe(picture, model, **asked, baseline_prompt=general)  # type: ignore[arg-type]
    plain = attnviz.observe(picture, model, **asked)  # type: ignore[arg-type]
    other = attnviz.observe(picture, model, prompt=general, answer=ANSWER)
    for heads in ("all", "localized:2"):
        relative = attnviz.explain(found, query="word:mat", heads=heads, layers="all")
        chosen = [q.localized for q in relative.questions] if relative.localized else None
        one, two = (
            attnviz.explain(each, query="word:mat", heads=heads, layers="all", chosen=chosen)
            for each in (plain, other)
        )
        for mine, a, b in zip(relative.answers, one.answers, two.answers, strict=True):
            assert np.allclose(mine.values, a.values / b.values, rtol=1e-5)
    text = make_record(attnviz.explain(found, query="word:mat")).data()["text"]
    assert text["baseline_prompt"] == general
    with pytest.raises(UsageError, match="of methods without a score"):
        attnviz.observe(picture, model, **asked, baseline_prompt=general, gradients=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"query": "word:dog"}, "its words are a, red, mat, on, box"),
        ({"query": "word:red#2"}, "not in the answer"),
        ({"query": "prompt:dog"}, "not in the prompt"),
        ({"query": "token:99999"}, "tokens; give token:0 to token:"),
        ({"query": "cls"}, "give words or word:NAME"),
        ({"query": "prompt:cat", "method": "relevance"}, "look from words of the answer"),
        ({"query": "words", "method": "transition"}, "this one takes words, too"),
        ({"target": "norm", "method": "relevance"}, "with a prompt the score is that of the word"),
    ],
)
def test_what_is_not_there_is_refused(
    observation: Observation, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        attnviz.explain(observation, **asked)


def test_answers_and_options_are_refused_in_one_line(model: Model, folder: Path) -> None:
    picture = picture_of(48, 32)
    with pytest.raises(UsageError, match="--answer has 3 words, and --max-words is 2"):
        attnviz.observe(picture, model, prompt=PROMPT, answer="a red mat", max_words=2)
    with pytest.raises(UsageError, match="--answer is empty"):
        attnviz.observe(picture, model, prompt=PROMPT, answer="")
    with pytest.raises(UsageError, match="leave --fit and --mask out"):
        attnviz.observe(picture, model, prompt=PROMPT, fit="pad")
    with pytest.raises(UsageError, match="--size 64"):
        attnviz.load_model(str(folder), head="words", size=64)
    with pytest.raises(UsageError, match="--mean"):
        attnviz.load_model(str(folder), head="words", mean="half")
    with pytest.raises(ModelError, match="tiny does not answer in words"):
        attnviz.load_model("tiny", head="words")
    seen = attnviz.observe(picture, attnviz.load_model())
    with pytest.raises(UsageError, match="was asked nothing; add --prompt"):
        attnviz.explain(seen, query="word:cat")


def test_a_given_answer_follows_what_the_model_itself_continues(tmp_path: Path) -> None:
    """BLIP leaves the end behind the prompt out before it generates."""
    blip(tmp_path)
    model = attnviz.load_model(str(tmp_path), head="words")
    texts = [
        attnviz.observe(picture_of(48, 32), model, prompt=PROMPT, max_words=1, answer=answer).text
        for answer in (None, "mat")
    ]
    first, second = (text.prompt_tokens for text in texts if text is not None)
    assert first == second


def test_weights_without_a_place_are_refused(folder: Path, tmp_path: Path) -> None:
    """A config with a layer less than the weights have would leave it out."""
    shutil.copytree(folder, tmp_path / "less")
    path = tmp_path / "less" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["num_hidden_layers"] = 2
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="for which the model that its config describes has no"):
        attnviz.load_model(str(tmp_path / "less"), head="words")


def test_the_record_has_text_views_and_words(observation: Observation) -> None:
    data = make_record(attnviz.explain(observation, heads="localized", layers="upper")).data()
    text = data["text"]
    assert (text["prompt"], text["answer"], text["agrees"]) == (PROMPT, ANSWER, None)
    for word in text["words"]:
        assert text["answer"][word["start"] : word["end"]] == word["word"]
    (view,) = data["views"]
    assert (view["kind"], view["rows"], view["columns"]) == ("whole", 6, 6)
    assert [round(view[side]) for side in ("x0", "y0", "x1", "y1")] == [80, 0, 400, 320]
    named = [head["query"]["word"] for head in data["heads"] if head["head"] is None]
    assert named == ["a", "red", "mat", "on", "a", "box"]
    assert all(0 < head["image_mass"] < 1 for head in data["heads"])
    chosen = {(each["layer"], each["head"]) for each in data["localized"]}
    assert len(chosen) == 3  # all words have the same heads


@pytest.fixture(scope="module")
def spiked(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with large activations of the first token and some cells in one feature."""
    made = tmp_path_factory.mktemp("words") / "spiked"
    kind = transformers.LlavaForConditionalGeneration
    module = kind.from_pretrained(folder)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    module.get_input_embeddings().weight.data[:, 7] += 6.0
    module.model.multi_modal_projector.linear_2.weight.data[7] *= 12.0
    module.save_pretrained(made)
    processor.save_pretrained(made)
    return made


@pytest.mark.parametrize("gradients", [False, True])
def test_shares_of_layers_and_sinks_are_those_of_eager_attention(
    spiked: Path, monkeypatch: pytest.MonkeyPatch, *, gradients: bool
) -> None:
    monkeypatch.setattr("attnviz.statistics.tokens.MASSIVE", 4.0)  # 20 is of thousands of features
    model = attnviz.load_model(str(spiked), head="words")
    asked = {"prompt": PROMPT, "answer": ANSWER, "gradients": gradients}
    seen = attnviz.observe(picture_of(480, 320), model, **asked)  # type: ignore[arg-type]
    assert model.words is not None
    assert seen.text is not None
    kind = transformers.LlavaForConditionalGeneration
    eager = kind.from_pretrained(spiked, attn_implementation="eager").eval()
    answered = model.words.answered(
        model.words.prompted(picture_of(480, 320).image(), PROMPT), ANSWER, 32
    )
    with torch.no_grad():
        truth = eager(**answered.arguments, output_attentions=True, output_hidden_states=True)
    ids = answered.arguments["input_ids"][0]
    cells = (ids == eager.config.image_token_id).numpy()
    found = attnviz.explain(seen, layers="all")
    record = make_record(found).data()
    masses, sinks = {}, {}
    for number, (weights, hidden) in enumerate(zip(truth.attentions, truth.hidden_states)):  # noqa: B905 — one more state
        x = hidden[0].double().numpy()
        high = np.abs(x) >= 4.0 * np.sqrt((x**2).mean(-1, keepdims=True))
        massive = cells & high[:, high[0]].any(-1)
        rows = weights[0].double().numpy()
        of_words = [rows[:, [t - 1 for t in word.tokens]].mean(1) for word in seen.text.words]
        masses[number] = np.mean([row[:, cells].sum(-1) for row in of_words])
        sinks[number] = np.flatnonzero(massive).tolist()
        mine = [head for head in record["heads"] if head["layer"] == number]
        for head, row in zip(mine, np.concatenate(of_words), strict=True):
            assert abs(head["image_sink_mass"] - row[massive].sum()) < 1e-5
            assert abs(head["image_mass"] - row[cells].sum()) < 1e-5
    assert any(0 < len(each) < cells.sum() for each in sinks.values())
    listed = {n["layer"]: [t["token"] for t in n["tokens"]] for n in record["visual_sinks"]}
    assert listed == {number: each for number, each in sinks.items() if each}
    assert 7 in record["visual_sinks"][0]["dimensions"]
    for layer in record["text"]["layers"]:
        assert abs(layer["image_mass"] - masses[layer["layer"]]) < 1e-5
    assert record["text"]["image_layer"] == max(masses, key=lambda number: masses[number])


def pools_keys(attention: Any, first: int, side: int) -> Any:
    """A layer's `forward` whose keys are the picture's cells two by two, and the text."""

    def forward(hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        cells = hidden_states[:, first : first + side**2].transpose(1, 2)
        few = F.avg_pool2d(cells.reshape(1, -1, side, side), 2).flatten(2).transpose(1, 2)
        text = hidden_states[:, :first], hidden_states[:, first + side**2 :]
        keys = torch.cat([text[0], few, text[1]], 1)
        query, key, value = (
            part(of).unflatten(2, (-1, attention.head_dim)).transpose(1, 2)
            for part, of in (
                (attention.q_proj, hidden_states),
                (attention.k_proj, keys),
                (attention.v_proj, keys),
            )
        )
        out = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return attention.o_proj(out.transpose(1, 2).flatten(2)), None

    return forward


def test_layers_have_views_of_their_own(folder: Path, tmp_path: Path) -> None:
    model = attnviz.load_model(str(folder), head="words")
    assert model.words is not None
    picture = picture_of(480, 320)
    before = attnviz.observe(picture, model, prompt=PROMPT, answer=ANSWER)
    assert before.text is not None
    first = before.text.placeholders[0]
    attention = model.words.module.model.language_model.layers[1].self_attn
    attention.forward = pools_keys(attention, first, 6)
    seen = attnviz.observe(picture, model, prompt=PROMPT, answer=ANSWER)
    found = attnviz.explain(seen, query="word:box", layers="all")
    data = make_record(found).data()
    views = [(view["rows"], view["columns"], view["layers"]) for view in data["views"]]
    assert views == [(6, 6, [0, 2]), (3, 3, [1])]
    assert "layers" not in make_record(attnviz.explain(before)).data()["views"][0]
    rows = list(found.query.tokens)
    for answer in found.answers:
        matrix = seen.layers[answer.layer].call.matrix()[0, answer.head, rows].mean(0).double()
        cells = matrix[first : first + answer.values.size].numpy()
        assert answer.row is not None
        (number,) = answer.row.views
        assert number == (answer.layer == 1)
        assert np.allclose(answer.row.views[number].ravel(), cells, atol=1e-6)
        assert np.allclose(answer.row.image, cells.sum(), atol=1e-6)
        assert math.isnan(answer.row.image_sinks) == (answer.layer == 1)
    with np.load(write_maps(found, tmp_path)) as arrays:
        assert arrays["maps_view1"].shape == (4, 3, 3)
        assert arrays["maps_view1_of"].tolist() == [4, 5, 6, 7]
    mean = mean_row([each.row for each in found.answers if each.row is not None])
    assert mean is not None
    assert math.isclose(sum(view.sum() for view in mean.views.values()), mean.image, rel_tol=1e-5)
    localized = attnviz.explain(seen, heads="localized:12", layers="all")
    assert make_record(localized).data()["heads"][-1]["image_mass"] > 0


def test_what_is_kept_grows_with_tokens_alone(tmp_path: Path) -> None:
    """Queries, keys, values, outputs and places of tokens; keys and values of groups once."""
    of_tokens = []
    for side in (6, 12):
        llava(tmp_path / str(side), side)
        model = attnviz.load_model(str(tmp_path / str(side)), head="words")
        seen = attnviz.observe(picture_of(480, 320), model, prompt=PROMPT, answer=ANSWER)
        assert seen.text is not None
        assert model.words is not None
        kept = {}
        for layer in seen.layers.values():
            assert layer.call.key.untyped_storage().nbytes() == 4 * 2 * 16 * seen.text.tokens
            for each in vars(layer.call).values():
                if isinstance(each, Tensor):
                    kept[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        for weights in model.words.module.parameters():
            kept.pop(weights.untyped_storage().data_ptr(), None)
        of_tokens.append(sum(kept.values()) / seen.text.tokens)
    assert of_tokens[0] == of_tokens[1]
    assert of_tokens[0] < 1.3 * 3 * 4 * (64 + 32 + 32 + 64)  # places of tokens are the rest


def test_a_captioner_looks_across_alone(tmp_path: Path) -> None:
    trocr(tmp_path)
    model = attnviz.load_model(str(tmp_path), head="words")
    seen = attnviz.observe(picture_of(480, 320), model, prompt="", max_words=1)
    assert seen.count == 3
    assert seen.text is not None
    assert seen.text.agrees
    last = seen.text.tokens - 1
    found = attnviz.explain(seen, query=f"token:{last}")
    assert np.allclose(found.maps.sum((-2, -1)), 1 - _class_token(seen, last), atol=1e-5)
    assert found.answers[0].row is not None
    assert math.isnan(found.answers[0].row.text)
    with pytest.raises(UsageError, match="only words look at the picture"):
        attnviz.explain(seen, query="100,100")


def _class_token(seen: Observation, row: int) -> Tensor:
    """The weights of a row on the class token of the encoder."""
    return seen.layers[seen.calls.drawn[-1]].call.rows([row])[0, :, 0, 0]
