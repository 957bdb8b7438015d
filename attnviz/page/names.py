"""What things are called on a page that is sent to others: without the folders of this machine."""

import os
from pathlib import Path
from typing import Any

from attnviz.explanation.observation import Observation
from attnviz.output.make_record import check_info, image_info, model_info, readable


def described(observation: Observation) -> dict[str, Any]:
    """Picture, model and self-check, as the record has them."""
    picture = observation.picture
    return {
        "image": image_info(picture).model_dump(),
        "model": model_info(observation).model_dump(),
        "check": check_info(observation).data(),
    }


def described_for_others(observation: Observation) -> dict[str, Any]:
    """The same, where paths are names alone."""
    found = described(observation)
    found["image"]["path"] = readable(observation.picture.name)
    for name in ("spec", "weights"):
        found["model"][name] = without_folders(found["model"][name])
    return found


def without_folders(text: str) -> str:
    """A spec, or weights, where paths are names alone; names on hubs are no paths.

    >>> without_folders("py:/home/me/nets.py:build"), without_folders("hf:facebook/dino-vits16")
    ('py:nets.py:build', 'hf:facebook/dino-vits16')
    """
    if ":" not in text:
        return _name(text)
    source, _, rest = text.partition(":")
    where, colon, factory = rest.rpartition(":")
    if source == "py":
        return f"py:{_name(where)}{colon}{factory}"
    return f"{source}:{_name(rest)}" if Path(rest).is_absolute() or rest[:1] in (".", "~") else text


def _name(path: str) -> str:
    """The last part of a path."""
    return Path(os.path.abspath(path)).name if "/" in path or os.sep in path else path  # noqa: PTH100
