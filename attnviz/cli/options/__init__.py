"""Declares every option once, in groups; a command takes the groups that it needs.

Nothing here imports torch, numpy or matplotlib, so that `--help` and usage errors are answered at
once. A group checks its own values when it is made. Groups have no generated `__eq__` or
`__repr__`, since generating them would slow the start-up.
"""

from typing import Annotated

import typer

from attnviz.cli.options.batching import BatchOptions, EngineOptions, Sources
from attnviz.cli.options.groups import Help, with_groups
from attnviz.cli.options.inputs import (
    InputOptions,
    ModelOptions,
    ModelsOptions,
    ReadingOptions,
    RivalOptions,
    ShownOptions,
)
from attnviz.cli.options.questions import (
    QuestionOptions,
    QuestionsOptions,
    StartOptions,
    WhereOptions,
)
from attnviz.cli.options.results import (
    FILMS,
    ClipOptions,
    ComparedNpz,
    DifferenceOptions,
    DrawingOptions,
    EvaluationOut,
    FilmOut,
    Json,
    Limit,
    Masks,
    Metrics,
    NoPreview,
    Npz,
    OptionalOut,
    Out,
    PageOptions,
    PageOut,
    Pictures,
    StreamOptions,
    ToldOptions,
)

Images = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE...", help="Picture files; `-` reads standard input."),
]
OneImage = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE", help="Picture file; `-` reads standard input."),
]
"""Several values, so that the commands can answer a second one with an error in words."""

ClipFile = Annotated[str, typer.Argument(metavar="CLIP", help="Film: MP4, MOV, MKV, WebM, GIF …")]

__all__ = [
    "FILMS",
    "BatchOptions",
    "ClipFile",
    "ClipOptions",
    "ComparedNpz",
    "DifferenceOptions",
    "DrawingOptions",
    "EngineOptions",
    "EvaluationOut",
    "FilmOut",
    "Help",
    "Images",
    "InputOptions",
    "Json",
    "Limit",
    "Masks",
    "Metrics",
    "ModelOptions",
    "ModelsOptions",
    "NoPreview",
    "Npz",
    "OneImage",
    "OptionalOut",
    "Out",
    "PageOptions",
    "PageOut",
    "Pictures",
    "QuestionOptions",
    "QuestionsOptions",
    "ReadingOptions",
    "RivalOptions",
    "ShownOptions",
    "Sources",
    "StartOptions",
    "StreamOptions",
    "ToldOptions",
    "WhereOptions",
    "with_groups",
]
