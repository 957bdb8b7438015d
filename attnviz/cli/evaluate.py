"""`attnviz evaluate`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

import attnviz
from attnviz.cli import check_notes, console, loading, run
from attnviz.cli.options.groups import with_groups
from attnviz.cli.options.inputs import InputOptions, ModelsOptions
from attnviz.cli.options.questions import QuestionsOptions
from attnviz.cli.options.reading import ReadingOptions
from attnviz.cli.options.results import (
    EvaluationOut,
    Limit,
    Masks,
    MetricOptions,
    Metrics,
    Pictures,
    StreamOptions,
    Words,
)
from attnviz.errors import AttnvizError, ModelError, UsageError
from attnviz.evaluation import MASKS, METRICS, PERTURBATION, parse_groups, settings_of
from attnviz.explanation.prompting import Prompting
from attnviz.models import SOURCES, find_source

if TYPE_CHECKING:
    from attnviz.evaluation.run import EvaluationRequest, Pair, Store
    from attnviz.evaluation.summary import SummaryEntry
    from attnviz.explanation.observation import Observation
    from attnviz.models.model import Model
    from attnviz.models.targets import Head
    from attnviz.output.schema import EvaluationRow


@with_groups
def evaluate(
    *,
    images: Pictures,
    masks: Masks = None,
    words: Words = None,
    metrics: Metrics = None,
    measuring: MetricOptions,
    many: ModelsOptions,
    where: QuestionsOptions,
    inputs: InputOptions,
    reading: ReadingOptions,
    limit: Limit = None,
    streams: StreamOptions,
    out: EvaluationOut = None,
) -> None:
    """Measure how good maps are, beside baselines.

    Compares them with masks, or takes away the pixels that they mark.
    """
    groups = parse_groups(metrics, masks=masks is not None)
    if out is None and streams.quiet:
        raise UsageError("--quiet prints the paths of files, and none is written; add --out FOLDER")
    if inputs.weights is not None and len(many.models) > 1:
        raise UsageError("--weights belongs to one model; give one --model")
    if len(where.queries) > 1 or len(where.targets) > 1:
        raise UsageError("evaluate takes one --query, and one --target or --text")
    where.check_one_object("evaluate")
    from attnviz.evaluation.run import EvaluationRequest, Store  # noqa: PLC0415 — not for `--help`

    questions = replace(where.to_questions(), one_object=True).seeded(inputs.seed)
    if words is not None:
        if where.queries != ("auto",):
            raise UsageError("--words asks for each word that it names; leave --query out")
        questions = replace(questions, prompting=Prompting())
    question = EvaluationRequest.of(
        questions,
        groups,
        settings=settings_of(groups, measuring.settings),
        fit=inputs.fit,
        mask=inputs.mask,
        seed=inputs.seed,
        range=reading.range,
        part=reading.part,
    )
    work = _Evaluating(question, inputs, where, streams, Store(out))
    pairs = _with_words(work.pairs(images, masks, limit), words)
    for spec in many.models:
        work.do(spec, pairs)
    if work.done:
        _tell(work, streams, out)
    raise typer.Exit(work.failures.exit_code(some_done=bool(work.done)))


def _with_words(pairs: list[Pair], words: str | None) -> list[Pair]:
    """The pairs, with the words for their objects.

    Raises:
        UsageError: a picture has no mask, or no words.
    """
    if words is None:
        return pairs
    from attnviz.evaluation.named_objects import read_words  # noqa: PLC0415

    names = read_words(words)
    for pair in pairs:
        if pair.mask is None:
            raise UsageError("--words names the objects of masks; add --masks FOLDER")
        if Path(pair.image).name not in names:
            raise UsageError(f"--words {words}: has no line for {pair.image}; add it")
    return [replace(pair, names=names[Path(pair.image).name]) for pair in pairs]


class _Evaluating:
    """Evaluates pictures with models; an error with one picture does not stop the others."""

    def __init__(
        self,
        question: EvaluationRequest,
        inputs: InputOptions,
        where: QuestionsOptions,
        streams: StreamOptions,
        store: Store,
    ) -> None:
        self.question, self.store = question, store
        self.done: dict[str, SummaryEntry] = {}
        self._inputs, self._where, self._streams = inputs, where, streams
        self.failures = run.Failures(streams)
        self._reported: set[str] = set()
        self._noted: set[str] = set()

    def pairs(self, images: list[str], masks: str | None, limit: int | None) -> list[Pair]:
        """The pictures to evaluate, with their masks; reports the pictures without a mask."""
        from attnviz.evaluation.run import Pair, find_masks, find_pictures  # noqa: PLC0415

        pictures, failed = find_pictures(images)
        pairs = [Pair(path, None) for path in pictures[:limit]]
        if masks is not None:
            pairs, missing = find_masks(pictures[:limit], masks)
            failed += missing
        for error in failed:
            self._fail(error, "")
        return pairs

    def do(self, spec: str, pairs: list[Pair]) -> None:
        """Evaluate every picture with a model, except those that are already finished."""
        contest = _ModelEvaluation(spec, self.question, self._inputs, self._where)
        keys = {key: pair for pair in pairs if (key := self._key(contest, pair)) is not None}
        if any(self.store.get(key) is None for key in keys):
            contest.models()  # before our progress bar, since loading may draw one
        with console.progress(spec, quiet=self._streams.quiet) as progress:
            for i, (key, pair) in enumerate(keys.items(), start=1):
                try:
                    self._one(contest, key, pair)
                except ModelError:  # all other pictures would fail too
                    raise
                except AttnvizError as error:
                    self._fail(error, pair.image)
                if progress is not None:
                    progress(i, len(keys))

    def _key(self, contest: _ModelEvaluation, pair: Pair) -> str | None:
        """The key of a picture's entry; None if the picture cannot be read."""
        try:
            return contest.key(pair, content=self.store.lasting)
        except AttnvizError as error:
            self._fail(error, pair.image)
        return None

    def _one(self, contest: _ModelEvaluation, key: str, pair: Pair) -> None:
        from attnviz.evaluation.run import examine  # noqa: PLC0415

        entry = self.store.get(key)
        if entry is None:
            model, control = contest.models()
            entry, observation = console.interruptible(
                lambda: examine(pair, model, control, self.question)
            )
            self._note(observation)
            self.store.add(key, entry)
        # Use the stored form, rounded, so that an interrupted run ends with the same numbers.
        self.done[key] = self.store.get(key) or entry

    def _note(self, observation: Observation) -> None:
        if observation.picture.path not in self._noted:  # other models give the same notes
            self._noted.add(observation.picture.path)
            run.say_notes(observation.picture)
        check_notes.warn(observation)
        less = check_notes.shown_less(observation)
        shows_less = check_notes.shows_less(observation, self._inputs.fit)
        if shows_less and less not in self._reported:
            self._reported.add(less)
            console.say(less)

    def _fail(self, error: AttnvizError, path: str) -> None:
        # Other models give the same error.
        self.failures.add(error, path, printed=str(error) not in self._reported)
        self._reported.add(str(error))


class _ModelEvaluation:
    """A model and its control, loaded when they are needed, and the keys of their entries."""

    def __init__(
        self, spec: str, question: EvaluationRequest, inputs: InputOptions, where: QuestionsOptions
    ) -> None:
        self._spec, self._question, self._inputs, self._where = spec, question, inputs, where
        self._loaded: tuple[Model, Model | None] | None = None
        self._settings = {
            "attnviz": attnviz.__version__,
            "model": spec,
            "question": asdict(question),
            "input": asdict(inputs),
            "files": loading.identities(spec, inputs, [*where.queries, *where.target_masks]),
        }
        if METRICS.added:  # old entries lack other packages' metrics
            added = {name: entry.package for name, entry in METRICS.added.items()}
            self._settings["metrics"] = added

    def key(self, pair: Pair, *, content: bool) -> str:
        """The key of a picture's entry: from its name, and with `content` from its content."""
        from attnviz.cli.loading import key_of  # noqa: PLC0415
        from attnviz.io.picture_files import fingerprint  # noqa: PLC0415
        from attnviz.output.record_info import readable  # noqa: PLC0415

        names = [path for path in (pair.image, pair.mask) if path is not None]
        files = {readable(path): fingerprint(path) if content else "" for path in names}
        words = {} if pair.names is None else {"words": asdict(pair.names)}
        return key_of({**self._settings, **words}, files)

    def models(self) -> tuple[Model, Model | None]:
        """The model, and the same architecture with random weights if that is possible."""
        if self._loaded is None:
            model = loading.load_spec(self._spec, self._inputs, self._where, head=self._head())
            self._loaded = model, self._control(model)
        return self._loaded

    def _head(self) -> Head:
        """The head of the model: perturbation needs a class head, whatever the methods need."""
        head = self._question.questions.head
        others = [group for group in self._question.groups if group != MASKS]
        if others and (head == "words" or SOURCES[find_source(self._spec)].words):
            raise UsageError(
                f"{self._spec} answers in words, of which {others[0]} is not measured; give "
                "--masks FOLDER, --words FILE and no --metrics"
            )
        if PERTURBATION not in self._question.groups:
            return head
        if head == "text":
            raise UsageError("--text: perturbation needs a class; give --target, or --masks FOLDER")
        if head == "dense":
            raise UsageError(
                f"--target {self._where.targets[0]}: perturbation needs a class of the whole "
                "picture; give --target CLASS, or --masks FOLDER"
            )
        return "class"

    def _control(self, model: Model) -> Model | None:
        why = loading.uncontrolled(model)
        if why is not None:
            console.say(f"note: {self._spec}: no baseline of random weights, since {why}")
            return None
        inputs = loading.controlled(self._inputs, model)
        return loading.load_spec(
            self._spec, inputs, self._where, head=self._question.questions.head
        )


def _tell(work: _Evaluating, streams: StreamOptions, out: Path | None) -> None:
    """Print the rows in the requested form, and write files if there is an output folder."""
    from attnviz.evaluation import metrics_of  # noqa: PLC0415
    from attnviz.evaluation.summary import summarise  # noqa: PLC0415
    from attnviz.output import encoding  # noqa: PLC0415

    metrics = metrics_of(work.question.groups)
    rows = summarise(list(work.done.values()), metrics, seed=work.question.seed)
    paths = [] if out is None else _write(out, rows, work)
    if streams.json:
        console.put("\n".join(encoding.as_json(row.data()) for row in rows))
    elif streams.csv:
        console.put(encoding.as_csv([row.row() for row in rows]).removesuffix("\n"))
    elif streams.quiet:
        console.put("\n".join(map(str, paths)))
    else:
        from attnviz.cli.summary_tables import score_tables  # noqa: PLC0415

        console.show(*score_tables(rows))
    if paths and not streams.quiet:
        console.note(f"wrote {len(paths)} files to {out}")


def _write(out: Path, rows: list[EvaluationRow], work: _Evaluating) -> list[Path]:
    """Write all files of a run; returns them in the order of writing."""
    from attnviz.evaluation.metric_plot import plot  # noqa: PLC0415
    from attnviz.output import encoding, whole_files  # noqa: PLC0415

    lines = "".join(encoding.as_json(row.data()) + "\n" for row in rows)
    table = encoding.as_csv([row.row() for row in rows])
    return [
        *work.store.close(list(work.done)),
        whole_files.write_whole(out / "evaluation.jsonl", lines.encode()),
        whole_files.write_whole(out / "evaluation.csv", table.encode()),
        whole_files.write_whole(out / "evaluation.png", plot(rows)),
    ]
