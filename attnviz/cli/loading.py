"""Loads models, and makes keys of settings and files; equal keys mean that work is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnviz.cli import console
from attnviz.cli.options.inputs import InputOptions
from attnviz.errors import ModelError, OutputError
from attnviz.explanation.selection import parse_heads
from attnviz.methods import without_score
from attnviz.models.settings import parse_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attnviz.cli.options.inputs import ModelOptions
    from attnviz.cli.options.questions import QuestionOptions, StartOptions, WhereOptions
    from attnviz.models.model import Model
    from attnviz.models.targets import Head


def key_of(settings: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """A key that changes with any setting, and with the name or the content of any file.

    `files` has the result of `picture_files.fingerprint`, or of `identity`, for each name.
    """
    text = json.dumps([settings, files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def identity(path: str | Path) -> list[tuple[str, int, int]]:
    """Names, sizes and modification times of a file, or of all files in a folder: weights, code.

    Raises:
        OutputError: the files cannot be read.
    """
    root = Path(path)
    try:
        files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
        found = [(str(file.relative_to(root)), file.stat()) for file in files if file.exists()]
    except OSError as error:
        raise OutputError(f"{path}: cannot be looked at ({error.strerror})") from error
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


def load(options: ModelOptions, question: QuestionOptions | StartOptions) -> Model:
    """Load the requested model."""
    head = question.to_questions().head
    try:
        model = load_spec(options.model, options, question, head=head)
    except ModelError as error:
        if head not in ("class", "text"):
            raise
        line = f"{error}; or a method that takes no score: {without_score()}"
        raise ModelError(line) from error
    if model.weights == "random":
        console.note("note: random weights: maps show architecture and seed, nothing learnt")
    return model


def load_spec(
    spec: str, options: InputOptions, question: WhereOptions, *, head: Head = "none"
) -> Model:
    """Load a model by its spec, and print the notes about its checkpoint.

    The model `random` gets as many heads as `--heads` requests. Models that answer in words alone
    have the head `words`, whatever is asked.
    """
    from attnviz.models import SOURCES, find_source, load_model  # noqa: PLC0415 — torch, later

    if SOURCES[find_source(spec)].words:
        head = "words"
    model = load_model(**arguments(spec, options, question, head=head))
    for note in model.notes:
        console.say(f"note: {spec}: {note}")
    return model


def arguments(
    spec: str, options: InputOptions, question: WhereOptions, *, head: Head = "none"
) -> dict[str, Any]:
    """The arguments of `load_model`, in a form that can be sent to other machines."""
    heads = parse_heads(question.heads)
    of_model = {each.name: getattr(options, each.name) for each in fields(InputOptions)}
    del of_model["fit"], of_model["mask"]  # of the picture
    of_model["settings"] = parse_settings(options.settings or ())
    return {
        "spec": spec,
        "heads": heads if isinstance(heads, int) else None,
        **of_model,
        "head": head,
    }


def identities(spec: str, inputs: InputOptions, queries: Sequence[str]) -> dict[str, Any]:
    """The identities of files on this machine that may change: weights, code, masks."""
    from attnviz.models import find_path  # noqa: PLC0415
    from attnviz.output.record_info import readable  # noqa: PLC0415

    named = [find_path(spec), inputs.weights, inputs.base, inputs.mask, *queries]
    return {readable(path): identity(path) for path in named if path is not None}


def uncontrolled(model: Model) -> str | None:
    """The reason why a model has no control with random weights; None if it has one."""
    from attnviz.models import SOURCES, find_source  # noqa: PLC0415

    if model.weights == "random":
        return "it has them"
    return SOURCES[find_source(model.spec)].no_control or None


def controlled(inputs: InputOptions, model: Model) -> InputOptions:
    """The options that load the control of a model."""
    from attnviz.models import find_source  # noqa: PLC0415

    control = replace(inputs, weights=None, random_weights=True)
    if find_source(model.spec) == "random":  # as wide as the loaded weights
        control = replace(control, features=model.features)
    return control
