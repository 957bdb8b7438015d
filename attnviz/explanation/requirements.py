"""Tells what a method needs of an observation, and why it cannot be used on some layers."""

from collections.abc import Sequence

import numpy as np

from attnviz.errors import UsageError
from attnviz.explanation import beyond_words
from attnviz.explanation.beyond_words import goes_beyond
from attnviz.explanation.layers import Layer
from attnviz.explanation.observation import Observation
from attnviz.geometry.grid import Layout
from attnviz.methods import ENTERING, METHODS, Method, Need

_ON_PARTS = frozenset[Need]({"path gradient", "integrated gradient"})


def layers_of(method: Method, last: int, start: int = 0) -> tuple[int, ...]:
    """The layers that a map ending with one layer is made of, first to last."""
    return tuple(range(start, last + 1)) if method.merges == "layers" else (last,)


def check_able(
    observation: Observation, name: str, chosen: Sequence[int], start: int, of: str = "tokens"
) -> None:
    """Check that a method can be used on these layers; `of` is its option, if it has one.

    Raises:
        UsageError: it cannot; the line names the methods that can.
    """
    reason = _missing(observation, METHODS[name], chosen, start, of)
    if reason is None:
        return
    if "features" in METHODS[name].needs and of == "tokens":
        reason += "; --of keys needs none. Give it, or another method"
    able = [
        other
        for other, method in METHODS.items()
        if other != name and _missing(observation, method, chosen, start) is None
    ]
    raise UsageError(f"--method {name}: {reason}; choose from {', '.join(able)}")


def reason_against(observation: Observation, name: str, layer: int) -> str | None:
    """Why a method cannot be used on a layer; None if it can."""
    return _missing(observation, METHODS[name], [layer], 0)


def _missing(
    observation: Observation,
    method: Method,
    chosen: Sequence[int],
    start: int,
    of: str = "tokens",
) -> str | None:
    """Why a method cannot be used on these layers; None if it can."""
    if observation.text is not None and not _ON_PARTS.isdisjoint(method.needs):
        return "it runs the model on parts of the picture, and this one takes words, too"
    if goes_beyond(observation, method, start):
        of_words = [observation.layers[n] for n in chosen]
        weights = (_without(method, *each) for each in zip(of_words, chosen, strict=True))
        return beyond_words.reason_against(observation, method, chosen, start) or next(
            (reason for reason in weights if reason is not None), None
        )
    for last in chosen:
        numbers = layers_of(method, last, start)
        not_drawn = observation.calls.not_drawn
        between = next((number for number in numbers if number in not_drawn), None)
        if between is not None:
            return f"layer {between} is not drawn ({not_drawn[between]})"
        if any(number not in observation.layers for number in numbers):
            return f"of the layers {numbers[0]} to {last} not all were kept"
        reason = _lacking(observation, method, numbers, of)
        if reason is not None:
            return reason
    return None


def _lacking(
    observation: Observation, method: Method, numbers: Sequence[int], of: str
) -> str | None:
    """What the method needs and the layers of one map lack; None if nothing."""
    layers = [observation.layers[n] for n in numbers]
    if method.merges == "layers":
        alone = sorted(observation.calls.alone.intersection(numbers))
        if alone:
            return (
                f"layers {', '.join(map(str, alone))} have one head each and no projection: "
                "they may be heads of one attention, which were not put together"
            )
        pool = "block gradient" not in method.needs
        reason = _no_chain(layers, numbers, pool=pool)
        if reason is not None:
            return reason
    for number, layer in zip(numbers, layers, strict=True):
        reason = _without(method, layer, number)
        in_a_block = not {"tokens", "block gradient", "token gradient"}.isdisjoint(method.needs)
        begins = not ENTERING.isdisjoint(method.needs) and number == numbers[0]
        in_a_block |= "features" in method.needs and of == "tokens"
        if reason is None and (in_a_block or begins) and layer.tokens is None:
            reason = (
                f"the tokens after layer {number} are not known: it is no block of a plain stack "
                "(in Python: or observe() ran without tokens=True)"
            )
            if observation.text is not None:
                reason = "with a prompt no tokens are kept after the blocks"
        if reason is not None:
            return reason
    return None


def _without(method: Method, layer: Layer, number: int) -> str | None:
    """What the method needs and the call of a layer lacks; None if nothing."""
    call = layer.call
    if "projection" in method.needs and call.projection is None:
        return f"no output projection was seen in layer {number}"
    if "distribution" in method.needs and not call.sums_to_one:
        return f"the weights of layer {number} ({call.kind}) do not sum to 1"
    if "keys" in method.needs and call.explicit:
        return f"layer {number} has weights without keys ({call.kind})"
    if "keys" in method.needs and not _same(layer.queries, layer.keys):
        return f"in layer {number} queries and keys are different tokens"
    return None


def _no_chain(layers: Sequence[Layer], numbers: Sequence[int], *, pool: bool) -> str | None:
    """Why the weights of some layers cannot be multiplied; None if they can.

    The last may be an attention `pool`, whose queries are other tokens.
    """
    *stack, last = layers
    first = layers[0]
    for number, layer in zip(numbers, layers, strict=True):
        if layer.call.points is not None:
            return f"in layer {number} each query has points of its own"
        if layer.keys.windows > 1:
            return f"layer {number} has windows, whose tokens do not see one another"
        if not _same(layer.keys, first.keys):
            return f"layer {number} has other tokens than layer {numbers[0]}"
        if not _same(layer.queries, layer.keys) and not (
            pool and layer is last and stack and not layer.queries.on_picture.any()
        ):
            return f"in layer {number} queries and keys are different tokens"
    return None


def _same(one: Layout, other: Layout) -> bool:
    """Whether two layouts describe the same tokens."""
    return (one.rows, one.columns) == (other.rows, other.columns) and np.array_equal(
        one.cells, other.cells
    )
