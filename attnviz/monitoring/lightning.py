"""A callback for Lightning that logs attention while a model is trained."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from attnviz.monitoring.interval import LogInterval
from attnviz.monitoring.log import log
from attnviz.monitoring.writers import loggers_of


class AttentionLogger(Callback):  # type: ignore[misc]  # the library has no types here
    """Log where a model looks, to all loggers of a Lightning `Trainer`.

        trainer = Trainer(callbacks=[AttentionLogger(batch[:4])])

    Args:
        pictures: (pictures, channels, height, width), a few fixed inputs.
        every: log every so many steps; by default as often as costs at most 0.5 % of the time.
        part: name of the submodule to watch, such as `backbone`; by default the whole module.
        to: where to, as for `attnviz.log`; by default the trainer's loggers.
        options: options of `attnviz.log`: `layers`, `heads`, `query`, `method`, `name`.
    """

    def __init__(
        self,
        pictures: Tensor,
        *,
        every: int | None = None,
        part: str = "",
        to: Any = None,
        **options: str,
    ) -> None:
        self.pictures, self.part, self.to, self.options = pictures, part, to, options
        self.interval = LogInterval(every)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002 — Lightning's signature
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Log if it is due, in the first process alone."""
        step = trainer.global_step
        if not trainer.is_global_zero or not self.interval.due(step):
            return
        module: nn.Module = pl_module.get_submodule(self.part)
        began = time.monotonic()
        targets = [self.to] if self.to is not None else loggers_of(trainer.loggers)
        for target in targets:
            log(module, self.pictures, step=step, to=target, **self.options)
        self.interval.took(time.monotonic() - began)
