"""Checks whether a request fits into memory before it begins."""

from attnviz.errors import MemoryLimitError

RESERVE = 0.1
"""Share of the free memory that stays unused."""
GRAPH = 5
"""Factor of a run's memory if the graph is kept, which keeps every step of every block."""


def available(device: str = "cpu") -> int:
    """Free memory of a device in bytes."""
    if device.startswith("cuda"):
        import torch  # noqa: PLC0415 — only where it is loaded anyway

        free, _ = torch.cuda.mem_get_info(device)
    else:
        import psutil  # noqa: PLC0415 — not for `--help`

        free = psutil.virtual_memory().available
    return int(free * (1 - RESERVE))


def total(device: str = "cpu") -> int:
    """Total memory of a device in bytes, free or used."""
    if device.startswith("cuda"):
        import torch  # noqa: PLC0415

        return int(torch.cuda.mem_get_info(device)[1])
    import psutil  # noqa: PLC0415

    return int(psutil.virtual_memory().total)


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that memory has run out; torch may raise a RuntimeError for it.

    >>> is_exhausted(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    >>> is_exhausted(ValueError("cannot allocate heads"))
    False
    """
    if isinstance(error, MemoryError | MemoryLimitError):
        return True
    return isinstance(error, RuntimeError) and (
        "allocate" in str(error) or type(error).__name__ == "OutOfMemoryError"
    )


def require(needed: float, what: str, advice: str, *, device: str = "cpu") -> None:
    """Raise unless about `needed` bytes are free.

    Raises:
        MemoryLimitError: they are not; the line says how much `what` needs, and the `advice`.
    """
    free = available(device)
    if needed > free:
        raise MemoryLimitError(
            f"{what} would need about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; "
            f"{advice}"
        )
