"""The cheap step: ask a recording a question."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from attnviz import methods, queries, statistics
from attnviz.attention.reading import Reading
from attnviz.attention.sweep import Progress
from attnviz.errors import RecordingError, UsageError
from attnviz.geometry import Fit
from attnviz.images import Picture, load_mask
from attnviz.models.model import Model
from attnviz.pipeline.observation import Observation
from attnviz.queries import Query
from attnviz.selection import choose_heads, choose_layers, parse_heads, parse_layers


@dataclass(frozen=True)
class Explanation:
    """Maps that answer one query, and the numbers of their heads.

    Attributes:
        observation: what was asked.
        query: the question, definite.
        method: its name.
        layers, heads: numbers of the maps' first two axes.
        maps: (layers, heads, rows, columns) float32 weights; masked tokens are 0.
        numbers: of each statistic, (layers, heads) float32.
    """

    observation: Observation
    query: Query
    method: str
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    maps: NDArray[np.float32]
    numbers: dict[str, NDArray[np.float32]]


def explain(
    observation: Observation,
    *,
    query: str = "auto",
    method: str = methods.DEFAULT,
    layers: str = "-1",
    heads: str = "all",
    progress: Progress | None = None,
) -> Explanation:
    """Ask an observation where it looks from a query: maps and numbers per head.

    Args:
        observation: what `observe` gave.
        query: `auto`, `cls`, `mean`, `X,Y`, `X0,Y0,X1,Y1` or a mask picture, in picture pixels.
        method: a name that `attnviz methods` lists.
        layers: `-1`, `all`, `0,5-11`.
        heads: `all`, a count `8`, a list `0,3,5-7`.
        progress: told (query rows done, query rows in all).

    >>> explain(observation, query="120,80", heads="8").maps.shape      # (1, 8, 14, 21)

    Raises:
        UsageError: an option that cannot be read, or asks for more than there is.
        RecordingError: the weights are not finite.
    """
    chosen_layers = choose_layers(parse_layers(layers), len(observation.recording))
    chosen_heads = choose_heads(parse_heads(heads), observation.recording[0].heads)
    if method not in methods.METHODS:
        raise UsageError(f"--method {method!r} is none; take {', '.join(methods.METHODS)}")
    asked = queries.resolve(queries.parse(query), has_class_token=observation.model.class_token)
    reading = _reading(observation, asked, chosen_layers, progress)
    maps = methods.METHODS[method].load()(reading)  # (L, B, H, N)
    numbers = [statistics.measure(reading, layer) for layer in chosen_layers]
    index = torch.tensor(chosen_heads, device=maps.device)
    return Explanation(
        observation=observation,
        query=asked,
        method=method,
        layers=chosen_layers,
        heads=chosen_heads,
        maps=_on_grid(observation, maps[:, 0][:, index]),
        numbers={
            name: torch.stack([each[name][0, index] for each in numbers]).cpu().numpy()
            for name in statistics.STATISTICS
        },
    )


def check_question(
    picture: Picture,
    model: Model,
    *,
    fit: Fit = "keep",
    query: str = "auto",
    layers: str = "-1",
    heads: str = "all",
) -> None:
    """Whether a question can be asked of a model and a picture, before the model is run.

    Raises:
        UsageError: a query beside the picture, or heads or layers that the model does not have.
        ImageError: a mask picture that cannot be read.
    """
    choose_layers(parse_layers(layers), model.layers)
    choose_heads(parse_heads(heads), model.heads)
    asked = queries.resolve(queries.parse(query), has_class_token=model.class_token)
    placement = model.place(picture, fit=fit)
    everything = np.ones(placement.grid.tokens, dtype=np.bool_)
    queries.weights(asked, placement, everything, _query_mask(asked, picture))


def _query_mask(query: Query, picture: Picture) -> NDArray[np.bool_] | None:
    """The mask picture that a query names."""
    if query.path is None:
        return None
    return load_mask(query.path, width=picture.width, height=picture.height)


def _reading(
    observation: Observation, query: Query, layers: tuple[int, ...], progress: Progress | None
) -> Reading:
    """What the core needs to know of the tokens, as tensors beside the recording."""
    placement, device = observation.placement, observation.recording[0].query.device
    mask = _query_mask(query, observation.picture)
    weights = queries.weights(query, placement, observation.taking_part, mask)
    positions = np.zeros((placement.grid.tokens, 2), dtype=np.float32)
    positions[placement.grid.prefix :] = placement.grid.centres()
    return Reading(
        recording=observation.recording,
        layers=layers,
        prefix=torch.arange(placement.grid.tokens, device=device) < placement.grid.prefix,
        taking_part=torch.from_numpy(observation.taking_part).to(device),
        positions=torch.from_numpy(positions).to(device),
        weights=torch.from_numpy(weights.astype(np.float32)).to(device),
        progress=progress,
    )


def _on_grid(observation: Observation, maps: torch.Tensor) -> NDArray[np.float32]:
    """(layers, heads, tokens) → (layers, heads, rows, columns)."""
    grid = observation.placement.grid
    if not torch.isfinite(maps).all():
        kind = observation.model.dtype
        advice = "check the model's weights" if kind == torch.float32 else "take --dtype float32"
        raise RecordingError(
            f"{observation.picture.path}: the attention is not finite in {kind}; {advice}"
        )
    values: NDArray[np.float32] = maps[..., grid.prefix :].float().cpu().numpy()
    return values.reshape(*values.shape[:2], grid.rows, grid.columns)
