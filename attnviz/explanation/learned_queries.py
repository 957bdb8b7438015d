"""Finds the learned queries by which a model with words reads the picture, and follows them."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from attnviz.explanation.passing_back import WholeRun
from attnviz.models.prompts import PromptRun
from attnviz.models.words import WordInput
from attnviz.recording import record

_MAPS = (nn.Linear, nn.modules.conv._ConvNd, nn.LayerNorm)  # noqa: SLF001 — of every convolution
"""Modules whose own weights are no queries."""


def learned_queries(words: WordInput, answered: PromptRun, run: WholeRun) -> WholeRun:
    """The run with the places of learned queries: their numbers.

    They are the queries of the first call that lie nowhere themselves, and whose keys lie on the
    picture. Which weights they come from is measured: the model runs once more for each
    candidate, with positions that start there instead of at the picture.
    """
    first = _first_reader(run)
    if first is None:
        return run
    for weights in _candidates(words.module, run.recording[first].shape[2]):
        number = torch.arange(weights.shape[-2], device=weights.device) + 0.5
        places = torch.complex(torch.full_like(number, 0.5), number)[:, None].expand(weights.shape)
        with torch.no_grad(), record(picture=weights, places=places) as recording:
            words.run(answered)
        if len(recording) != len(run.recording):
            continue
        found = list(recording)
        if _are_numbers(found[first].query_positions) and any(
            _placed(found[n].key_positions) for n in run.language
        ):
            return replace(run, learned=found)
    return run


def _first_reader(run: WholeRun) -> int | None:
    """The first call before the language model whose queries read the picture from nowhere."""
    for number in run.behind(run.language[0]) if run.language else ():
        call = run.recording[number]
        if _placed(call.key_positions) and not _placed(call.query_positions):
            return number
    return None


def _placed(positions: Tensor | None) -> bool:
    return positions is not None and bool(positions.isfinite().all(-1).any())


def _are_numbers(positions: Tensor | None) -> bool:
    """Whether the queries of each window come from different rows of the weights."""
    if positions is None or not bool(positions.isfinite().all()):
        return False
    rows = positions[..., 1].floor()
    return all(len(each.unique()) == len(each) for each in rows)


def _candidates(module: nn.Module, count: int) -> Iterator[Tensor]:
    """Weights of which `count` rows may be queries; those with just so many rows first."""
    found = [
        each
        for part in module.modules()
        if not isinstance(part, _MAPS)
        for each in part.parameters(recurse=False)
        if each.ndim > 1 and each.shape[-2] >= count and each.shape[-2:].numel() == each.numel()
    ]
    yield from sorted(found, key=lambda each: each.shape[-2] - count)
