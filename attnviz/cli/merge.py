"""`attnviz merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnviz.batch.finalizers import FINALIZERS
from attnviz.cli import console
from attnviz.cli.batch import exit_code, show_aggregate
from attnviz.cli.options.batching import MergeOptions
from attnviz.cli.options.groups import with_groups
from attnviz.cli.options.results import PathOptions

Folder = Annotated[
    Path, typer.Argument(metavar="OUT", help="The folder that the shards were written to.")
]


@with_groups
def merge(*, folder: Folder, options: MergeOptions, streams: PathOptions) -> None:
    """Merge the shards of a batch.

    One manifest, records and gallery of all that `attnviz batch … --shard I/N` wrote.
    """
    from attnviz.batch.ledger import FOLDER  # noqa: PLC0415 — not for `--help`
    from attnviz.batch.merge_shards import merge as merge_shards  # noqa: PLC0415

    for name in options.finalizers:
        FINALIZERS[name].check()
    merged = merge_shards(folder, tuple(options.finalizers))
    count, inner = merged.count, folder / FOLDER  # only attnviz's own files
    if streams.quiet:
        paths = [path for path in merged.paths if inner not in path.parents]
        console.put("\n".join(map(str, paths)))
    else:
        line = f"{count.done} done, {count.failed} failed, in {folder}"
        console.say(f"{line}; errors are in manifest.jsonl" if count.failed else line)
        if "aggregate" in merged.finalizers:
            show_aggregate(folder)
    raise typer.Exit(exit_code(count))
