"""`attnviz video`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from attnviz.cli import check_notes, console, loading
from attnviz.cli.options.groups import with_groups
from attnviz.cli.options.inputs import ModelOptions
from attnviz.cli.options.questions import QuestionOptions
from attnviz.cli.options.reading import ClipFile
from attnviz.cli.options.results import FILMS, ClipOptions, FilmOut, Frames, StreamOptions
from attnviz.cli.shared_basis import NAME, basis_path, with_basis
from attnviz.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attnviz.explanation.observation import Observation
    from attnviz.explanation.request import Questions
    from attnviz.io.clips import Clip
    from attnviz.io.parts import FrameSelection
    from attnviz.output.records import Record
    from attnviz.video.clip_maps import ClipRequest
    from attnviz.video.film import Made
    from attnviz.video.means import Means

_OTHERS = (".avi", ".gif", ".webp", ".png", ".apng", ".jpg", ".m4v", ".mpg", ".mpeg", ".ogv", ".ts")
"""File endings that folders rarely have, of kinds that attnviz cannot write."""


@with_groups
def video(
    *,
    clip: ClipFile,
    model: ModelOptions,
    question: QuestionOptions,
    drawing: ClipOptions,
    streams: StreamOptions,
    frames: Frames = None,
    out: FilmOut = Path("attnviz-out"),
) -> None:
    """Draw a film of what each head attends to.

    All frames have one scale; the sound is kept. A model of clips sees some frames at once: the
    film is of these, and a strip beside it shows them all.
    """
    from threading import Event  # noqa: PLC0415 — not for `--help`

    from attnviz.io.parts import parse_frames  # noqa: PLC0415

    selection = parse_frames("::" if frames is None else frames)
    question.check_one_object("video")
    paths = _places(clip, out, question.methods)
    shot = _opened(clip, paths)

    from attnviz.output.write_pictures import Drawing  # noqa: PLC0415 — torch, once all is there
    from attnviz.video.clip_film import make_clip_films  # noqa: PLC0415
    from attnviz.video.film import make_films  # noqa: PLC0415

    style = Drawing(**asdict(drawing))
    style.check()  # an unknown colour map is wrong usage, before anything runs
    request = _request(shot, model, question, selection, paths[0], quiet=streams.quiet)
    if frames is not None and request.seen is None:
        raise UsageError(f"--frames {frames}: {model.model} sees each frame alone; leave it out")
    by_frame = request.seen is None
    make = make_films if by_frame else make_clip_films
    teller, stop = _FramePrinter(streams, model, len(paths), by_frame=by_frame), Event()

    def work() -> list[Made]:
        with console.progress("frames", quiet=streams.quiet) as progress:
            return make(
                request,
                paths,
                style,
                on_record=teller.tell,
                stopped=stop.is_set,
                progress=progress,
            )

    teller.end(shot, console.stoppable(work, stop))


def _opened(clip: str, paths: Sequence[Path]) -> Clip:
    """Open a clip, and make the folder of its films.

    Raises:
        UsageError: a film would replace the clip.
    """
    from attnviz.io.clips import open_clip  # noqa: PLC0415
    from attnviz.output import whole_files  # noqa: PLC0415

    shot = open_clip(clip)
    for path in paths:
        if path.exists() and path.samefile(clip):
            raise UsageError(f"{path}: is the clip itself; choose another --out")
    for note in shot.notes:
        console.say(f"note: {clip}: {note}")
    whole_files.make_folder(paths[0].parent)
    return shot


def _request(
    shot: Clip,
    model: ModelOptions,
    question: QuestionOptions,
    selection: FrameSelection,
    film: Path,
    *,
    quiet: bool,
) -> ClipRequest:
    """Load the model, and choose the frames that it sees if it is one of clips."""
    from attnviz.explanation.trials import with_clips  # noqa: PLC0415 — torch
    from attnviz.io.clip_frames import select  # noqa: PLC0415
    from attnviz.video.clip_maps import ClipRequest  # noqa: PLC0415

    asked = replace(question.to_questions(), one_object=True).seeded(model.seed)
    loaded = with_clips(loading.load(model, question), selection.count)
    seen = None if loaded.clip is None else select(shot, selection, loaded.clip.frames)
    request = ClipRequest(shot, loaded, asked, model.fit, model.mask, seen)
    return _with_basis(request, film, quiet=quiet)


def _with_basis(request: ClipRequest, film: Path, *, quiet: bool) -> ClipRequest:
    """The request with one basis of `pca` for all frames, unless each is to have its own."""
    from attnviz.explanation.request import look  # noqa: PLC0415
    from attnviz.io.clips import frames  # noqa: PLC0415

    asked = request.questions
    if "pca" in asked.methods and "basis" not in asked.settings and request.seen is None:
        asked = replace(asked, settings={**asked.settings, "basis": "shared"})

    def seen(questions: Questions) -> Iterator[Observation]:
        if request.seen is not None:
            yield look(request.seen, request.model, questions, fit=request.fit, mask=request.mask)
            return
        for frame in frames(request.clip):
            yield look(frame.picture, request.model, questions, fit=request.fit, mask=request.mask)

    shared = film.with_name(f"{film.stem}-{NAME}")
    remake = asked.settings.get("basis") == "shared"
    path = basis_path(asked, shared)
    return replace(request, questions=with_basis(asked, path, seen, quiet=quiet, remake=remake))


def _place(clip: str, out: Path) -> Path:
    """The path of the film: `out` itself, or a file with the clip's name in the folder `out`."""
    ending = out.suffix.lower()
    if ending in FILMS and not out.is_dir():
        return out
    if ending in _OTHERS and not out.is_dir():
        raise UsageError(f"--out {out}: a film is {', '.join(FILMS)}; name one of these")
    name = Path(clip)
    return out / (name.name if name.suffix.lower() in FILMS else f"{name.stem}.mp4")


def _places(clip: str, out: Path, methods: Sequence[str]) -> list[Path]:
    """The path of each method's film; with several methods, the name contains the method."""
    path = _place(clip, out)
    if len(methods) == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{method}{path.suffix}") for method in methods]


class _FramePrinter:
    """Prints the results of every frame in the requested form, and a summary at the end."""

    def __init__(
        self, streams: StreamOptions, model: ModelOptions, methods: int, *, by_frame: bool
    ) -> None:
        from attnviz.video.means import Means  # noqa: PLC0415

        self._by_frame = by_frame
        self._streams, self._fit, self._several = streams, model.fit, methods > 1
        self._means: dict[str, Means] = defaultdict(Means)

    def tell(self, record: Record) -> None:
        """Print the record of the next frame, if the model sees each frame alone."""
        first = not self._means
        self._means[record.method].add(record)
        if first and record.tokens.fit != self._fit:
            console.say(
                f"note: {record.model.spec} takes {record.tokens.input_width}x"
                f"{record.tokens.input_height} pixels only: it is shown the centre of the frames; "
                "--fit pad or --fit squash show them all"
            )
        for line in (
            check_notes.of_check(record.check, record.model.layers, record.heads[-1].layer)
            if first
            else ()
        ):
            console.say(line)
        if self._by_frame:
            self._put(record, first=first)

    def _put(self, record: Record, *, first: bool) -> None:
        """Print a record as JSON or CSV, if that was requested."""
        from attnviz.batch.columns import rows_of  # noqa: PLC0415
        from attnviz.output import encoding  # noqa: PLC0415

        if self._streams.json:
            console.put(encoding.as_json(record.data()))
        elif self._streams.csv:
            rows = rows_of(record) if self._several else record.rows()
            console.put(encoding.as_csv(rows, header=first).removesuffix("\n"))

    def end(self, clip: Clip, films: Sequence[Made]) -> None:
        """Print the summary; there is a film for each method."""
        unverified = max(means.unverified for means in self._means.values())
        if unverified:
            console.say(
                f"warning: {clip.path}: in {unverified} frames the recorded weights do "
                "not explain the model's output; do not trust these maps"
            )
        for number, (means, made) in enumerate(zip(self._means.values(), films, strict=True)):
            if made.record is not None:
                self._put(made.record, first=not number)
            self._end_of(clip, means, made)

    def _end_of(self, clip: Clip, means: Means, made: Made) -> None:
        from attnviz.cli.table import stats_tables  # noqa: PLC0415

        for before, after in made.sound.items():
            console.say(
                f"note: sound in {before} was encoded anew, in {after}: {made.path.suffix} files "
                "cannot hold it as it is"
            )
        streams = self._streams
        if streams.quiet:
            console.put(str(made.path))
            if made.strip is not None:
                console.put(str(made.strip))
        elif not (streams.json or streams.csv):
            console.show(*stats_tables(means.record(), f"  mean of {made.frames} frames"))
        if not streams.quiet:
            width, height = made.size
            sound = ", with sound" if made.has_sound else ""
            rate = f", {float(clip.rate):.4g} a second" if made.strip is None else ""
            console.note(
                f"wrote {made.path}: {made.frames} frames of {width}x{height}{rate}{sound}"
            )
            if made.strip is not None:
                console.note(f"wrote {made.strip}: a row for each head, a column for each view")
