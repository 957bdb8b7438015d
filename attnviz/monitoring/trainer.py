"""A callback for transformers' `Trainer` that logs attention while a model is trained."""

import time
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from attnviz.monitoring.interval import LogInterval
from attnviz.monitoring.log import log


class AttentionCallback(TrainerCallback):
    """Log where a model looks, while transformers' `Trainer` trains it.

        Trainer(…, callbacks=[AttentionCallback(batch[:4], to=SummaryWriter("runs"))])

    Args:
        pictures: (pictures, channels, height, width), a few fixed inputs.
        to: where to, as for `attnviz.log`.
        every: log every so many steps; by default as often as costs at most 0.5 % of the time.
        options: options of `attnviz.log`: `layers`, `heads`, `query`, `method`, `name`.
    """

    def __init__(
        self, pictures: Tensor, *, to: Any, every: int | None = None, **options: str
    ) -> None:
        self.pictures, self.to, self.options = pictures, to, options
        self.interval = LogInterval(every)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Log if it is due, in the first process alone."""
        step = state.global_step
        if not state.is_world_process_zero or not self.interval.due(step):
            return
        began = time.monotonic()
        log(kwargs["model"], self.pictures, step=step, to=self.to, **self.options)
        self.interval.took(time.monotonic() - began)
