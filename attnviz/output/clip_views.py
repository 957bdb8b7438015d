"""The parts of a record about a clip that a model saw at once: its views, and the view of a map."""

from typing import Any

import numpy as np

from attnviz.explanation.explanation import Answer, Explanation
from attnviz.output.record_parts import ViewInfo, ViewMoment


def views_of(explanation: Explanation) -> list[ViewInfo] | None:
    """The views of a clip, each with the frames that it covers; None for a picture."""
    clip = explanation.observation.clip
    if clip is None:
        return None
    found: dict[tuple[Any, ...], ViewInfo] = {}
    for answer in explanation.answers:
        rows, columns = answer.values.shape
        left, top, right, bottom = answer.placement.source
        first, last = (
            clip.frames[number].number for number in (answer.frames[0], answer.frames[-1])
        )
        found.setdefault(
            _view_key(answer),
            ViewInfo(
                view=len(found), kind="frames", rows=rows, columns=columns,
                x0=left, y0=top, x1=right, y1=bottom, frame0=first, frame1=last,
            ),
        )  # fmt: skip
    return list(found.values())


def _view_key(answer: Answer) -> tuple[Any, ...]:
    """What tells the views of a record apart: frames and grid."""
    return answer.frames, answer.values.shape


def fields_of_view(explanation: Explanation, answer: Answer) -> dict[str, Any]:
    """The fields of a map of a clip: its view, the view's first frame, and its share of the row."""
    clip = explanation.observation.clip
    if clip is None:
        return {}
    keys = list(dict.fromkeys(map(_view_key, explanation.answers)))
    first = answer.frames[0]
    return {
        "view": keys.index(_view_key(answer)),
        "moment": ViewMoment(frame=clip.frames[first].number, time=clip.times[first]),
        "view_mass": float(answer.values.sum(dtype=np.float64)),
    }
