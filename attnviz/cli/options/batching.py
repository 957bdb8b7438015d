"""Options of a batch: its pictures, how they are processed, and the machines that do it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from attnviz.cli.options.groups import MACHINE, OUTPUT, PICTURES, Finalizers, option_field
from attnviz.cli.options.results import Npz
from attnviz.errors import UsageError

if TYPE_CHECKING:
    from attnviz.batch.connection import Cluster
    from attnviz.batch.shares import Shard


@dataclass(frozen=True, repr=False, eq=False)
class EngineOptions:
    """The options of the machines that do the work."""

    engine: Literal["local", "ray"] = option_field(
        "local", "Run on this machine, or on a Ray cluster (extra: ray).", MACHINE
    )
    ray_address: str | None = option_field(
        None,
        "Running cluster: HOST:PORT or auto.  [default: start one here]",
        MACHINE,
        metavar="ADDRESS",
    )
    shard: str | None = option_field(
        None,
        "Do only the Ith of N shares of the pictures, on one of N machines; then `attnviz merge`.",
        MACHINE,
        metavar="I/N",
    )
    workers: int | None = option_field(
        None,
        "Processes, each with its own model.  [default: 1; of Ray one per GPU, else per machine]",
        MACHINE,
        min=1,
        max=65536,
    )

    def __post_init__(self) -> None:
        if self.engine == "local":
            if self.ray_address is not None:
                raise UsageError("--ray-address needs a cluster; add --engine ray")
        elif self.shard is not None:
            raise UsageError("--shard and --engine ray both divide the pictures; leave out one")
        _ = self.share
        if (self.ray_address or "").startswith("ray://"):
            raise UsageError(
                f"--ray-address {self.ray_address}: batch writes files, so it runs on a node of "
                "the cluster; give HOST:6379, or submit it with `ray job submit`"
            )

    @property
    def share(self) -> Shard | None:
        """The shard to do; None for all pictures."""
        from attnviz.batch.shares import parse_shard  # noqa: PLC0415 — not for `--help`

        return None if self.shard is None else parse_shard(self.shard)

    def cluster(self) -> Cluster | None:
        """The cluster to run on, after a check that Ray is installed; None for this machine.

        Raises:
            MissingExtraError: Ray is not installed.
        """
        if self.engine == "local":
            return None
        from attnviz.batch.connection import Cluster, library  # noqa: PLC0415 — torch

        library()
        return Cluster(self.ray_address, self.workers)


@dataclass(frozen=True, repr=False, eq=False)
class MergeOptions:
    """The files about all pictures, beside those that the shards were asked for."""

    finalizers: Finalizers = field(default_factory=dict)


@dataclass(frozen=True, repr=False, eq=False)
class BatchOptions:
    """How a batch processes many pictures."""

    pictures: Literal["sheet", "heads", "none"] = option_field(
        "sheet", "Draw the sheet of each picture, every file that show draws, or nothing.", PICTURES
    )
    batch_size: str = option_field(
        "auto", "Pictures per run of the model, or auto.", MACHINE, metavar="N"
    )
    recursive: bool = option_field(
        True, "Search subfolders for pictures, too.", names="--recursive/--no-recursive"
    )
    draft: bool = option_field(
        True,
        "Decode JPEGs at a half of their size or less where the model sees far less.",
        MACHINE,
        names="--draft/--no-draft",
    )
    force: bool = option_field(False, "Do finished pictures again.", OUTPUT)
    npz: Npz = False
    finalizers: Finalizers = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.batch

    @property
    def batch(self) -> int | None:
        """The number of pictures per run of the model; None finds out how many fit."""
        text = self.batch_size
        if text == "auto":
            return None
        if not (text.isascii() and text.isdigit() and int(text)):
            raise UsageError(
                f"--batch-size {text!r} cannot be read; give auto, or a number from 1 on"
            )
        return int(text)


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Folders, patterns in quotes ('photos/*.jpg'), .txt lists of paths, .jsonl or .csv "
        "lists with columns path, prompt and answer.",
    ),
]
