"""`attnviz batch`."""

from __future__ import annotations

import shlex
import traceback
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import attnviz
from attnviz.batch.finalizers import FINALIZERS
from attnviz.cli import check_notes, console, loading, run, tiled
from attnviz.cli.options.batching import BatchOptions, EngineOptions, Sources
from attnviz.cli.options.groups import with_groups
from attnviz.cli.options.inputs import ModelOptions
from attnviz.cli.options.questions import QuestionOptions
from attnviz.cli.options.reading import TiledReadingOptions
from attnviz.cli.options.results import DrawingOptions, Out, StreamOptions
from attnviz.cli.shared_basis import NAME, basis_path, observations, with_basis
from attnviz.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from attnviz.batch.jobs import Outcome, Settings
    from attnviz.batch.run import Batch, Count, OnOutcome
    from attnviz.batch.sources import Plan
    from attnviz.explanation.request import Questions

_ERRORS = 20
"""At most this many failures are printed one by one; the manifest has all."""


@with_groups
def batch(
    *,
    sources: Sources,
    many: BatchOptions,
    model: ModelOptions,
    reading: TiledReadingOptions,
    question: QuestionOptions,
    drawing: DrawingOptions,
    where: EngineOptions,
    streams: StreamOptions,
    out: Out = Path("attnviz-out"),
) -> None:
    """Show many pictures: folders, patterns, lists.

    A second run continues where the first one stopped.
    """
    from threading import Event  # noqa: PLC0415 — not for `--help`

    from attnviz.batch.ledger import FOLDER, Ledger  # noqa: PLC0415
    from attnviz.batch.run import Batch  # noqa: PLC0415
    from attnviz.batch.sources import find  # noqa: PLC0415

    question = question.of_model(model.model)
    for name in many.finalizers:
        FINALIZERS[name].check()  # before hours of work
    cluster = where.cluster()
    plan = find(sources, out, recursive=many.recursive)
    question = _with_prompts(plan, question)
    tiled.check(reading, model, question)
    asked = _asked(plan, many, model, reading, question, drawing, streams, out)
    settings = _settings(asked, many, model, reading, question, drawing)
    stop = Event()
    with Ledger(out, where.share) as ledger:
        todo = Batch(plan.items, settings, out, ledger, force=many.force)
        before = todo.count.done
        teller = _BatchPrinter(streams, settings, out)

        def begin() -> Callable[[OnOutcome], None]:
            how: dict[str, Any] = {"batch": many.batch, "stop": stop}
            if cluster is None and (where.workers or 1) == 1:
                return partial(todo.work, loading.load(model, question), **how)
            head = question.to_questions().head
            asked = loading.arguments(model.model, model, question, head=head)
            if cluster is None:
                from attnviz.batch.processes import ProcessEngine  # noqa: PLC0415 — torch

                how["workers"] = where.workers
                return partial(todo.work_by, partial(ProcessEngine, asked, settings, out, **how))
            from attnviz.batch.cluster import RayEngine  # noqa: PLC0415 — torch, checked options

            how["cluster"] = cluster
            return partial(todo.work_by, partial(RayEngine, asked, settings, out, **how))

        console.stoppable(lambda: _work(todo, begin, teller), stop)
        if todo.count.left:
            console.say(f"interrupted: {_progress(todo.count)}; the same command goes on from here")
            raise typer.Exit(ExitCode.INTERRUPTED)
        inner = out / FOLDER  # only attnviz's own files
        teller.paths(
            [path for path in todo.finish(tuple(many.finalizers)) if inner not in path.parents]
        )
    teller.end(plan, todo.count, before)
    if where.share is not None:
        console.say(
            f"note: this was shard {where.share}, {todo.count.all} of {len(plan.items)} pictures; "
            f"when all shards are done: attnviz merge {shlex.quote(str(out))}"
        )
    elif "aggregate" in many.finalizers and not (streams.json or streams.csv or streams.quiet):
        show_aggregate(out)
    raise typer.Exit(exit_code(todo.count))


def _with_prompts(plan: Plan, question: QuestionOptions) -> QuestionOptions:
    """The question; a list may have the prompt of every picture.

    Raises:
        UsageError: a picture has no prompt, and there is none for all.
    """
    if question.asks_words or not plan.asks:
        return question
    for item in plan.items:
        if item.prompt is None:
            raise UsageError(
                f"{item.place or item.path}: has no prompt; write one into the list, or add "
                "--prompt TEXT, which holds where the list has none"
            )
    return replace(question, prompt="")


def show_aggregate(out: Path) -> None:
    """The folder's numbers as tables on stdout."""
    from attnviz.batch.aggregate import aggregate  # noqa: PLC0415
    from attnviz.batch.finalizers import STATS  # noqa: PLC0415
    from attnviz.cli.summary_tables import aggregate_tables  # noqa: PLC0415

    console.show(*aggregate_tables(aggregate(out / STATS)))


def _asked(  # noqa: PLR0917 — the groups of the command
    plan: Plan,
    many: BatchOptions,
    model: ModelOptions,
    reading: TiledReadingOptions,
    question: QuestionOptions,
    drawing: DrawingOptions,
    streams: StreamOptions,
    out: Path,
) -> Questions:
    """The questions; a basis that all pictures share is made first if it is not there."""
    asked = question.to_questions(drawing.animate, blend=drawing.blend).seeded(model.seed)
    path = basis_path(asked, out / NAME)
    remake = many.force and asked.settings.get("basis") == "shared"
    if path is None or (path.exists() and not remake):
        return with_basis(asked, path, lambda _: (), quiet=streams.quiet)
    paths = [item.path for item in plan.items]
    seen = observations(paths, loading.load(model, question), model, reading)
    return with_basis(asked, path, seen, quiet=streams.quiet, remake=remake)


def _settings(  # noqa: PLR0917 — the groups of the command
    asked: Questions,
    many: BatchOptions,
    model: ModelOptions,
    reading: TiledReadingOptions,
    question: QuestionOptions,
    drawing: DrawingOptions,
) -> Settings:
    """The settings for every picture, with the digest of everything that changes the output."""
    from attnviz.batch.jobs import Settings  # noqa: PLC0415
    from attnviz.cli.loading import key_of  # noqa: PLC0415
    from attnviz.output.write_pictures import Drawing  # noqa: PLC0415

    style = Drawing(**drawing.values())
    draws = "--animate" if drawing.animate is not None else "--blend" if drawing.blend else None
    if draws is not None and many.pictures == "none":
        raise UsageError(f"{draws} draws, and --pictures none does not; leave out one of them")
    if drawing.overlay_size != "picture" and many.pictures != "heads":
        raise UsageError("--overlay-size is of overlays; add --pictures heads, or leave it out")
    style.check()  # an unknown colour map is wrong usage, before anything runs
    settings_of_run = {
        "attnviz": attnviz.__version__,
        "question": asdict(asked),
        "input": asdict(model),
        "range": reading.range,
        "pictures": many.pictures,
        "drawing": None if many.pictures == "none" else asdict(style),
        "npz": many.npz,
    }
    if not many.draft:
        settings_of_run["draft"] = False
    if not reading.part.whole:
        settings_of_run["part"] = asdict(reading.part)
    if reading.tiling is not None:
        settings_of_run["tiling"] = asdict(reading.tiling)
    basis = asked.settings.get("basis", "own")
    files = [*question.queries, *question.target_masks, *([] if basis == "own" else [basis])]
    digest = key_of(settings_of_run, loading.identities(model.model, model, files))
    return Settings(
        asked,
        style,
        digest,
        model.fit,
        model.mask,
        many.pictures,
        many.npz,
        reading.range,
        reading.part,
        reading.tiling,
        many.draft,
    )


def _work(
    todo: Batch, begin: Callable[[], Callable[[OnOutcome], None]], teller: _BatchPrinter
) -> None:
    """Process the pending pictures, and show the progress."""
    from attnviz.cli.console import tally  # noqa: PLC0415

    if not todo.count.left:
        return
    work = begin()  # before our progress bar, since loading may draw one
    with tally(todo.count, quiet=teller.quiet) as show:

        def report(outcome: Outcome, count: Count) -> None:
            teller.tell(outcome)
            show(count)

        work(report)


class _BatchPrinter:
    """Prints the outcome of each picture as soon as it is known, in the requested form."""

    def __init__(self, streams: StreamOptions, settings: Settings, out: Path) -> None:
        self._streams, self._settings, self._out = streams, settings, out
        self._header, self._errors, self._unverified = True, 0, 0
        self._less = 0
        self._notes: Counter[str] = Counter()
        self._checks: Counter[str] = Counter()

    @property
    def quiet(self) -> bool:
        """Whether only the paths of files are printed."""
        return self._streams.quiet

    def tell(self, outcome: Outcome) -> None:
        """Print the outcome of one picture."""
        from attnviz.output import encoding  # noqa: PLC0415

        if not outcome.records:
            self._fail(outcome)
            return
        self._note(outcome)
        record = outcome.records[0]
        self._unverified += not record.check.verified
        fits = record.tokens.fit == self._settings.fit or record.image.duration is not None
        self._less += not fits
        self._checks.update(
            check_notes.of_check(record.check, record.model.layers, record.heads[-1].layer)
        )
        if self._streams.json:
            console.put("\n".join(encoding.as_json(each.data()) for each in outcome.records))
        elif self._streams.csv:
            rows = run.rows_of_methods(outcome.records)
            console.put(encoding.as_csv(rows, header=self._header).removesuffix("\n"))
            self._header = False
        else:
            self.paths(list(outcome.paths))

    def paths(self, paths: list[Path]) -> None:
        """Print the paths of written files."""
        if self._streams.quiet and paths:
            console.put("\n".join(map(str, paths)))

    def _note(self, outcome: Outcome) -> None:
        """Print the first note of each kind; `end` prints the number of the others."""
        for note in outcome.notes:
            self._notes[note.kind] += 1
            if self._notes[note.kind] == 1:
                console.say(f"note: {outcome.entry.path}: {note}")

    def _fail(self, outcome: Outcome) -> None:
        self._errors += 1
        if self._streams.debug and outcome.cause is not None:
            traceback.print_exception(outcome.cause)
        if self._errors <= _ERRORS:
            path, error = outcome.entry.path, str(outcome.entry.error)
            where = "" if error.startswith(path) else f"{path}: "
            console.say(f"error: {where}{error}")
        elif self._errors == _ERRORS + 1:
            console.say(f"further errors are in {self._out / 'manifest.jsonl'}")

    def end(self, plan: Plan, count: Count, before: int) -> None:
        """Print the summary at the end."""
        from attnviz.io.picture_files import KINDS  # noqa: PLC0415 — numpy, once there are pictures

        if self._unverified:
            console.say(
                f"warning: in {self._unverified} pictures the recorded weights do not explain the "
                'model\'s output ("verified": false in stats.jsonl); do not trust their maps'
            )
        if self._less:
            console.say(
                f"note: of {self._less} pictures the model was shown the centre, at the size that "
                "it takes; --fit pad or --fit squash show it all"
            )
        for line, number in self._checks.items():
            console.say(f"{line} (in {number} pictures)")
        for kind, number in self._notes.items():
            if number > 1:
                console.say(f"note: of {number} pictures: {KINDS[kind]}")
        if plan.ours:
            console.say(
                f"note: {plan.ours} pictures and folders that attnviz wrote itself are left out; "
                "name the files to show them too"
            )
        if not self._streams.quiet:
            aside = [f"{n} {what}" for n, what in ((plan.hidden, "hidden"), (plan.others, "other"))]
            left = f"; left aside {aside[0]}, {aside[1]} files" if plan.hidden + plan.others else ""
            ready = f" ({before} before)" if before else ""
            line = f"{count.done} done{ready}, {count.failed} failed, in {self._out}{left}"
            console.say(f"{line}; errors are in manifest.jsonl" if count.failed else line)


def _progress(count: Count) -> str:
    failed = f", {count.failed} failed" if count.failed else ""
    return f"{count.done} of {count.all} pictures done{failed}"


def exit_code(count: Count) -> ExitCode:
    """The exit code of a batch with so many done and failed pictures."""
    if not count.failed:
        return ExitCode.DONE
    return ExitCode.SOME_FAILED if count.done else ExitCode.FAILED
