"""One picture, one model: from files to an entry of scores."""

from dataclasses import dataclass

from attnviz.evaluation import MASKS, PERTURBATION, RANDOM
from attnviz.evaluation.objects import load_objects
from attnviz.evaluation.pairs import Pair
from attnviz.evaluation.scores import Judge, Score
from attnviz.evaluation.summary import Entry
from attnviz.geometry import Fit
from attnviz.images import Picture, load_image, load_mask
from attnviz.models.model import Model
from attnviz.pipeline import Explanation, Observation, check_question, explain, observe, readable


@dataclass(frozen=True)
class Question:
    """What every picture is asked; the values that the options of the same names take."""

    methods: tuple[str, ...]
    groups: tuple[str, ...]
    heads: str = "all"
    layers: str = "-1"
    query: str = "auto"
    fit: Fit = "keep"
    mask: str | None = None
    seed: int = 0


def examine(
    pair: Pair, model: Model, control: Model | None, question: Question
) -> tuple[Entry, Observation]:
    """Everything that is asked of one picture: the model's maps, its control's, and trivial ones.

    Args:
        pair: the picture and its mask.
        model: whose maps are examined, with its class head where perturbation is asked.
        control: the same architecture with random weights; None where there is none.
        question: what is asked.

    Raises:
        AttnvizError: whatever can be wrong with a picture, a mask, or the question.
    """
    picture = load_image(pair.image)
    objects = None
    if MASKS in question.groups and pair.mask is not None:
        objects = load_objects(pair.mask, width=picture.width, height=picture.height)
    seen = _look(picture, model, question, question.fit)
    judge = Judge(seen, objects, perturbation=PERTURBATION in question.groups, seed=question.seed)
    answers = [_ask(seen, method, question) for method in question.methods]
    scores = [score for answer in answers for score in judge.maps(answer)]
    if control is not None:
        scores += _control(judge, picture, control, question)
    scores += judge.trivial(answers[0])
    mask = None if pair.mask is None else readable(pair.mask)
    entry = Entry(readable(pair.image), mask, model.spec, readable(model.weights), tuple(scores))
    return entry, seen


def _control(judge: Judge, picture: Picture, control: Model, question: Question) -> list[Score]:
    """Scores of the maps of the same architecture, which is shown the same input."""
    seen = _look(picture, control, question, judge.seen.placement.fit)
    return [
        score
        for method in question.methods
        for score in judge.maps(_ask(seen, method, question), RANDOM)
    ]


def _look(picture: Picture, model: Model, question: Question, fit: Fit) -> Observation:
    check_question(
        picture,
        model,
        fit=fit,
        query=question.query,
        layers=question.layers,
        heads=question.heads,
    )
    mask = None
    if question.mask is not None:
        mask = load_mask(question.mask, width=picture.width, height=picture.height)
    return observe(picture, model, fit=fit, mask=mask, layers=question.layers)


def _ask(seen: Observation, method: str, question: Question) -> Explanation:
    return explain(
        seen,
        query=question.query,
        method=method,
        layers=question.layers,
        heads=question.heads,
    )
