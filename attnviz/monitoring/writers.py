"""Writes a sheet and numbers of a training step to the logger that the training has."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnviz.errors import UsageError
from attnviz.output import encoding
from attnviz.output.line_files import append
from attnviz.output.whole_files import make_folder, write_whole


@dataclass(frozen=True, eq=False)
class Entry:
    """What one step logs.

    Attributes:
        name: what the names begin with.
        step: number of the training step.
        sheet: (height, width, 3) uint8.
        numbers: by name.
    """

    name: str
    step: int
    sheet: NDArray[np.uint8]
    numbers: Mapping[str, float]

    @property
    def named(self) -> dict[str, float]:
        """The numbers by their whole names."""
        return {f"{self.name}/{name}": value for name, value in self.numbers.items()}


def write(to: Any, entry: Entry) -> None:
    """Write an entry to a logger, which is known by its methods, or to a folder.

    >>> entry = Entry("attention", 7, np.zeros((4, 4, 3), np.uint8), {"layer00/entropy": 1.5})
    >>> write("log", entry)
    >>> sorted(path.name for path in Path("log").iterdir())
    ['attention-00000007.png', 'attention.jsonl']

    Raises:
        UsageError: `to` is none of them.
    """
    if isinstance(to, str | Path):
        return _folder(Path(to), entry)
    for methods, writer in _WRITERS:
        if all(callable(getattr(to, method, None)) for method in methods):
            return writer(to, entry)
    raise UsageError(
        f"to is a {type(to).__name__}; give a SummaryWriter of TensorBoard, a run of Weights & "
        "Biases or Aim, the module mlflow, or a folder"
    )


def loggers_of(loggers: Iterable[Any]) -> list[Any]:
    """What Lightning's loggers write to: their runs and writers, or else their folders.

    >>> class Csv: log_dir, experiment = "logs/version_0", None
    >>> loggers_of([Csv()])
    ['logs/version_0']
    """
    targets = []
    for logger in loggers:
        inner = logger.experiment
        known = any(all(hasattr(inner, name) for name in names) for names, _ in _WRITERS)
        targets.append(inner if known else logger.log_dir or logger.save_dir)
    return [target for target in targets if target is not None]


def _folder(folder: Path, entry: Entry) -> None:
    make_folder(folder)
    path = folder / f"{entry.name.replace('/', '-')}-{entry.step:08d}.png"
    write_whole(path, encoding.as_image(Image.fromarray(entry.sheet), "png"))
    line = json.dumps({"step": entry.step, **entry.named})
    append(folder / f"{entry.name.replace('/', '-')}.jsonl", line)


def _tensorboard(writer: Any, entry: Entry) -> None:
    writer.add_image(entry.name, entry.sheet, entry.step, dataformats="HWC")
    for name, value in entry.named.items():
        writer.add_scalar(name, value, entry.step)


def _aim(run: Any, entry: Entry) -> None:
    run.track(import_module("aim").Image(entry.sheet), name=entry.name, step=entry.step)
    for name, value in entry.named.items():
        run.track(value, name=name, step=entry.step)


def _mlflow(module: Any, entry: Entry) -> None:
    module.log_image(entry.sheet, key=entry.name.replace("/", "-"), step=entry.step)
    module.log_metrics(entry.named, step=entry.step)


def _wandb(run: Any, entry: Entry) -> None:
    image = import_module("wandb").Image(entry.sheet)
    run.log({entry.name: image, **entry.named}, step=entry.step)


_WRITERS: tuple[tuple[tuple[str, ...], Callable[[Any, Entry], None]], ...] = (
    (("add_image", "add_scalar"), _tensorboard),
    (("track",), _aim),
    (("log_image", "log_metrics"), _mlflow),
    (("log",), _wandb),
)
"""The methods that a logger is known by, and the function that writes to it."""
