"""Scores of outputs, against the formulas written out in NumPy."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pictures
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import attnviz
from attnviz.geometry.queries import Query
from attnviz.models import resolve_target, scoring
from attnviz.models.model import Model
from attnviz.models.targets import Target, find_label, labels_of, of_text, parse
from attnviz.models.tiny import LABELS

IMAGENET = (
    "tench, Tinca tinca", "tabby, tabby cat", "tiger cat", "Egyptian cat", "crane",
    "Cardigan, Cardigan Welsh corgi", "cardigan", "crane", "carton",
    *(f"thing {i}" for i in range(20)),
)  # fmt: skip


def made(**more: Any) -> Model:
    """A model of which only what it says of itself counts."""
    said: dict[str, Any] = {"spec": "some", "weights": "own", "module": nn.Identity()}
    said |= {"layers": None, "heads": None, "features": None}
    return Model(**said, tokens="patches", patch=16, size=64, **more)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def length(values: NDArray[Any]) -> float:
    return float(np.sqrt((values.astype(np.float64) ** 2).sum()))


def of_norm(model: Model, output: Any, text: str = "norm", **more: Any) -> float:
    return float(
        scoring.score(model, output, resolve_target.resolve(model, parse(text)), **more).value
    )


def test_a_class_is_its_logit_and_its_softmax() -> None:
    model, logits = made(head="class", labels=IMAGENET), drawn(1, len(IMAGENET))
    scored = scoring.score(model, logits, resolve_target.resolve(model, parse("TABBY cat")))
    assert scored.target == Target("class", index=1, label="tabby, tabby cat")
    assert torch.equal(scored.value, logits[0, 1])
    exponents = np.exp(logits[0].numpy().astype(np.float64))
    assert scored.probability == pytest.approx(exponents[1] / exponents.sum(), rel=1e-6)


def test_a_target_that_nobody_resolved_is_not_taken_for_another() -> None:
    model, logits = made(head="class", labels=("ant", "bee")), torch.tensor([[2.0, 1.0]])
    assert scoring.score(model, logits, parse("bee")).target.index == 1
    with pytest.raises(attnviz.AttnvizError, match="no label of this model"):
        scoring.score(model, logits, parse("cow"))


def test_auto_is_the_class_of_the_largest_logit() -> None:
    logits = drawn(1, 5)
    logits[0, 3] = 9.0
    names = tuple("abcde")
    for model, label in ((made(head="class", labels=names), "d"), (made(head="class"), None)):
        target = resolve_target.resolve(model, parse("auto"))
        assert target == Target("auto")
        scored = scoring.score(model, logits, target)
        assert scored.target == Target("class", index=3, label=label)
        assert float(scored.value) == 9


def test_auto_is_the_norm_where_there_are_no_classes() -> None:
    tokens = drawn(1, 7, 12)
    scored = scoring.score(made(prefix=1, class_token=True), tokens, Target("auto"))
    assert scored.target == Target("norm")
    assert scored.probability is None
    assert float(scored.value) == pytest.approx(length(tokens[0, 0].numpy()), rel=1e-6)
    # A module of one's own that says nothing is asked when it has run.
    assert scoring.score(made(head="class"), tokens, Target("auto")).target.kind == "norm"


def test_the_norm_is_of_the_class_token_or_of_the_mean_of_the_grid() -> None:
    tokens = drawn(1, 7, 12)
    values = tokens[0].numpy().astype(np.float64)
    pooled = {
        (0, False): values.mean(0),
        (2, False): values[2:].mean(0),
        (3, True): values[0],
        (9, False): values.mean(0),  # as many tokens as the prefix alone: none are the grid's
    }
    for (prefix, class_token), vector in pooled.items():
        model = made(prefix=prefix, class_token=class_token)
        assert of_norm(model, tokens) == pytest.approx(length(vector), rel=1e-6)


def test_the_norm_of_a_vector_and_of_a_map() -> None:
    vector, places = drawn(1, 12), drawn(1, 6, 4, 5)
    assert of_norm(made(), vector) == pytest.approx(length(vector.numpy()), rel=1e-6)
    mean = places[0].numpy().mean((1, 2))
    for model in (made(), made(prefix=1, class_token=True)):
        assert of_norm(model, places) == pytest.approx(length(mean), rel=1e-6)


@pytest.mark.parametrize("wrapped", ["last_hidden_state", "tuple"])
def test_what_holds_the_tokens_may_be_an_object(wrapped: str) -> None:
    tokens = drawn(1, 7, 12)
    output = (tokens, None) if wrapped == "tuple" else SimpleNamespace(last_hidden_state=tokens)
    assert of_norm(made(), output) == of_norm(made(), tokens)


def test_the_norm_where_a_query_is_is_of_the_weighted_mean() -> None:
    tokens, places = drawn(1, 7, 12), drawn(1, 6, 2, 3)
    weights = np.array([0, 0.5, 0.25, 0, 0, 0.25, 0])
    expected = length(weights @ tokens[0].numpy())
    for given in (weights, torch.from_numpy(weights)):
        assert of_norm(made(), tokens, "norm:1,2,30,40", weights=given) == pytest.approx(expected)
    one = np.eye(6)[4]  # the second row, the second column
    found = of_norm(made(), places, "norm:20,20", weights=one)
    assert found == pytest.approx(length(places[0, :, 1, 1].numpy()), rel=1e-6)


def test_the_definite_target_keeps_its_query() -> None:
    scored = scoring.score(made(), drawn(1, 2, 3), parse("norm:5,5"), np.array([0.5, 0.5]))
    assert scored.target == Target("norm", query=Query("point", (5.0, 5.0)))


def test_scores_have_their_graph() -> None:
    logits = drawn(1, 4).requires_grad_()
    score = scoring.score(made(head="class"), logits, parse("2")).value
    (gradient,) = torch.autograd.grad(score, logits)
    assert gradient.tolist() == [[0, 0, 1, 0]]
    tokens = drawn(1, 3, 4).requires_grad_()
    norm = scoring.score(made(), tokens, parse("norm:mean"), np.array([0, 0.5, 0.5])).value
    (gradient,) = torch.autograd.grad(norm, tokens)
    mean = tokens.detach()[0, 1:].mean(0)
    expected = torch.stack([0 * mean, mean, mean]) / (2 * mean.norm())
    torch.testing.assert_close(gradient[0], expected)


def test_half_precision_is_scored_in_single() -> None:
    tokens = drawn(1, 5, 8).to(torch.bfloat16)
    scored = scoring.score(made(), tokens, Target("norm"))
    assert scored.value.dtype == torch.float32
    mean = tokens[0].double().mean(0).numpy()
    assert float(scored.value) == pytest.approx(length(mean), rel=1e-5)


@pytest.mark.parametrize(
    ("wanted", "number"),
    [("tench", 0), ("tinca tinca", 0), ("Tench, Tinca tinca", 0), ("tabby", 1), ("TIGER CAT", 2),
     ("cardigan", 6), ("Cardigan", 5), ("thing 7", 16)],
)  # fmt: skip
def test_a_label_is_found_by_any_of_its_names(wanted: str, number: int) -> None:
    assert find_label(IMAGENET, wanted) == number


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("crane", r"'crane' is the name of 4 \(crane\), 7 \(crane\); give the number of one"),
        ("CARDIGAN", r"5 \(Cardigan, Cardigan Welsh corgi\), 6 \(cardigan\); give the number"),
        ("cat", r"did you mean tabby cat or tiger cat or Egyptian cat\? or give a number from 0"),
        ("tensh", "did you mean tench"),
        ("xylophone", "no label of this model; give a number from 0 to 28"),
    ],
)
def test_a_label_that_is_not_there_is_told_with_its_neighbours(wanted: str, told: str) -> None:
    with pytest.raises(attnviz.AttnvizError, match=told):
        find_label(IMAGENET, wanted)


def test_few_labels_are_all_named() -> None:
    told = r"give one of mammal, bird, .*, clothing, person$"
    with pytest.raises(attnviz.AttnvizError, match=told):
        find_label(LABELS, "tabby")


def test_labels_are_taken_as_they_are_told() -> None:
    assert labels_of({"1": "b", 0: "a"}) == ("a", "b")
    assert labels_of(["a", "b"], 2) == ("a", "b")
    for said in (None, {}, [], "ab", {"x": "a"}, {0: "a", 2: "b"}, [1, 2], {0: "LABEL_0"}):
        assert labels_of(said) is None
    assert labels_of(["a", "b"], 3) is None


PLAIN, CLASSES = made(), made(head="class", labels=("ant", "bee", "cat"))
# The model, the target, what is said.
SLIPS: list[tuple[Model, Target, str]] = [
    (PLAIN, parse("3"), "--target 3: some has no class head, .*give --target norm, or a cla"),
    (PLAIN, parse("tabby"), "--target tabby: some has no class head"),
    (CLASSES, parse("3"), "--target 3: some has 3 classes; give 0 to 2, or a label"),
    (CLASSES, parse("cow"), "--target 'cow' is no label of this model; give one of ant, bee, cat"),
    (made(head="class"), parse("ant"), "does not name its classes; give a number"),
    (CLASSES, of_text("a bee"), "--text a bee: some has no text tower, .* such as clip-base-16 or"),
    (CLASSES, parse("norm:9,9"), "--target norm:9,9: some gives logits and no tokens; give --tar"),
    (PLAIN, parse("norm:cls"), "some has no class token; give --target norm:mean"),
]


@pytest.mark.parametrize(("model", "target", "told"), SLIPS, ids=lambda value: str(value)[:30])
def test_a_slip_is_told_before_the_model_runs(model: Model, target: Target, told: str) -> None:
    with pytest.raises(attnviz.AttnvizError, match=told) as caught:
        resolve_target.resolve(model, target)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


# The output, the target, what is said, the weights that the query has.
LATE: list[tuple[Any, str, str, Any]] = [
    (drawn(1, 5), "7", "--target 7: py:some has 5 classes; give 0 to 4", None),
    (drawn(1, 4, 5), "2", r"no class head \(its output is 1x4x5, not pictures x classes\)", None),
    (drawn(1, 5), "norm:5,5", "py:some gives one vector of a picture, and no tokens", np.ones(4)),
    (drawn(1, 4, 5), "norm:5,5", "gives 4 tokens, .* which are 9; give --target nor", np.ones(9)),
    (drawn(1, 4) * torch.nan, "auto", "its predictions are not finite; check its weights", None),
    (drawn(1, 4, 4) * torch.inf, "norm", "its predictions are not finite", None),
    ("text", "norm", "its output is a str, and no tensor of 2 to 4 dimensions; have the", None),
]


@pytest.mark.parametrize(("output", "target", "told", "weights"), LATE)
def test_what_only_the_output_shows_is_told_then(
    output: Any, target: str, told: str, weights: Any
) -> None:
    model = made(head="class")
    model = Model(**{**vars(model), "spec": "py:some", "head_assumed": True})
    resolved = resolve_target.resolve(model, parse(target))
    with pytest.raises(attnviz.AttnvizError, match=told):
        scoring.score(model, output, resolved, weights)


def test_tiny_names_its_classes(tmp_path: Path) -> None:
    picture = attnviz.load_image(pictures.save(pictures.noise(64, 48), tmp_path / "a.png"))
    for head in ("none", "any", "class"):
        model = attnviz.load_model("tiny", head=head)
        assert (model.head, model.labels) == ("class", LABELS)
    with torch.no_grad():
        output = model.module(model.pixels(picture, model.place(picture)))
    scored = scoring.score(model, output, resolve_target.resolve(model, parse("auto")))
    index = int(output[0].argmax())
    assert scored.target == Target("class", index=index, label=LABELS[index])
    assert resolve_target.resolve(model, parse("Person")).index == LABELS.index("person")


def test_random_has_no_classes() -> None:
    model = attnviz.load_model("random", head="any")
    assert (model.head, model.labels, model.texts) == ("none", None, None)


def test_a_head_that_is_none_is_told() -> None:
    with pytest.raises(attnviz.AttnvizError, match="unknown head='classes'; choose from none, cla"):
        attnviz.load_model("tiny", head="classes")  # type: ignore[arg-type]  # that is the test


OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 8, 8)
        self.head = nn.Linear(width, width)

    def forward(self, pixels):
        return self.head(self.embed(pixels).mean((2, 3)))

def named():
    net = Net()
    net.labels = ["ant", "bee", "cat"]
    return net

def headless():
    net = Net()
    net.head = nn.Identity()
    return net

def empty():
    net = Net()
    net.num_classes = 0
    return net
"""


def test_a_module_of_ones_own_says_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "nets.py"
    path.write_text(OWN)
    found = {
        name: attnviz.load_model(f"py:{path}:{name}", head="any")
        for name in ("Net", "named", "headless", "empty")
    }
    heads = {name: (model.head, model.labels) for name, model in found.items()}
    assert heads == {
        "Net": ("class", None),
        "named": ("class", ("ant", "bee", "cat")),
        "headless": ("none", None),
        "empty": ("none", None),
    }
    # One who asks for classes knows better.
    assert attnviz.load_model(f"py:{path}:headless", head="class").head == "class"
    with pytest.raises(attnviz.AttnvizError, match="no text tower"):
        attnviz.load_model(f"py:{path}:Net", head="text")


def test_checkpoints_of_transformers_have_the_head_that_they_were_saved_with(
    tmp_path: Path,
) -> None:
    transformers: Any = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=16, num_labels=3,
    )  # fmt: skip
    transformers.ViTModel(config).save_pretrained(tmp_path / "base")
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "numbers")
    config.id2label = {0: "ant", 1: "bee", 2: "cat"}
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "names")
    found = {
        (name, head): attnviz.load_model(str(tmp_path / name), head=head)
        for name in ("base", "numbers", "names")
        for head in ("none", "any")
    }
    assert {key: (model.head, model.labels) for key, model in found.items()} == {
        ("base", "none"): ("none", None),
        ("base", "any"): ("none", None),
        ("numbers", "none"): ("none", None),
        ("numbers", "any"): ("class", None),
        ("names", "none"): ("none", None),
        ("names", "any"): ("class", ("ant", "bee", "cat")),
    }
    pixels = drawn(1, 3, 32, 32)
    own = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "names").eval()
    model = found["names", "any"]
    scored = scoring.score(model, model.module(pixels), resolve_target.resolve(model, parse("Bee")))
    with torch.no_grad():
        expected = own(pixels).logits[0]
    assert float(scored.value) == float(expected[1])
    assert scored.probability == pytest.approx(float(expected.softmax(0)[1]), rel=1e-5)
    with pytest.raises(attnviz.AttnvizError, match=r"no class head \(its checkpoint is a ViTModel"):
        attnviz.load_model(str(tmp_path / "base"), head="class")
