"""A group of pictures from files to files: what every engine does, in one thread or in stages.

    prepare   read, decode and lay a picture: files and arrays, no tensors
    ask       run the model on a group and ask each picture: the only stage that computes
    finish    draw and write one picture: files and arrays again

`do` is the three in turn.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attnviz.batch.jobs import Answered, Job, Outcome, Prepared, Settings, Unanswerable
from attnviz.batch.ledger_entry import LedgerEntry, as_line, digest
from attnviz.batch.thumbnails import write_thumbnail
from attnviz.drawing.explained_sheet import small
from attnviz.errors import AttnvizError, ImageError, OutputError, UsageError
from attnviz.explanation.observation import Observation
from attnviz.explanation.request import answer, check_picture, look_many
from attnviz.geometry.placement import Placement
from attnviz.io.picture import Picture, decode
from attnviz.io.picture_files import read_file
from attnviz.models import memory
from attnviz.models.model import Model
from attnviz.output import whole_files
from attnviz.output.make_record import make_record
from attnviz.output.records import Record
from attnviz.output.write_pictures import write_maps, write_pictures, write_sheet

_FULL = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EMFILE, errno.ENFILE)


def do(jobs: Sequence[Job], model: Model, settings: Settings, out: Path) -> list[Outcome]:
    """Do some pictures, in their order; the files of those that are done are written.

    Raises:
        OutputError: nothing more can be written.
    """
    ready = [prepare(job, model, settings) for job in jobs]
    outcomes: dict[str, Outcome] = {
        one.entry.path: one for one in ready if isinstance(one, Outcome)
    }
    group = [one for one in ready if isinstance(one, Prepared)]
    for each in ask(group, model, settings):
        outcome = finish(each, settings, out) if isinstance(each, Answered) else each
        outcomes[outcome.entry.path] = outcome
    return [outcomes[job.path] for job in jobs]


def prepare(job: Job, model: Model, settings: Settings) -> Prepared | Outcome:
    """Read a picture and lay it into the model's input; no tensor is touched."""
    entry = LedgerEntry(job.path, "failed", settings.digest)
    try:
        data, found = read_file(job.path)
        state = found.st_size, found.st_mtime_ns, found.st_ctime_ns
        entry = replace(entry, file=hashlib.sha256(data).hexdigest(), state=state)
        picture = decode(data, job.path, settings.range)
        placement = model.place(picture, fit=settings.fit)
        return Prepared(
            replace(entry, size=(picture.width, picture.height)),
            replace(picture, pixels=_blank(picture.width, picture.height)),
            placement,
            model.lay(picture, placement),
            small(picture) if settings.pictures == "sheet" else None,
            job,
        )
    except Exception as error:  # whatever a file holds, the others are done
        return failure(entry, error)


def stand_in(entry: LedgerEntry, model: Model, settings: Settings) -> Prepared:
    """What takes the place of a picture that is done, so that a group stays what it was.

    Models compute with a group as a whole, and may round otherwise with fewer.
    """
    picture = Picture(entry.path, _blank(*entry.size))
    placement = model.place(picture, fit=settings.fit)
    shape = placement.grid.input_height, placement.grid.input_width, 3
    return Prepared(entry, picture, placement, np.zeros(shape, dtype=np.uint8))


def _blank(width: int, height: int) -> NDArray[np.uint8]:
    """Pixels of a picture of that size, which take no memory."""
    return np.broadcast_to(np.uint8(0), (height, width, 3))


def failure(entry: LedgerEntry, error: Exception) -> Outcome:
    """A picture that failed."""
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
    """Run the model on a group, and ask all but stand-ins, one after the other."""
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
    """Run the model on a group; where that fails, on each by itself, to find whose fault it is."""
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
                yield _answer(each, one, settings)
        return
    # Behind the handler: the error that it holds has the tensors of the run that failed.
    yield from failed
    for each in group if len(group) > 1 else ():
        yield from _look([each], model, settings)


def _laid_out(
    prepared: Prepared, placement: Placement, model: Model, settings: Settings
) -> NDArray[np.uint8]:
    """The input; laid anew where the model takes another shape than the picture's."""
    if placement == prepared.placement:
        return prepared.pixels
    if prepared.job is None:
        shape = placement.grid.input_height, placement.grid.input_width, 3
        return np.zeros(shape, dtype=np.uint8)
    return model.lay(_again(prepared, settings), placement)


def _again(prepared: Prepared, settings: Settings) -> Picture:
    """The picture, read once more.

    Raises:
        ImageError: it is no longer the same.
    """
    path = prepared.entry.path
    data, _ = read_file(path)
    if hashlib.sha256(data).hexdigest() != prepared.entry.file:
        raise ImageError(f"{path}: was changed while it was looked at; run again")
    return decode(data, path, settings.range)


def _answer(prepared: Prepared, observation: Observation, settings: Settings) -> Answered | Outcome:
    try:
        found = answer(observation, settings.questions, settings.questions.methods[0])
    except UsageError as error:
        return failure(prepared.entry, Unanswerable(str(error)))
    except Exception as error:
        return failure(prepared.entry, error)
    return Answered(prepared, replace(found, observation=observation.without_run()))


def finish(answered: Answered, settings: Settings, out: Path) -> Outcome:
    """Draw and write all files of a picture.

    Raises:
        OutputError: nothing more can be written.
    """
    prepared, job = answered.prepared, answered.prepared.job
    assert job is not None  # stand-ins are not asked
    try:
        record, paths = _write(answered, job, settings, out)
    except OutputError as error:
        if stops(error, out):
            raise
        return failure(prepared.entry, error)
    except Exception as error:
        return failure(prepared.entry, error)
    line = as_line(record.data())
    entry = replace(
        prepared.entry,
        status="done",
        folder=job.folder if paths else None,
        files={path.name: path.stat().st_size for path in sorted(paths)},
        record=digest(line),
    )
    return Outcome(entry, record, tuple(paths), line=line, notes=prepared.picture.notes)


def _write(
    answered: Answered, job: Job, settings: Settings, out: Path
) -> tuple[Record, list[Path]]:
    """The record, and the files in the order of writing."""
    prepared, explanation = answered.prepared, answered.explanation
    folder = out / job.folder
    if settings.pictures == "none":
        if job.before:
            whole_files.remove(folder, job.before)
            with contextlib.suppress(OSError):  # something else is in it
                os.removedirs(folder)
        return make_record(explanation), []
    whole_files.remove_parts(folder)
    if prepared.thumbnail is not None:
        before = whole_files.earlier_files(folder)
        record, paths, whole = write_sheet(
            explanation, folder, settings.drawing, prepared.thumbnail
        )
        if settings.drawing.format == "png":  # its pixels are those that it is read back with
            source = f"{job.folder}/{whole_files.SHEET}.png"
            write_thumbnail(out, source, whole)  # the gallery's, while it need not be decoded
    else:
        before = set()  # removed by what draws them
        observation = replace(explanation.observation, picture=_again(prepared, settings))
        large = replace(explanation, observation=observation)
        record, paths, _ = write_pictures(large, folder, settings.drawing, threads=1)
    if settings.npz:
        paths.append(write_maps(explanation, folder))
    whole_files.remove(folder, before.union(job.before) - {path.name for path in paths})
    return record, paths


def stops(error: OutputError, out: Path) -> bool:
    """Whether no other picture could be written either."""
    cause = error.__cause__
    if not isinstance(cause, OSError):
        return False
    return cause.errno in _FULL or not os.access(out, os.W_OK)
