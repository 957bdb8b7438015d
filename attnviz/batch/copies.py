"""A model several times, so that it can run several times at once."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from attnviz.models.model import Model

AT_ONCE = 8
"""Runs at the same time, at most: each takes memory of its own."""


@contextmanager
def copies(model: Model) -> Iterator[list[Model]]:
    """The model, and beside it as many copies as a CPU can run at once, one a core.

    Copies share the parameters, which take most of the memory and are the same in every run. All
    else is their own: what a module notes down while it runs, another run does not see. On other
    devices, and of modules that cannot be copied, there is the model alone. The number of torch's
    threads, which threads may set meanwhile, is put back in the end.

    >>> with copies(model) as models:
    ...     len(models)
    2
    """
    threads = torch.get_num_threads()
    number = min(threads, AT_ONCE) if model.device.type == "cpu" else 1
    try:
        yield [model, *_copied(model, number - 1)]
    finally:
        torch.set_num_threads(threads)


def _copied(model: Model, number: int) -> list[Model]:
    """So many copies, or none at all."""
    shared = {id(parameter): parameter for parameter in model.module.parameters()}
    try:
        return [
            replace(model, module=copy.deepcopy(model.module, dict(shared))) for _ in range(number)
        ]
    except Exception:  # a module may hold what cannot be copied: a lock, a file, a handle
        return []
