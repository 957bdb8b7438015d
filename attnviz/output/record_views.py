"""The views of a record: the grids that its maps lie on, and frames of a clip."""

from typing import Any

import numpy as np

from attnviz.explanation.explanation import Answer, Explanation
from attnviz.explanation.observation import Observation
from attnviz.output.record_parts import ViewInfo, ViewMoment


def views_of(explanation: Explanation) -> list[ViewInfo] | None:
    """The views of all maps; None if all of them show one grid over one picture."""
    clip = explanation.observation.clip
    if explanation.observation.text is not None:
        return _views_of_words(explanation.observation)
    found: dict[tuple[Any, ...], ViewInfo] = {}
    for answer in explanation.answers:
        left, top, right, bottom = answer.placement.source
        rows, columns = answer.values.shape
        frames: dict[str, Any] = {}
        if clip is not None:
            first, last = (clip.frames[n].number for n in (answer.frames[0], answer.frames[-1]))
            frames = {"frame0": first, "frame1": last}
        info = ViewInfo(
            view=len(found), kind="frames" if frames else "whole", rows=rows, columns=columns,
            x0=left, y0=top, x1=right, y1=bottom, **frames,
        )  # fmt: skip
        found.setdefault(_key(answer), info)
    return list(found.values()) if clip is not None or len(found) > 1 else None


def _views_of_words(observation: Observation) -> list[ViewInfo]:
    """The views of the picture that words attend to; with their layers if these differ."""
    seen = observation.views_of_layers
    differ = len({tuple(each) for each in seen.values()}) > 1
    found = []
    for number, view in enumerate(observation.views):
        left, top, right, bottom = view.box
        several, layers = view.tiles > 1, [n for n, views in seen.items() if number in views]
        info = ViewInfo(
            view=number, kind="tiles" if several else "whole", rows=view.layout.rows,
            columns=view.layout.columns, x0=left, y0=top, x1=right, y1=bottom,
            tiles=view.tiles if several else None, layers=layers if differ else None,
        )  # fmt: skip
        found.append(info)
    return found


def fields_of_view(explanation: Explanation, answer: Answer) -> dict[str, Any]:
    """The fields of a map about its view; of a clip also its first frame and its share of the row.

    There are none if all maps show one grid over one picture.
    """
    clip = explanation.observation.clip
    keys = list(dict.fromkeys(map(_key, explanation.answers)))
    if explanation.observation.text is not None:
        return {}
    if clip is None:
        return {"view": keys.index(_key(answer))} if len(keys) > 1 else {}
    first = answer.frames[0]
    return {
        "view": keys.index(_key(answer)),
        "moment": ViewMoment(frame=clip.frames[first].number, time=clip.times[first]),
        "view_mass": float(answer.values.sum(dtype=np.float64)),
    }


def _key(answer: Answer) -> tuple[Any, ...]:
    """What tells the views of a record apart: frames, grid, and the part of the picture."""
    return answer.frames, answer.values.shape, answer.placement.source
