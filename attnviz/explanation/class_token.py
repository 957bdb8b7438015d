"""Measures which of the tokens beside the grid is the class token."""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attnviz.explanation.layers import Layer
from attnviz.explanation.trials import copied
from attnviz.models.class_token_names import class_token_name
from attnviz.models.model import Model
from attnviz.models.weights import seeded
from attnviz.recording import record

_RANKS: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
"""For each model, the place of its class token among the tokens beside the grid; found once."""
_ALONE = 1e-3
"""The other tokens' queries change by less than this share of the class token's."""


def class_token_rank(
    model: Model, inputs: tuple[Tensor, ...], number: int, layer: Layer, layers: Sequence[int]
) -> int:
    """The place of the class token among the tokens before and behind the grid; 0 if unknown.

    Most models have it first. Where there are several such tokens, the model runs twice more, the
    second time with another class token: in the first layer only this token's query differs.

    Args:
        model: the model.
        inputs: its inputs.
        number: number of the layer.
        layer: a layer, which tells how many tokens lie beside the grid.
        layers: numbers of all drawn layers.
    """
    if model.plain or not model.class_token:
        return 0
    if model.module not in _RANKS:
        if len(layer.outside) < 2:
            return 0
        name, first = class_token_name(model.module), min(layers, default=number)
        _RANKS[model.module] = _measured(model, inputs, name, layer, first) if name else 0
    return _RANKS[model.module]


def _measured(model: Model, inputs: tuple[Tensor, ...], name: str, layer: Layer, first: int) -> int:
    module, parameter = model.module, model.module.get_parameter(name).detach()
    module = copied(module)
    queries = []
    for value in (parameter, parameter.flip(-1) + 1):
        arguments = tuple(each.detach() for each in inputs)
        try:
            with seeded(model.seed or 0), torch.no_grad(), record(calls=[first]) as recording:
                torch.func.functional_call(module, {name: value}, arguments)
        except Exception:
            return 0
        queries.append(recording[first].query.float())
    if queries[0].shape[2] != layer.queries.cells.shape[1]:
        return 0
    change = (queries[1] - queries[0]).abs().amax((0, 1, 3))[list(layer.outside)]
    largest = int(change.argmax())
    others = torch.cat([change[:largest], change[largest + 1 :]])
    return largest if bool((others < _ALONE * change[largest]).all()) else 0
