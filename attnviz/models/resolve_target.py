"""Resolves a target before the model runs: a label gets its number; errors say what is missing."""

from dataclasses import replace

from attnviz.errors import UsageError
from attnviz.models.model import Model
from attnviz.models.model_request import CLASSIFIER, WITH_TEXT
from attnviz.models.preprocessing import labels as names_of
from attnviz.models.targets import Target, find_label


def resolve(model: Model, target: Target) -> Target:
    """Resolve and check a target before the model runs: a label gets its number.

    `auto` stays `auto` until there is an output. A text is embedded here, so the text tower does
    not run while attention is recorded.

    Raises:
        UsageError: the model has no such class, token, or head.
        ModelError: its tokenizer belongs to another model.
    """
    if target.kind == "word":
        return target
    if target.against:
        of_part = target.kind in ("object", "region")
        others = tuple(_resolve_other(model, o, of_part=of_part) for o in target.against)
        return replace(resolve(model, replace(target, against=())), against=others)
    if target.kind in ("object", "region"):
        return _resolve_part(model, target)
    if target.kind == "text":
        return _resolve_text(model, target)
    if model.head == "text":
        raise UsageError(
            f"--target {target}: {model.spec} is asked for texts, and its output is of length 1 "
            "whatever it shows; give --text alone"
        )
    if target.kind == "class":
        return _resolve_class(model, target)
    if target.query is not None:
        _check_tokens(model, target)
    return target


def _resolve_text(model: Model, target: Target) -> Target:
    if model.texts is None or target.text is None:
        raise UsageError(
            f"--text {target}: {model.spec} has no text tower, or is loaded without; give a model "
            f"that has (head='text' in Python), such as {' or '.join(WITH_TEXT)}"
        )
    model.texts([target.text])
    return target


def _resolve_part(model: Model, target: Target) -> Target:
    """The score of an object or a region, resolved; the output shows whether the model has it."""
    if model.head == "text" or (model.head == "class" and not model.head_assumed):
        raise UsageError(
            f"--target {target}: {model.spec} has one score for the whole picture, and none of a "
            "place or an object; give --target CLASS, or a segmenter, a depth model or a detector"
        )
    if target.kind == "region" and target.label is not None:
        return _numbered(model, target)
    return target


def _numbered(model: Model, target: Target) -> Target:
    """A target with the number of its label."""
    if target.index is not None:
        return target
    labels = model.labels or names_of(model.module)
    assert target.label is not None
    if labels is None:
        raise UsageError(
            f"--target {target}: {model.spec} does not name its classes; give a number"
        )
    return replace(target, index=find_label(labels, target.label))


def _resolve_class(model: Model, target: Target) -> Target:
    if model.head == "dense":
        raise UsageError(
            f"--target {target}: {model.spec} has a score for each place or object; give --target "
            f"class:{target}@X,Y or class:{target}@MASK, or of a detector object:{target}"
        )
    if model.head != "class":
        raise UsageError(
            f"--target {target}: {model.spec} has no class head, or is loaded without; give "
            f"--target norm, or a classifier (head='class' in Python) such as {CLASSIFIER}"
        )
    target = _numbered(model, target)
    return target if model.labels is None else named(model, target, len(model.labels))


def _resolve_other(model: Model, other: Target, *, of_part: bool = False) -> Target:
    """A target that another, perhaps `of_part` of the picture, is compared with, resolved.

    Raises:
        UsageError: the model has no such class; the line names `--against`.
    """
    if other.kind == "text":
        return _resolve_text(model, other)
    try:
        if model.head == "dense" or (of_part and model.head != "class"):
            return other if other.kind == "rest" else _numbered(model, other)
        if other.kind == "class":
            return _resolve_class(model, other)
        _resolve_class(model, Target("class", index=0))  # a head that has classes
    except UsageError as error:
        shown = str(error).replace("--target 0:", "--target rest:")
        raise UsageError(shown.replace("--target", "--against", 1)) from error
    return other


def named(
    model: Model, target: Target, count: int, labels: tuple[str, ...] | None = None
) -> Target:
    """A target with the label of its class; its number must be one of the `count` classes."""
    assert target.index is not None
    if target.index >= count:
        raise UsageError(
            f"--target {target}: {model.spec} has {count} classes; give 0 to {count - 1}, or a "
            "label"
        )
    labels = labels or model.labels
    known = labels is not None and len(labels) == count
    return replace(target, label=labels[target.index] if labels and known else None)


def _check_tokens(model: Model, target: Target) -> None:
    """Refuse a query of output tokens before the model runs, if its output has no tokens."""
    assert target.query is not None
    if model.head == "class" and not model.head_assumed:
        raise UsageError(
            f"--target {target}: {model.spec} gives logits and no tokens; give --target norm, or a "
            "model without a class head (head='none' in Python) such as dinov2-small"
        )
    if target.query.kind == "cls" and not model.class_token:
        raise UsageError(
            f"--target {target}: {model.spec} has no class token; give --target norm:mean"
        )
