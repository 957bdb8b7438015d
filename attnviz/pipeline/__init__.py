"""One picture from file to record; what `show`, `stats` and their successors share."""

from attnviz.pipeline.explanation import Explanation, check_question, explain
from attnviz.pipeline.observation import Observation, observe
from attnviz.pipeline.pictures import Drawing, render, write_maps, write_numbers, write_pictures
from attnviz.pipeline.report import make_record

__all__ = [
    "Drawing",
    "Explanation",
    "Observation",
    "check_question",
    "explain",
    "make_record",
    "observe",
    "render",
    "write_maps",
    "write_numbers",
    "write_pictures",
]
