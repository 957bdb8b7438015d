"""Looks into the local cache of the Hugging Face hub without the hub's library."""

import os
from pathlib import Path

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def folder() -> Path:
    """The folder of the hub's files: HF_HUB_CACHE, else under HF_HOME, else XDG_CACHE_HOME."""
    folder = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if folder:
        return Path(folder).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        home = os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/huggingface"
    return Path(home).expanduser() / "hub"


def holds_weights(repository: str) -> bool:
    """Whether the cache holds weights of `ORG/NAME`, of any revision."""
    snapshots = folder() / f"models--{repository.replace('/', '--')}" / "snapshots"
    try:
        # A link whose blob was removed does not count.
        return any(
            path.name.endswith(WEIGHTS) and path.exists()
            for revision in snapshots.iterdir()
            for path in revision.iterdir()
        )
    except OSError:
        return False


def offline() -> str | None:
    """The environment variable that forbids the network, if one does."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return name
    return None
