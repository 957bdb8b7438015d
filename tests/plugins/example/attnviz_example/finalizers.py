"""Finalizers: from the records of a batch to files."""

import json
from pathlib import Path

from attnviz.output import whole_files


def write_contents(out: Path, stats: Path, manifest: Path) -> list[Path]:  # noqa: ARG001
    """Write the path of every picture that is done, a line each."""
    lines = stats.read_text(encoding="utf-8").splitlines()
    names = "".join(f"{json.loads(line)['image']['path']}\n" for line in lines)
    return [whole_files.write_whole(out / "contents.txt", names.encode())]
