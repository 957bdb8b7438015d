"""One picture from file to record; what `show`, `stats` and their successors share."""

from attnviz.pipeline.answers import Answer, Explanation, ResolvedQuestion
from attnviz.pipeline.explanation import explain
from attnviz.pipeline.layers import Layer
from attnviz.pipeline.observation import Observation
from attnviz.pipeline.observe_batch import observe_many
from attnviz.pipeline.pictures import (
    Drawing,
    render,
    write_maps,
    write_numbers,
    write_pictures,
    write_sheet,
)
from attnviz.pipeline.report import check_info, make_record, readable
from attnviz.pipeline.request import Questions, answer, check_model, check_picture, look, look_many
from attnviz.pipeline.running import observe
from attnviz.pipeline.sheets import small

__all__ = [
    "Answer",
    "Drawing",
    "Explanation",
    "Layer",
    "Observation",
    "Questions",
    "ResolvedQuestion",
    "answer",
    "check_info",
    "check_model",
    "check_picture",
    "explain",
    "look",
    "look_many",
    "make_record",
    "observe",
    "observe_many",
    "readable",
    "render",
    "small",
    "write_maps",
    "write_numbers",
    "write_pictures",
    "write_sheet",
]
