"""Makes keys of settings and files; an equal key means that work need not be repeated."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnviz.errors import OutputError


def key_of(settings: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """A key that changes with any setting, and with the name or the content of any file.

    `files` has the result of `picture_files.fingerprint`, or of `identity`, for each name.
    """
    text = json.dumps([settings, files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def identity(path: str | Path) -> list[tuple[str, int, int]]:
    """Names, sizes and modification times of a file, or of all files in a folder: weights, code.

    Raises:
        OutputError: the files cannot be read.
    """
    root = Path(path)
    try:
        files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
        found = [(str(file.relative_to(root)), file.stat()) for file in files if file.exists()]
    except OSError as error:
        raise OutputError(f"{path}: cannot be looked at ({error.strerror})") from error
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]
