"""One picture from pixels to maps: the model runs once, and is then asked any question.

Names are imported when they are first used: the command line reads `--heads` and `--layers` with
`explanation.selection`, which is free of torch, before anything heavy is needed.
"""

from typing import TYPE_CHECKING

from attnviz.lazy import lazy_names

if TYPE_CHECKING:
    from attnviz.explanation.explain_observation import explain
    from attnviz.explanation.explanation import Answer, Explanation, ResolvedQuestion
    from attnviz.explanation.layers import Layer
    from attnviz.explanation.observation import Observation
    from attnviz.explanation.observe_batch import observe_many
    from attnviz.explanation.request import (
        Questions,
        answer,
        check_model,
        check_picture,
        look,
        look_many,
    )
    from attnviz.explanation.running import observe

__all__ = [
    "Answer",
    "Explanation",
    "Layer",
    "Observation",
    "Questions",
    "ResolvedQuestion",
    "answer",
    "check_model",
    "check_picture",
    "explain",
    "look",
    "look_many",
    "observe",
    "observe_many",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Answer": "attnviz.explanation.explanation",
        "Explanation": "attnviz.explanation.explanation",
        "Layer": "attnviz.explanation.layers",
        "Observation": "attnviz.explanation.observation",
        "Questions": "attnviz.explanation.request",
        "ResolvedQuestion": "attnviz.explanation.explanation",
        "answer": "attnviz.explanation.request",
        "check_model": "attnviz.explanation.request",
        "check_picture": "attnviz.explanation.request",
        "explain": "attnviz.explanation.explain_observation",
        "look": "attnviz.explanation.request",
        "look_many": "attnviz.explanation.request",
        "observe": "attnviz.explanation.running",
        "observe_many": "attnviz.explanation.observe_batch",
    },
)
