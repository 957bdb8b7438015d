"""Decides at which steps of a training attention is logged."""

import time
from dataclasses import dataclass, field


@dataclass
class LogInterval:
    """When to log: every so many steps, or as often as a share of the time allows.

    >>> interval = LogInterval(every=500)
    >>> [step for step in range(2000) if interval.due(step)]
    [0, 500, 1000, 1500]

    Attributes:
        every: number of steps; None logs as often as `share` allows.
        share: largest share of the time that logging may take.
    """

    every: int | None = None
    share: float = 0.005
    _step: int | None = field(default=None, init=False)
    _ended: float | None = field(default=None, init=False)
    _took: float = field(default=0.0, init=False)

    def due(self, step: int) -> bool:
        """Whether a step is logged, once; the first one always is unless `every` says otherwise."""
        if step == self._step:  # several batches may make one step
            return False
        if self._due(step):
            self._step = step
            return True
        return False

    def _due(self, step: int) -> bool:
        if self.every is not None:
            return step % self.every == 0
        if self._ended is None:
            return True
        return time.monotonic() - self._ended >= self._took / self.share

    def took(self, seconds: float) -> None:
        """Tell how long the last logging took."""
        self._ended, self._took = time.monotonic(), seconds
