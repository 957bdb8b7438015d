"""Asks the question of an explanation again: of a changed input, or of a model with other weights.

Smoothing is the mean of such answers, and measures of robustness compare them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attnviz.errors import UsageError
from attnviz.explanation.explain_observation import explain
from attnviz.explanation.explanation import Explanation
from attnviz.explanation.observation import Observation
from attnviz.explanation.observe_words import observe_mirrored
from attnviz.explanation.running import ModelInputs
from attnviz.explanation.smoothing import Smoothing, check_smoothing
from attnviz.geometry.grid import Box
from attnviz.geometry.placement import Placement, resample
from attnviz.geometry.queries import Query
from attnviz.io.picture import PictureHeader
from attnviz.methods import METHODS
from attnviz.models.targets import Target

Noise = NDArray[np.float32]


def again(base: Explanation, pixels: Tensor, *, mirrored: bool = False) -> Explanation:
    """The answer to the same question for another input of the same model.

    The score is that of the class that was explained, localized heads are the same, and smoothed
    maps are smoothed again.

    Args:
        base: what `explain` returned.
        pixels: the other input, of the shape of `base.observation.pixels`.
        mirrored: whether it is the mirrored picture; places of the question are mirrored, too.

    Raises:
        UsageError: the model was asked in words, or its tiles were joined.
    """
    seen, method = base.observation, METHODS[base.method]
    inputs = ModelInputs(
        (_header(seen, mirrored=mirrored),), seen.model, fit=seen.placement.fit, masks=(None,),
        layers=",".join(map(str, seen.layers)), gradients=method.scored,
        tokens=bool({"tokens", "features"} & set(method.needs)), tensor=pixels, clip=seen.clip,
        taking_part=_taking_part(seen, mirrored=mirrored),
    )  # fmt: skip
    placement = _mirrored(seen.placement) if mirrored else seen.placement
    return _asked(base, inputs.at_once({0: placement})[0], mirrored=mirrored)


def _asked(base: Explanation, observation: Observation, *, mirrored: bool) -> Explanation:
    """The answer to the same question about another observation."""
    method = METHODS[base.method]
    settings: dict[str, Any] = {o.name: base.settings.get(o.name) for o in method.declared_options}
    found = explain(
        observation,
        query=_queries(base, mirrored=mirrored) if method.asks else "auto",
        method=base.method,
        target=[] if observation.text is not None else _targets(base, mirrored=mirrored),
        layers=",".join(map(str, dict.fromkeys(_layers(base)))),
        heads=_heads(base),
        chosen=[question.localized for question in base.questions] if base.localized else None,
        **settings,
    )
    return found if base.smoothing is None else smoothed(found, base.smoothing)


def smoothed(base: Explanation, smoothing: Smoothing) -> Explanation:
    """The explanation with each map as a mean; numbers of heads stay those of the picture itself.

    >>> smoothed(explanation, Smoothing("flips")).maps.shape == explanation.maps.shape
    True

    Raises:
        UsageError: the maps have no mean, or the question no mirror image.
    """
    _check(base, smoothing)
    if smoothing.kind == "flips":
        maps = _mirrored_back(base, _flipped(base))
        each = [[answer.values for answer in base.answers], maps]
    else:
        pixels = input_of(base.observation)
        many = smoothing.pictures, smoothing.sigma or 0.0, smoothing.seed
        each = [
            [answer.values for answer in again(base, pixels + noise).answers]
            for noise in noises(base.observation, *many)
        ]
    means = (np.stack(maps).mean(0, dtype=np.float64) for maps in zip(*each, strict=True))
    answers = tuple(
        replace(answer, values=np.asarray(mean, dtype=np.float32))
        for answer, mean in zip(base.answers, means, strict=True)
    )
    return replace(base, answers=answers, smoothing=smoothing)


def _flipped(base: Explanation) -> Explanation:
    """The answer to the mirrored question about the mirrored picture."""
    seen = base.observation
    if seen.text is None:
        return again(base, input_of(seen).flip(-1), mirrored=True)
    other = observe_mirrored(seen, gradients=METHODS[base.method].scored)
    return _asked(base, other, mirrored=True)


def input_of(observation: Observation) -> Tensor:
    """The input that the model was given for a picture.

    Raises:
        UsageError: it was asked in words, or the observation has let its input go.
    """
    if observation.pixels is None:
        raise UsageError(
            "the model's input is not there to be changed: it was asked in words, or was let go; "
            "leave --smooth or the metrics of robustness out, or observe the picture again"
        )
    return observation.pixels


def noises(
    observation: Observation, count: int, sigma: float, seed: int, *, uniform: bool = False
) -> Iterator[Tensor]:
    """Noise for an input, where it shows the picture: pixel values of 0 to 1, before normalisation.

    Args:
        observation: what the model saw.
        count: how many.
        sigma: standard deviation of Gaussian noise, or the bound of `uniform` noise.
        seed: random seed; it gives the same draws on every machine.
        uniform: uniform noise between −sigma and sigma.
    """
    model, grid = observation.model, observation.placement.grid
    channels = 3 if model.channels == 1 else observation.channels
    frames = () if model.clip is None else (model.clip.frames,)
    shape = *frames, grid.input_height, grid.input_width, channels
    box = observation.placement.target
    inside = np.zeros((grid.input_height, grid.input_width, 1))
    inside[round(box.top) : round(box.bottom), round(box.left) : round(box.right)] = 1
    stream = np.random.RandomState(seed)  # a frozen stream: NEP 19
    nothing = model.normalised([np.zeros(shape, np.float32)])
    for _ in range(count):
        drawn = stream.uniform(-sigma, sigma, shape) if uniform else stream.normal(0, sigma, shape)
        yield model.normalised([(255 * drawn * inside).astype(np.float32)]) - nothing


def _check(base: Explanation, smoothing: Smoothing) -> None:
    """Refuse maps that have no mean."""
    seen = base.observation
    words, relative = seen.text is not None, seen.baseline is not None
    check_smoothing(smoothing, [base.method], words=words, relative=relative)
    if seen.model.sound is not None:
        raise UsageError("--smooth is of pictures, not of sounds; leave it out")
    of_objects = any(
        question.query.found or (question.target and question.target.target.kind == "object")
        for question in base.questions
    )
    if smoothing.kind == "flips" and of_objects:
        raise UsageError(
            "--smooth flips: the mirrored picture has object queries of its own; take --smooth "
            "noise:N"
        )


def _header(seen: Observation, *, mirrored: bool) -> PictureHeader:
    picture = seen.picture
    return PictureHeader(picture.path, picture.width, picture.height, mirrored=mirrored)


def _taking_part(seen: Observation, *, mirrored: bool) -> NDArray[np.bool_] | None:
    """The tokens that take part, if some do not."""
    grid, part = seen.placement.grid, seen.taking_part
    if part.all() or not mirrored:
        return None if part.all() else part
    of_grid = part[grid.prefix :].reshape(grid.rows, grid.columns)[:, ::-1]
    return np.concatenate([part[: grid.prefix], of_grid.ravel()])


def _queries(base: Explanation, *, mirrored: bool) -> list[str]:
    """The queries as they are typed; `auto` if layers have resolved it differently."""
    found = []
    for number, question in enumerate(base.questions):
        of_layers = {answer.query for answer in base.answers if answer.question == number}
        query = _mirrored_query(base, question.query) if mirrored else question.query
        found.append("auto" if len(of_layers) > 1 else str(query))
    return list(dict.fromkeys(found))


def _targets(base: Explanation, *, mirrored: bool) -> list[Target]:
    """The scores as they were resolved; objects that are asked from are named by the queries."""
    found = []
    for question in base.questions:
        if question.target is None:
            continue
        target = question.target.target
        if target.kind == "object" and target.query == question.query:
            continue
        if mirrored and target.query is not None:
            target = replace(target, query=_mirrored_query(base, target.query))
        found.append(target)
    return list(dict.fromkeys(found))


def _mirrored_query(base: Explanation, query: Query) -> Query:
    """A query of the mirrored picture; a mask is mirrored as it is read."""
    width = base.observation.picture.width
    if query.kind == "point":
        x, y = query.numbers
        return replace(query, numbers=(width - 1 - np.floor(x), y))  # x names a whole pixel
    if query.kind == "box":
        left, top, right, bottom = query.numbers
        return replace(query, numbers=(width - right, top, width - left, bottom))
    return query


def _layers(base: Explanation) -> Sequence[int]:
    """The layers that were asked; of localized heads those that have some."""
    if not base.localized:
        return base.layers
    return sorted({head.layer for question in base.questions for head in question.localized})


def _heads(base: Explanation) -> str:
    heads = sorted({answer.head for answer in base.answers if answer.head is not None})
    if base.localized:
        return f"localized:{len(base.questions[0].localized)}"
    return ",".join(map(str, heads)) + "," if heads else "all"


def _mirrored(placement: Placement) -> Placement:
    """The placement of the mirrored picture on mirrored cells."""
    width, source, target = placement.picture_width, placement.source, placement.target
    across = placement.grid.columns * placement.grid.cell_width
    return replace(
        placement,
        source=Box(width - source.right, source.top, width - source.left, source.bottom),
        target=Box(across - target.right, target.top, across - target.left, target.bottom),
    )


def _mirrored_back(base: Explanation, flipped: Explanation) -> list[NDArray[np.float32]]:
    """The maps of the mirrored picture on the cells of the picture itself."""
    found = []
    for own, other in zip(base.answers, flipped.answers, strict=True):
        values: NDArray[np.generic] = other.values[:, ::-1]
        origin = _mirrored(other.placement)
        if not _same(origin, own.placement):  # cells that do not lie alike on both sides
            values = resample(values, other.drawn[:, ::-1], origin, own.placement)[0]
        found.append(np.ascontiguousarray(values, dtype=np.float32))
    return found


def _same(one: Placement, other: Placement) -> bool:
    if one.grid.rows != other.grid.rows or one.grid.columns != other.grid.columns:
        return False
    both = zip(one.edges(), other.edges(), strict=True)
    return all(np.allclose(a, b, atol=1e-6) for a, b in both)
