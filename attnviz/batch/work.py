"""Processes a group of pictures: the three stages that every engine runs.

    prepare   read a picture, decode it, and place it in the model's input: no tensors
    ask       run the model on a group and explain each picture: the only stage with tensors
    finish    draw one picture and write its files: no tensors

`do` runs the three stages one after the other.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from attnviz.batch import reduced_work, tiled_work
from attnviz.batch.gallery import write_thumbnail
from attnviz.batch.jobs import (
    Answered,
    Job,
    LedgerEntry,
    Outcome,
    Prepared,
    Settings,
    Unanswerable,
    as_line,
    digests,
)
from attnviz.drawing.sheet import small
from attnviz.errors import AttnvizError, ImageError, NotFoundError, OutputError, UsageError
from attnviz.explanation.explanation import Explanation
from attnviz.explanation.observation import Observation
from attnviz.explanation.request import answer, check_picture, look, look_many
from attnviz.geometry.placement import Placement
from attnviz.io.picture import Picture, PictureHeader, decode
from attnviz.io.picture_files import read_file
from attnviz.models import memory
from attnviz.models.model import LaidPicture, Model
from attnviz.output import whole_files
from attnviz.output.make_record import make_record
from attnviz.output.records import Record
from attnviz.output.write_pictures import write_maps, write_pictures, write_sheet

_FULL = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EMFILE, errno.ENFILE)


def do(jobs: Sequence[Job], model: Model, settings: Settings, out: Path) -> list[Outcome]:
    """Process pictures in their order, and write the files of each one that succeeds.

    Raises:
        OutputError: nothing more can be written.
    """
    ready = [prepare(job, model, settings) for job in jobs]
    outcomes: dict[str, Outcome] = {one.entry.key: one for one in ready if isinstance(one, Outcome)}
    group = [one for one in ready if isinstance(one, Prepared)]
    for each in ask(group, model, settings):
        outcome = finish(each, settings, out) if isinstance(each, Answered) else each
        outcomes[outcome.entry.key] = outcome
    return [outcomes[job.key] for job in jobs]


def prepare(job: Job, model: Model, settings: Settings) -> Prepared | Outcome:
    """Read a picture and place it in the model's input, without tensors."""
    entry = LedgerEntry(job.path, "failed", settings.digest, prompt=job.prompt, answer=job.answer)
    try:
        if settings.tiling is not None:
            return tiled_work.prepare(entry, job, model, settings)
        data, found = read_file(job.path)
        state = found.st_size, found.st_mtime_ns, found.st_ctime_ns
        entry = replace(entry, file=hashlib.sha256(data).hexdigest(), state=state)
        reduced = reduced_work.prepare(entry, data, job, model, settings)
        if reduced is not None:
            return reduced
        picture = model.decode(data, job.path, settings.range, settings.part)
        placement = model.place(picture, fit=settings.fit)
        asked = settings.questions.prompting is not None  # the model's processor lays it
        return Prepared(
            replace(entry, size=(picture.width, picture.height)),
            picture.header(),
            placement,
            np.zeros((0, 0, 3), dtype=np.uint8) if asked else model.lay(picture, placement),
            small(picture) if settings.pictures == "sheet" else None,
            job,
            None if picture.sound is None else replace(picture, features=None),
        )
    except Exception as error:  # a bad file must not stop the others
        return failure(entry, error)


def stand_in(entry: LedgerEntry, model: Model, settings: Settings) -> Prepared:
    """A blank picture in place of a finished one, so that its group keeps its size.

    A model computes with a whole group, and may round differently with a smaller one.
    """
    picture = PictureHeader(entry.path, *entry.size)
    if settings.tiling is not None:
        placement = tiled_work.place(picture, model, settings)
        return Prepared(entry, picture, placement, np.zeros((0, 0, 3), dtype=np.uint8))
    placement = model.place(picture, fit=settings.fit)
    return Prepared(entry, picture, placement, model.blank_picture(placement))


def failure(entry: LedgerEntry, error: Exception) -> Outcome:
    """The outcome of a failed picture."""
    message = str(error)
    if isinstance(error, AttnvizError):
        pass
    elif memory.is_exhausted(error):
        message = f"{entry.path}: out of memory; take a smaller --size, or scale it down first"
    else:
        message = (
            f"{entry.path}: {type(error).__name__}: {error}; try `attnviz show --debug` with it"
        )
    return Outcome(entry.failed_as(message), cause=error)


def ask(
    group: Sequence[Prepared], model: Model, settings: Settings
) -> Iterator[Answered | Outcome]:
    """Run the model on a group, and explain each picture that is not a stand-in."""
    if settings.tiling is not None:
        for each in group:
            if each.job is not None:
                yield _answered(each, partial(tiled_work.explain, each, model, settings))
        return
    if settings.questions.prompting is not None:
        for each in group:
            if each.job is not None:
                yield _answered(each, partial(_explain_words, each, model, settings))
        return
    able = []
    for each in group:
        try:
            if each.job is not None:
                check_picture(each.picture, model, settings.questions, fit=settings.fit)
            able.append(each)
        except Exception as error:
            yield failure(each.entry, error)
    if able:
        yield from _look(able, model, settings)


def _look(
    group: Sequence[Prepared], model: Model, settings: Settings
) -> Iterator[Answered | Outcome]:
    """Run the model on a group; if that fails, on each picture alone, to find the bad one."""
    try:
        observation = look_many(
            [each.picture for each in group],
            model,
            settings.questions,
            fit=settings.fit,
            mask=settings.mask,
            lay=lambda number, placement: _laid_out(group[number], placement, model, settings),
        )
    except Exception as error:
        alone = len(group) == 1 and group[0].job is not None
        failed = [failure(group[0].entry, error)] if alone else []
    else:
        for each, one in zip(group, observation, strict=True):
            if each.job is not None:
                yield _answered(each, partial(_explain, one, settings))
        return
    # Outside the handler, since the handled error holds the tensors of the failed run.
    yield from failed
    for each in group if len(group) > 1 else ():
        yield from _look([each], model, settings)


def _laid_out(
    prepared: Prepared, placement: Placement, model: Model, settings: Settings
) -> LaidPicture:
    """The model's input; it is made again if the model takes another shape than prepared."""
    if placement == prepared.placement:
        return prepared.pixels
    if prepared.job is None:
        return model.blank_picture(placement)
    return model.lay(_again(prepared, settings, model), placement)


def _again(prepared: Prepared, settings: Settings, model: Model | None = None) -> Picture:
    """The picture, read a second time; a spectrogram needs its model.

    Raises:
        ImageError: the file has changed.
    """
    path = prepared.entry.path
    data, _ = read_file(path)
    if hashlib.sha256(data).hexdigest() != prepared.entry.file:
        raise ImageError(f"{path}: was changed while it was looked at; run again")
    decoded = decode if model is None else model.decode
    return decoded(data, path, settings.range, settings.part)


def _explain(observation: Observation, settings: Settings) -> list[Explanation]:
    """The explanation by each method; it keeps nothing else of the model's run."""
    methods = settings.questions.methods
    found = [answer(observation, settings.questions, method) for method in methods]
    kept = observation.without_run()
    return [replace(each, observation=kept) for each in found]


def _explain_words(prepared: Prepared, model: Model, settings: Settings) -> list[Explanation]:
    """The explanation of what a model answers about one picture."""
    picture = _again(prepared, settings, model)
    assert prepared.job is not None  # stand-ins are not asked
    questions = prepared.job.questions(settings.questions)
    found = _explain(look(picture, model, questions, fit=settings.fit), settings)
    kept = replace(found[0].observation, picture=prepared.picture)
    return [replace(each, observation=kept) for each in found]


def _answered(prepared: Prepared, explained: Callable[[], list[Explanation]]) -> Answered | Outcome:
    try:
        return Answered(prepared, tuple(explained()))
    except NotFoundError as error:
        return failure(prepared.entry, error)
    except UsageError as error:
        return failure(prepared.entry, Unanswerable(str(error)))
    except Exception as error:
        return failure(prepared.entry, error)


def finish(answered: Answered, settings: Settings, out: Path) -> Outcome:
    """Draw and write all files of a picture.

    Raises:
        OutputError: nothing more can be written.
    """
    prepared, job = answered.prepared, answered.prepared.job
    assert job is not None  # stand-ins have no explanation
    try:
        records, paths = _write(answered, job, settings, out)
    except OutputError as error:
        if stops(error, out):
            raise
        return failure(prepared.entry, error)
    except Exception as error:
        return failure(prepared.entry, error)
    line = b"".join(as_line(record.data()) for record in records)
    names = {path.relative_to(out / job.folder).as_posix(): path for path in sorted(paths)}
    entry = replace(
        prepared.entry,
        status="done",
        folder=job.folder if paths else None,
        files={name: path.stat().st_size for name, path in names.items()},
        record=digests(line),
    )
    return Outcome(entry, tuple(records), tuple(paths), line=line, notes=prepared.picture.notes)


def _write(
    answered: Answered, job: Job, settings: Settings, out: Path
) -> tuple[list[Record], list[Path]]:
    """The record of each method, and the files in the order of writing."""
    folder = out / job.folder
    shown = answered.prepared.thumbnail
    again = _again if settings.tiling is None else tiled_work.reduced
    large = answered.prepared.spectrogram if settings.pictures == "heads" else None
    if settings.pictures == "heads" and large is None:
        large = again(answered.prepared, settings)
    records, paths, before = list[Record](), list[Path](), set(job.before)
    for each in answered.explanations:
        place = whole_files.method_folder(folder, each.method, settings.questions.methods)
        whole_files.remove_parts(place)
        if settings.pictures == "sheet":  # `write_pictures` removes old files itself
            earlier = (place / name for name in whole_files.earlier_files(place))
            before |= {path.relative_to(folder).as_posix() for path in earlier}
        record, written = _write_one(each, place, settings, out, pictures=(large, shown))
        records.append(record)
        paths += written
    before -= {path.relative_to(folder).as_posix() for path in paths}
    whole_files.remove(folder, before)
    for path in {(folder / name).parent for name in before}:
        with contextlib.suppress(OSError):  # the folder has other files
            os.removedirs(path)
    return records, paths


def _write_one(
    explanation: Explanation,
    folder: Path,
    settings: Settings,
    out: Path,
    *,
    pictures: tuple[Picture | None, Picture | None],
) -> tuple[Record, list[Path]]:
    """The record and the files of one method, drawn on the large picture or on the small one."""
    large, shown = pictures
    if shown is not None:
        record, paths, whole = write_sheet(explanation, folder, settings.drawing, shown)
        if settings.drawing.format == "png":  # PNG is lossless
            source = (folder / f"{whole_files.SHEET}.png").relative_to(out).as_posix()
            write_thumbnail(out, source, whole)  # for the gallery, without decoding it
    elif large is not None:
        if settings.tiling is None:
            seen = replace(explanation.observation, picture=large)
            explanation, large = replace(explanation, observation=seen), None
        record, paths, _ = write_pictures(
            explanation, folder, settings.drawing, threads=1, reduced=large
        )
    else:
        record, paths = make_record(explanation), []
    if settings.npz:
        paths.append(write_maps(explanation, folder))
    return record, paths


def stops(error: OutputError, out: Path) -> bool:
    """Whether an error also prevents writing all other pictures."""
    cause = error.__cause__
    if not isinstance(cause, OSError):
        return False
    return cause.errno in _FULL or not os.access(out, os.W_OK)
