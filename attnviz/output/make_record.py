"""Makes the record of an explanation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import repeat
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.drawing.scale import Range
from attnviz.explanation.explanation import Answer, Explanation
from attnviz.explanation.naming import others_in_words
from attnviz.explanation.object_regions import ObjectRegion
from attnviz.explanation.smoothing import Smoothing
from attnviz.geometry.detections import DetectedObject
from attnviz.geometry.queries import OF_TEXT, Query
from attnviz.geometry.sound_axes import SoundAxes
from attnviz.geometry.tiling import TilePlan
from attnviz.methods import METHODS
from attnviz.models.scoring import Scored
from attnviz.output import record_parts, records
from attnviz.output.record_info import (
    check_info,
    image_info,
    model_info,
    preprocessing_info,
    readable,
    text_info,
)
from attnviz.output.record_tokens import high_norm_info, layer_info, visual_sinks
from attnviz.output.record_views import fields_of_view, views_of
from attnviz.statistics.maps import describe, of_object


def make_record(
    explanation: Explanation,
    *,
    scales: Sequence[Range] | None = None,
    files: Sequence[str] | None = None,
    animation: record_parts.AnimationInfo | None = None,
    blends: Sequence[record_parts.BlendInfo] = (),
    moment: record_parts.Moment | None = None,
) -> records.Record:
    """The record of one picture: CONTRACT §4.

    Args:
        explanation: what `explain` returned.
        scales: the range of the colours of each answer.
        files: the name of the file that shows each answer.
        animation: the animation of all answers.
        blends: the pictures of several maps each.
        moment: the frame of a clip that the picture is.
    """
    observation, answers = explanation.observation, explanation.answers
    return records.Record(
        image=image_info(observation.picture),
        moment=moment,
        model=model_info(observation),
        tokens=_tokens(explanation, answers[-1]),
        tiles=_tiles(explanation.tiles),
        preprocessing=preprocessing_info(observation),
        text=text_info(observation),
        query=_query(explanation.query, observation.picture.sound, answers[0].region),
        method=explanation.method,
        options=dict(explanation.settings) or None,
        target=_target(explanation.questions[0].target),
        smoothing=_smoothing(explanation.smoothing),
        check=check_info(observation, explanation.layers),
        localized=[
            records.LocalizedHeadInfo(question=number, **asdict(head))
            for number, question in enumerate(explanation.questions)
            for head in question.localized
        ]
        or None,
        heads=[
            _head(explanation, answer, scale, file)
            for answer, scale, file in zip(
                answers,
                scales or repeat(None, len(answers)),
                files or repeat(None, len(answers)),
                strict=True,
            )
        ],
        animation=animation,
        blends=list(blends) or None,
        layers=[layer_info(observation, number, more) for number, more in explanation.more.items()]
        or None,
        views=views_of(explanation),
        high_norm=[
            records.LayerHighNorm(
                layer=number, median=each.median, limit=each.limit,
                tokens=high_norm_info(observation, observation.layers[number], each),
            )
            for number, each in explanation.high_norm.items()
            if each.tokens
        ]
        or None,
        visual_sinks=visual_sinks(observation, explanation.layers) or None,
    )  # fmt: skip


def _head(
    explanation: Explanation, answer: Answer, scale: Range | None, file: str | None
) -> records.Head:
    """The entry of one map; it names its query and target if they may differ from the record's."""
    several = len(explanation.questions) > 1
    target = explanation.questions[answer.question].target
    drawn = describe(answer.values, answer.drawn, answer.placement)
    sound = explanation.observation.picture.sound
    rows, columns = answer.values.shape
    one = METHODS[explanation.method].merges != "layers"
    call = explanation.observation.layers[answer.layer].call if one else None
    region, differs = answer.region, several or answer.query != explanation.query
    numbers = object_numbers(region, answer.values, answer)
    return records.Head(
        layer=answer.layer,
        head=answer.head,
        rank=_rank(explanation, answer),
        **dict[str, Any](answer.numbers),
        kind=None if call is None else call.kind,
        sums_to_one=None if call is None else call.sums_to_one,
        rows=rows,
        columns=columns,
        map=map_info(drawn, sound, numbers),
        query=_query(answer.query, sound, region) if differs else None,
        target=_target(target) if several else None,
        scale=None if scale is None else records.ScaleInfo(**asdict(scale)),
        file=file,
        points=_points(answer),
        image_mass=None if answer.row is None else answer.row.image,
        text_mass=None if answer.row is None else answer.row.text,
        image_sink_mass=None if answer.row is None else answer.row.image_sinks,
        component=answer.component,
        share=answer.share,
        **fields_of_view(explanation, answer),
    )


def map_info(
    drawn: SimpleNamespace, sound: SoundAxes | None, more: Mapping[str, float] | None = None
) -> records.MapInfo:
    """The numbers of a map; those of a sound have the seconds and hertz of the peak too.

    `more` are further numbers, such as those of an object.
    """
    numbers: dict[str, Any] = {**vars(drawn), **(more or {})}
    if sound is not None:
        numbers = {
            **numbers,
            "peak_time": sound.time(drawn.peak_x),
            "peak_frequency": sound.frequency(drawn.peak_y),
        }
    return records.MapInfo(**numbers)


def object_numbers(
    region: ObjectRegion | None, values: NDArray[np.float32], answer: Answer
) -> dict[str, float]:
    """How much a map on the cells of an answer looks at its object; empty if there is none."""
    if region is None:
        return {}
    return of_object(values, answer.drawn, answer.placement, region.box, region.mask)


def _points(answer: Answer) -> list[records.PointInfo] | None:
    """The sampled points of one map in picture pixels; None if it has none."""
    place = answer.placement.to_picture
    found = []
    for point in answer.points:
        x, y = place(point.x, point.y)
        found.append(records.PointInfo(x=x, y=y, level=point.level, weight=point.weight))
    return found or None


def _rank(explanation: Explanation, answer: Answer) -> int | None:
    """The rank of a localized head, from 1; 0 for their mean."""
    if not explanation.localized:
        return None
    heads = [(each.layer, each.head) for each in explanation.questions[answer.question].localized]
    return 0 if answer.head is None else 1 + heads.index((answer.layer, answer.head))


def _tokens(explanation: Explanation, answer: Answer) -> record_parts.Tokens:
    """The record's part about the grid of one answer."""
    observation = explanation.observation
    grid, entire = answer.placement.grid, observation.placement.grid
    cover = observation.layers[answer.layer].keys.cover
    return record_parts.Tokens(
        kind=observation.model.tokens,
        rows=grid.rows,
        columns=grid.columns,
        patch=grid.patch if isinstance(grid.patch, int) else None,
        cell_width=grid.cell_width,
        cell_height=grid.cell_height,
        prefix=grid.prefix,
        input_width=entire.input_width,
        input_height=entire.input_height,
        fit=answer.placement.fit,
        masked=observation.masked,
        grids=list(cover.grids) if cover is not None and cover.grids else None,
    )


def _tiles(plan: TilePlan | None) -> record_parts.Tiles | None:
    if plan is None:
        return None
    rows, columns = len(plan.tops), len(plan.lefts)
    return record_parts.Tiles(side=plan.side, overlap=plan.overlap, rows=rows, columns=columns)


def _query(
    query: Query, sound: SoundAxes | None = None, region: ObjectRegion | None = None
) -> record_parts.QueryInfo:
    if query.found is not None:
        return _object(query.found, region)
    if query.kind in OF_TEXT:
        first = query.tokens[0] + (query.kind == "word")
        named = {"word": query.name, "index": query.index, "token": first}
        return record_parts.QueryInfo.model_validate({"kind": query.kind, **named})
    names = {"point": ("x", "y"), "register": ("number",)}.get(query.kind, ("x0", "y0", "x1", "y1"))
    numbers = dict(zip(names, query.numbers, strict=False))
    path = None if query.path is None else readable(query.path)
    places = {} if sound is None else _in_sound(numbers, sound)
    return record_parts.QueryInfo.model_validate(
        {"kind": query.kind, "path": path, "time": query.time, **numbers, **places}
    )


def _object(found: DetectedObject, region: ObjectRegion | None) -> record_parts.QueryInfo:
    """An object as a query, with its box in picture pixels."""
    box = () if region is None or region.box is None else region.box
    sides = dict[str, Any](zip(("x0", "y0", "x1", "y1"), box, strict=False))
    return record_parts.QueryInfo(
        kind="object", index=found.index, label=found.label, score=found.score, **sides
    )


def _in_sound(numbers: Mapping[str, float], sound: SoundAxes) -> dict[str, float]:
    """Seconds and hertz of x and y in picture pixels; of a box, the lower frequency first."""
    times = {f"time{name[1:]}": sound.time(n) for name, n in numbers.items() if name[0] == "x"}
    heights = sorted((n for name, n in numbers.items() if name[0] == "y"), reverse=True)
    names = ["frequency"] if len(heights) == 1 else ["frequency0", "frequency1"]
    return times | dict(zip(names, map(sound.frequency, heights), strict=False))


def _smoothing(smoothing: Smoothing | None) -> record_parts.SmoothingInfo | None:
    if smoothing is None:
        return None
    noise = smoothing.kind == "noise"
    return record_parts.SmoothingInfo(
        kind=smoothing.kind,
        pictures=smoothing.pictures,
        sigma=smoothing.sigma,
        seed=smoothing.seed if noise else None,
    )


def _target(scored: Scored | None) -> record_parts.TargetInfo | None:
    if scored is None:
        return None
    target = scored.target
    return record_parts.TargetInfo.model_validate(
        {
            "kind": target.kind,
            "index": target.index,
            "label": target.label,
            "text": target.text,
            "query": None if target.query is None else _query(target.query),
            "score": float(scored.value),
            "probability": scored.probability,
            "against": others_in_words(target) or None,
        }
    )
