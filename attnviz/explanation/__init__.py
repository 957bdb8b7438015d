"""One picture from pixels to maps: the model runs once, and is then asked any question."""

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
