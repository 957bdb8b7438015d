"""The library transformers and its configs: of a folder, the hub or an alias."""

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from attnviz.errors import UsageError
from attnviz.models.aliases import Alias
from attnviz.models.failures import optional
from attnviz.models.preprocessing import STATISTICS

_PROCESSING = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
"""Files with a checkpoint's preprocessing, in the order in which they are looked for."""


def name_of(spec: str) -> tuple[str, str | None]:
    """`hf:ORG/NAME@REV` → name and revision; a folder → the folder and no revision."""
    if not spec.startswith("hf:"):
        return spec, None
    name, _, revision = spec.removeprefix("hf:").partition("@")
    if not name:
        raise UsageError(f"--model {spec!r} names nothing; give hf:ORG/NAME")
    return name, revision or None


def library_of(spec: str) -> Any:
    """The library transformers, silenced; download bars show only if stderr is a terminal."""
    library: Any = optional("transformers", "hf", spec)
    library.logging.set_verbosity_error()
    library.logging.enable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # hides retries
    if not sys.stderr.isatty():
        library.logging.disable_progress_bar()
    return library


def known_config(library: Any, alias: Alias) -> tuple[Any, dict[str, Any]]:
    """Config and preprocessing of an alias, without the hub."""
    mean, std = STATISTICS[alias.statistics]
    statements = {
        "size": alias.size,
        "image_mean": mean,
        "image_std": std,
        "resample": alias.resample,
    }
    return getattr(library, alias.config)(**alias.arguments), statements


def processing_of(name: str, revision: str | None) -> dict[str, Any]:
    """The checkpoint's preprocessing config; empty if it has none."""
    from transformers.utils.hub import cached_file  # noqa: PLC0415 — imported in `_library`

    for file in _PROCESSING:
        found = cached_file(
            name, file, revision=revision, _raise_exceptions_for_missing_entries=False
        )
        if found is not None:
            statements: dict[str, Any] = json.loads(Path(found).read_text(encoding="utf-8"))
            inner: dict[str, Any] = statements
            for part in ("feature_extractor", "image_processor", "video_processor"):
                inner = statements.get(part, inner)
            return inner
    return {}


def extractor_of(library: Any, name: str, revision: str | None) -> Any:
    """The checkpoint's feature extractor of sounds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on filters of frequencies that are empty
        return library.AutoFeatureExtractor.from_pretrained(name, revision=revision)
