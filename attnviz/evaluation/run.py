"""One picture, one model: from files to an entry of scores."""

from dataclasses import dataclass

from attnviz.evaluation import MASKS, PERTURBATION, RANDOM
from attnviz.evaluation.map_scorer import MapScorer, Score
from attnviz.evaluation.masked_pictures import Pair
from attnviz.evaluation.objects import load_objects
from attnviz.evaluation.summary import SummaryEntry
from attnviz.explanation.observation import Observation
from attnviz.explanation.request import Questions, answer, look
from attnviz.geometry.placement import Fit
from attnviz.io.picture import Picture, load_image
from attnviz.io.ranges import FULL
from attnviz.models.model import Model
from attnviz.output.make_record import readable


@dataclass(frozen=True)
class EvaluationRequest:
    """What every picture is asked; the values that the options of the same names take."""

    asked: Questions
    groups: tuple[str, ...]
    fit: Fit = "keep"
    mask: str | None = None
    seed: int = 0
    range: str = FULL


def examine(
    pair: Pair, model: Model, control: Model | None, question: EvaluationRequest
) -> tuple[SummaryEntry, Observation]:
    """Everything that is asked of one picture: the model's maps, its control's, and trivial ones.

    Args:
        pair: the picture and its mask.
        model: whose maps are examined, with its class head where perturbation is asked.
        control: the same architecture with random weights; None where there is none.
        question: what is asked.

    Raises:
        AttnvizError: whatever can be wrong with a picture, a mask, or the question.
    """
    picture = load_image(pair.image, question.range)
    objects = None
    if MASKS in question.groups and pair.mask is not None:
        objects = load_objects(pair.mask, width=picture.width, height=picture.height)
    seen = look(picture, model, question.asked, fit=question.fit, mask=question.mask)
    judge = MapScorer(
        seen, objects, perturbation=PERTURBATION in question.groups, seed=question.seed
    )
    answers = [answer(seen, question.asked, method) for method in question.asked.methods]
    for each in answers:  # of one question each, as the command line has seen to
        assert len(each.questions) == 1
    scores = [score for each in answers for score in judge.maps(each)]
    if control is not None:
        scores += _control(judge, picture, control, question)
    scores += judge.trivial(answers[0])
    mask = None if pair.mask is None else readable(pair.mask)
    entry = SummaryEntry(
        readable(pair.image), mask, model.spec, readable(model.weights), tuple(scores)
    )
    return entry, seen


def _control(
    judge: MapScorer, picture: Picture, control: Model, question: EvaluationRequest
) -> list[Score]:
    """Scores of the maps of the same architecture, which is shown the same input."""
    fit = judge.seen.placement.fit
    seen = look(picture, control, question.asked, fit=fit, mask=question.mask)
    return [
        score
        for method in question.asked.methods
        for score in judge.maps(answer(seen, question.asked, method), RANDOM)
    ]
