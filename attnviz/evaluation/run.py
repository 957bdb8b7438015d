"""Evaluates one picture with one model, and returns an entry of scores."""

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
    """What every picture is asked: fields take the values of the options of the same names."""

    questions: Questions
    groups: tuple[str, ...]
    fit: Fit = "keep"
    mask: str | None = None
    seed: int = 0
    range: str = FULL


def examine(
    pair: Pair, model: Model, control: Model | None, request: EvaluationRequest
) -> tuple[SummaryEntry, Observation]:
    """Score one picture: the maps of the model, those of its control, and the other baselines.

    Args:
        pair: the picture and its mask.
        model: the model to evaluate; for perturbation it needs its class head.
        control: the same architecture with random weights, or None.
        request: the questions and the metrics.

    Raises:
        AttnvizError: something is wrong with the picture, the mask or the question.
    """
    picture = load_image(pair.image, request.range)
    objects = None
    if MASKS in request.groups and pair.mask is not None:
        objects = load_objects(pair.mask, width=picture.width, height=picture.height)
    observation = look(picture, model, request.questions, fit=request.fit, mask=request.mask)
    scorer = MapScorer(
        observation, objects, perturbation=PERTURBATION in request.groups, seed=request.seed
    )
    answers = [
        answer(observation, request.questions, method) for method in request.questions.methods
    ]
    for each in answers:  # the command line allows one question only
        assert len(each.questions) == 1
    scores = [score for each in answers for score in scorer.maps(each)]
    if control is not None:
        scores += _control(scorer, picture, control, request)
    scores += scorer.trivial(answers[0])
    mask = None if pair.mask is None else readable(pair.mask)
    entry = SummaryEntry(
        readable(pair.image), mask, model.spec, readable(model.weights), tuple(scores)
    )
    return entry, observation


def _control(
    scorer: MapScorer, picture: Picture, control: Model, request: EvaluationRequest
) -> list[Score]:
    """Scores of the control's maps; the control gets the same input as the model."""
    fit = scorer.observation.placement.fit
    observation = look(picture, control, request.questions, fit=fit, mask=request.mask)
    return [
        score
        for method in request.questions.methods
        for score in scorer.maps(answer(observation, request.questions, method), RANDOM)
    ]
