"""One picture from file to record; what `show`, `stats` and their successors share."""

from attnviz.pipeline.explanation import Answer, Explanation, explain
from attnviz.pipeline.layers import Layer
from attnviz.pipeline.observation import Observation, observe
from attnviz.pipeline.pictures import Drawing, render, write_maps, write_numbers, write_pictures
from attnviz.pipeline.question import check_question
from attnviz.pipeline.report import make_record, readable

__all__ = [
    "Answer",
    "Drawing",
    "Explanation",
    "Layer",
    "Observation",
    "check_question",
    "explain",
    "make_record",
    "observe",
    "readable",
    "render",
    "write_maps",
    "write_numbers",
    "write_pictures",
]
