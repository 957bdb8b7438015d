"""Runs a whole batch: finds what is pending, lets an engine do it, and writes the final files."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

from attnviz.batch.finalizers import close
from attnviz.batch.jobs import Outcome, Settings, Unanswerable, as_line
from attnviz.batch.ledger import Ledger, PendingPart, is_reserved, part, remaining
from attnviz.batch.local import LocalEngine, Windows
from attnviz.batch.shares import DONE, FinishedShard, plan_digest, windows
from attnviz.batch.sources import Item, order
from attnviz.errors import UsageError
from attnviz.explanation.request import check_model
from attnviz.models.model import Model
from attnviz.output.whole_files import write_whole

ENOUGH = 8
"""If the first pictures, this many, all fail for the same question, the run stops."""


@dataclass(frozen=True)
class Count:
    """The number of pictures, and how many are finished and failed, over all runs in the folder."""

    all: int
    done: int
    failed: int

    @property
    def left(self) -> int:
        """How many pictures are still pending."""
        return self.all - self.done - self.failed


OnOutcome = Callable[[Outcome, Count], None]


class Runner(Protocol):
    """An engine: it processes windows of the plan and reports every outcome."""

    def run(self, windows: Windows) -> None: ...


Start = Callable[..., Runner]
"""Makes an engine that reports its outcomes to the function `on_outcome`, one at a time."""


class Batch:
    """Pictures and their output folder; some may already be finished.

    The ledger of a shard takes only the pictures of that shard, of all that are given.

    Raises:
        UsageError: the folder of a picture would have the name of a file of the whole batch.
    """

    def __init__(
        self,
        items: Sequence[Item],
        settings: Settings,
        out: Path,
        ledger: Ledger,
        *,
        force: bool = False,
    ) -> None:
        for item in items:
            if is_reserved(item):
                raise UsageError(f"{item.path}: its folder would be {item.folder}; rename it")
        self._plan, self._settings, self._out, self._ledger = items, settings, out, ledger
        self._windows = windows(items, ledger.shard)
        whole = items if ledger.shard is None else sorted(chain(*self._windows), key=order)
        self._keys = [item.key for item in whole]
        self._places = {item.key: item.place for item in whole if item.place}
        missing = remaining(whole, ledger, settings, out, force=force)
        self._missing = {
            key for key, is_missing in zip(self._keys, missing, strict=True) if is_missing
        }
        self._finished, self._failed = missing.count(False), 0
        self._refused: Counter[str] = Counter()

    @property
    def count(self) -> Count:
        """The count now."""
        return Count(len(self._keys), self._finished, self._failed)

    def work(
        self, model: Model, on_outcome: OnOutcome, *, batch: int | None, stop: threading.Event
    ) -> None:
        """Process the pending pictures on this machine.

        Raises:
            UsageError: the model does not have what is requested (a layer, a head …).
            OutputError: nothing more can be written.
            Unanswerable: the model cannot answer the question.
        """
        check_model(model, self._settings.questions)
        start = partial(LocalEngine, model, self._settings, self._out, batch=batch, stop=stop)
        self.work_by(start, on_outcome)

    def work_by(self, start: Start, on_outcome: OnOutcome) -> None:
        """Process the pending pictures with any engine; only this process writes the journal.

        Raises:
            AttnvizError: what the engine raises.
        """

        def note(found: Outcome) -> None:
            outcome = self._placed(found)
            self._ledger.add(outcome.entry, outcome.line)
            if outcome.entry.status == "done":
                self._finished += 1
            else:
                self._failed += 1
            on_outcome(outcome, self.count)
            self._give_up(outcome)

        start(on_outcome=note).run(self._pending())

    def _placed(self, outcome: Outcome) -> Outcome:
        """The outcome; the error of a picture that a list names says in which row."""
        entry, place = outcome.entry, self._places.get(outcome.entry.key)
        if place is None or entry.status == "done":
            return outcome
        return replace(outcome, entry=replace(entry, error=f"{entry.error} ({place})"))

    def _give_up(self, outcome: Outcome) -> None:
        """End a run without results: the first pictures all fail for the same question."""
        error = outcome.cause
        if self._finished or not isinstance(error, Unanswerable):
            return
        self._refused[str(error)] += 1
        if self._refused[str(error)] == min(ENOUGH, len(self._keys)):
            raise error

    def _pending(self) -> Iterator[list[PendingPart]]:
        """Windows with pending pictures, and the finished pictures among them."""
        for window in self._windows:
            if any(item.key in self._missing for item in window):
                yield [
                    part(item, self._ledger, missing=item.key in self._missing) for item in window
                ]

    def finish(self, finalizers: Sequence[str] = ()) -> list[Path]:
        """Write the files about all pictures, and the requested ones of `FINALIZERS`.

        A shard leaves them to `merge`, and writes what `merge` must know.

        Raises:
            OutputError: a file cannot be written.
        """
        shard = self._ledger.shard
        if shard is None:
            return close_all(self._ledger, self._out, self._keys, finalizers)
        done = FinishedShard(
            self._settings.digest,
            plan_digest(self._plan),
            len(self._plan),
            tuple(finalizers),
            tuple(self._keys),
        )
        write_whole(shard.folder(self._out) / DONE, as_line(asdict(done)))
        return []


def close_all(
    ledger: Ledger, out: Path, keys: Sequence[str], finalizers: Sequence[str]
) -> list[Path]:
    """Write the files about all these pictures, in their order; the ledger is tidied last.

    Raises:
        OutputError: a file cannot be written.
    """
    written = ledger.finish(keys)
    written += close(out, finalizers)
    ledger.tidy(keys)
    return written
