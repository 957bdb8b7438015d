"""`attnviz compare`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from attnviz.cli import console, loading, run
from attnviz.cli.options.groups import with_groups
from attnviz.cli.options.inputs import InputOptions, RivalOptions, by_number
from attnviz.cli.options.questions import QuestionsOptions
from attnviz.cli.options.reading import Images, ReadingOptions
from attnviz.cli.options.results import (
    ComparedNpz,
    DifferenceOptions,
    MorePictures,
    NoPreview,
    Out,
    StreamOptions,
)
from attnviz.comparison import MOST, MOST_FRAMES, check_count
from attnviz.errors import AttnvizError, ModelError, UsageError
from attnviz.explanation.prompting import Prompting
from attnviz.explanation.selection import parse_layers, requested_layers
from attnviz.methods import METHODS
from attnviz.models.settings import CHECKPOINTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from attnviz.comparison.sides import ComparisonSide
    from attnviz.io.picture import Picture
    from attnviz.models.model import Model


@with_groups
def compare(
    *,
    images: Images,
    rivals: RivalOptions,
    image: MorePictures = None,
    reading: ReadingOptions,
    where: QuestionsOptions,
    drawing: DifferenceOptions,
    streams: StreamOptions,
    out: Out = Path("attnviz-out"),
    npz: ComparedNpz = False,
    no_preview: NoPreview = False,
) -> None:
    """Compare models, methods, layers or queries.

    Draws maps side by side with their differences, and prints rank correlations. IMAGE may also be
    a checkpoint file, or a pattern of such: 'run/epoch*.ckpt' -i cat.jpg --animate checkpoints.
    """
    images, rivals = _sorted_out(images, image or [], rivals)
    most = MOST if drawing.animate is None else MOST_FRAMES
    _check(rivals, where, most)
    from attnviz.output import whole_files  # noqa: PLC0415 — not for `--help`

    folders = [out / name for name in whole_files.folder_names(images)]
    work = _Comparing(images, rivals, reading, where, streams, most=most)
    work.check(folders)  # before any model is loaded
    if work.left:
        preview = not no_preview
        finish = _finishing(work, folders, drawing, streams, npz=npz, preview=preview)
        work.look()
        work.each(finish)
    raise typer.Exit(work.failures.exit_code(some_done=bool(work.left)))


def _sorted_out(
    given: list[str], more: list[str], rivals: RivalOptions
) -> tuple[list[str], RivalOptions]:
    """The pictures, and the options with checkpoint files among them as models, 2 before 10.

    Raises:
        UsageError: there is no picture.
    """
    files = sorted((name for name in given if name.lower().endswith(CHECKPOINTS)), key=by_number)
    pictures = [name for name in given if name not in files] + more
    if not pictures:
        raise UsageError(f"{files[0]} is a checkpoint; give a picture too: -i cat.jpg")
    return pictures, replace(rivals, model=[*(rivals.model or []), *files]) if files else rivals


def _check(rivals: RivalOptions, where: QuestionsOptions, most: int) -> None:
    """Check the number of sides, as far as it is known before a model is loaded.

    Raises:
        UsageError: there are too few or too many.
    """
    where.check_one_object("compare")
    layers = parse_layers(requested_layers(where.layers, where.heads))
    of_model = 0
    for name in where.methods:
        queries = len(where.queries) if METHODS[name].asks else 1
        targets = len(where.targets) if METHODS[name].scored and where.targets else 1
        of_model += queries * targets * len(layers or (0,))
    count = of_model * (len(rivals.rivals) + rivals.controls)
    check_count(max(2, count) if layers is None else count, most=most)  # `all` may be several


def _finishing(
    work: _Comparing,
    folders: list[Path],
    drawing: DifferenceOptions,
    streams: StreamOptions,
    *,
    npz: bool,
    preview: bool,
) -> Callable[[Picture, int], None]:
    """The function that compares and writes a picture after every model has seen it."""
    from attnviz.cli.summary_tables import pair_tables  # noqa: PLC0415
    from attnviz.comparison.compare import Comparison  # noqa: PLC0415
    from attnviz.comparison.comparison_pictures import (  # noqa: PLC0415
        ComparisonDrawing,
        write_arrays,
        write_comparison,
    )

    style = ComparisonDrawing(**drawing.values())
    style.styles()  # an unknown colour map is wrong usage, before anything runs
    teller = run.ResultPrinter(streams, pair_tables, lines=16)

    def finish(picture: Picture, number: int) -> None:
        sides = work.sides[number]
        check_count(len(sides), most=work.most)
        comparison = Comparison(picture, tuple(sides))
        record, paths, sheet = write_comparison(comparison, folders[number], style)
        paths += [write_arrays(comparison, folders[number])] if npz else []
        teller.tell(run.Result(record, paths, sheet if preview else None))

    return finish


class _Comparing:
    """Runs all models on all pictures; an error with one picture does not stop the others.

    A model sees all pictures before the next model is loaded, so that memory holds one model at a
    time. Only its maps are kept. `most` is the largest number of sides.
    """

    def __init__(
        self,
        images: list[str],
        rivals: RivalOptions,
        reading: ReadingOptions,
        where: QuestionsOptions,
        streams: StreamOptions,
        *,
        most: int,
    ) -> None:
        self.most = most
        self.left = dict(enumerate(images))
        self.sides: dict[int, list[ComparisonSide]] = {number: [] for number in self.left}
        self._rivals, self._where, self._streams = rivals, where, streams
        self._reading = reading
        self._noted: set[int] = set()
        self.failures = run.Failures(streams)
        self._read_once: dict[int, Picture] = {}
        self._answered: dict[int, Prompting] = {}  # of models with words, for their controls

    def check(self, folders: Sequence[Path]) -> None:
        """Check every folder, and every file as far as it can be read without a model."""

        def checked(number: int, path: str) -> None:
            whole_files.check_folder(folders[number])
            if is_sound(path):  # its picture needs a model
                read_file(path)
            else:
                self._picture(number, path)

        from attnviz.io.picture_files import read_file  # noqa: PLC0415 — not for `--help`
        from attnviz.io.waveforms import is_sound  # noqa: PLC0415
        from attnviz.output import whole_files  # noqa: PLC0415

        self._each(checked)

    def each(self, do: Callable[[Picture, int], None], model: Model | None = None) -> None:
        """Call `do` for every picture, as a model takes it, that has had no error so far."""
        self._each(lambda number, path: do(self._picture(number, path, model), number))

    def _each(self, do: Callable[[int, str], None]) -> None:
        for number, path in list(self.left.items()):
            try:
                do(number, path)
            except ModelError:  # all other pictures would fail too
                raise
            except AttnvizError as error:
                self.failures.add(error, path)
                del self.left[number]

    def _picture(self, number: int, path: str, model: Model | None = None) -> Picture:
        """The picture; it is kept if it cannot be read twice.

        Of a sound it is the first model's spectrogram. Another model must make the same rows and
        frames of it.
        """
        from attnviz.io.picture import load_part  # noqa: PLC0415

        first = self._read_once.get(number)
        if first is not None and (model is None or (model.sound is None and first.sound is None)):
            return first
        load = load_part if model is None else model.load
        picture = load(path, self._reading.range, self._reading.part)
        if first is not None and (first.sound, first.width) != (picture.sound, picture.width):
            raise UsageError(
                f"{path}: these models hear different spectrograms; compare models whose feature "
                "extractors are the same"
            )
        if number not in self._noted:  # it is read again for every model
            self._noted.add(number)
            run.say_notes(picture)
        # Standard input, or a named pipe; or a sound, which no model is left for at the end.
        if not Path(path).is_file() or picture.sound is not None:
            self._read_once[number] = picture
        return picture

    def look(self) -> None:
        """Run every model, and its control if requested, on every picture."""
        for spec, inputs in self._rivals.rivals:
            control = self._ask(spec, inputs)
            if control is not None and self._rivals.random_weights:
                self._ask(spec, control)

    def _ask(self, spec: str, inputs: InputOptions) -> InputOptions | None:
        """Run one model on all pictures; returns the options of its control, if there is one."""
        if not self.left:
            return None
        questions = self._where.to_questions()
        model = loading.load_spec(spec, inputs, self._where, head=questions.head)
        self.each(lambda picture, number: self._one(model, inputs, picture, number), model)
        why = loading.uncontrolled(model)
        if why is None:
            return loading.controlled(inputs, model)
        if self._rivals.random_weights and not inputs.random_weights:
            console.say(f"note: {spec}: no side of random weights, since {why}")
        return None

    def _one(self, model: Model, inputs: InputOptions, picture: Picture, number: int) -> None:
        from attnviz.comparison.sides import sides_of  # noqa: PLC0415

        questions = replace(self._where.to_questions(), one_object=True).seeded(inputs.seed)
        if inputs.random_weights and number in self._answered:
            questions = replace(questions, prompting=self._answered[number])
        observation = run.look(picture, model, inputs, questions, self._streams)
        if (text := observation.text) is not None:
            self._answered[number] = Prompting(text.prompt, text.answer)
        for each in run.explain_all(observation, questions, self._streams):
            self.sides[number] += sides_of(each)
        # Fail before the next model is loaded.
        check_count(max(2, len(self.sides[number])), most=self.most)
