"""A whole run: what is found, what is left, the work, and what is written at the end."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from attnviz.batch.finalizers import close
from attnviz.batch.jobs import Outcome, Settings, Unanswerable
from attnviz.batch.ledger import Ledger, PendingPart, is_reserved, part, remaining
from attnviz.batch.local import WINDOW, LocalEngine, Windows
from attnviz.batch.sources import Item
from attnviz.errors import UsageError
from attnviz.explanation.request import check_model
from attnviz.models.model import Model

ENOUGH = 8
"""Of so many pictures the model cannot be asked a question: then of none."""


@dataclass(frozen=True)
class Count:
    """How many pictures there are, are done, and failed, over all runs into the folder."""

    all: int
    done: int
    failed: int

    @property
    def left(self) -> int:
        """How many are still to be done."""
        return self.all - self.done - self.failed


OnOutcome = Callable[[Outcome, Count], None]


class Runner(Protocol):
    """An engine, which does windows of the plan and tells every outcome."""

    def run(self, windows: Windows) -> None: ...


Start = Callable[[Callable[[Outcome], None]], Runner]
"""Makes an engine that tells its outcomes to what it is given, one at a time."""


class Batch:
    """Pictures that are to be done into a folder, of which some may be done.

    Raises:
        UsageError: a picture of which the files would lie where those of all do.
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
        self._items, self._settings, self._out, self._ledger = items, settings, out, ledger
        self._missing = remaining(items, ledger, settings, out, force=force)
        self._finished, self._failed = self._missing.count(False), 0
        self._refused: Counter[str] = Counter()

    @property
    def count(self) -> Count:
        """As it is now."""
        return Count(len(self._items), self._finished, self._failed)

    def work(
        self, model: Model, *, batch: int | None, stop: threading.Event, on_outcome: OnOutcome
    ) -> None:
        """Do what is left, on this machine.

        Raises:
            UsageError: the model does not have what is asked for.
            OutputError: nothing more can be written.
            Unanswerable: what is asked is nothing that the model can be asked.
        """
        check_model(model, self._settings.questions)
        self.work_by(
            lambda note: LocalEngine(
                model, self._settings, self._out, batch=batch, stop=stop, on_outcome=note
            ),
            on_outcome,
        )

    def work_by(self, start: Start, on_outcome: OnOutcome) -> None:
        """Do what is left by an engine of any kind; the journal is written here, by one process.

        Raises:
            AttnvizError: what the engine raises.
        """

        def note(outcome: Outcome) -> None:
            self._ledger.add(outcome.entry, outcome.line)
            if outcome.entry.status == "done":
                self._finished += 1
            else:
                self._failed += 1
            on_outcome(outcome, self.count)
            self._give_up(outcome)

        start(note).run(self._windows())

    def _give_up(self, outcome: Outcome) -> None:
        """End a run of which nothing comes: the first pictures all fail for the same question."""
        error = outcome.cause
        if self._finished or not isinstance(error, Unanswerable):
            return
        self._refused[str(error)] += 1
        if self._refused[str(error)] == min(ENOUGH, len(self._items)):
            raise error

    def _windows(self) -> Iterator[list[PendingPart]]:
        """Parts of the plan that are not done, with what is done among them."""
        for start in range(0, len(self._items), WINDOW):
            numbers = range(start, min(start + WINDOW, len(self._items)))
            if any(self._missing[n] for n in numbers):
                yield [
                    part(self._items[n], self._ledger, missing=self._missing[n]) for n in numbers
                ]

    def finish(self, finalizers: Sequence[str] = ()) -> list[Path]:
        """Write what is said of all pictures together, and what else is asked for (`FINALIZERS`).

        Raises:
            OutputError: a file cannot be written.
        """
        paths = [item.path for item in self._items]
        written = self._ledger.finish(paths)
        written += close(self._out, finalizers)
        self._ledger.tidy(paths)
        return written
