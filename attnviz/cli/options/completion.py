"""Gives the values that a shell completes, without importing torch, numpy or matplotlib."""

from collections.abc import Iterator

from attnviz import methods, models

DEVICES = ("auto", "cpu", "cuda", "mps")
RANGES = ("full", "percentile")
SCALES = ("head", "layer", "all", "log")
HEADS, LAYERS = ("all",), ("-1", "all")
QUERIES = ("auto", "cls", "mean", "pool", "register0")
TARGETS = ("auto", "norm")
METRICS = ("masks", "perturbation", "masks,perturbation")
# Importing matplotlib takes 0.4 s; a test compares these names with matplotlib's.
_COLOURS = """
viridis magma inferno plasma cividis turbo twilight twilight_shifted berlin managua vanimo
Blues BuGn BuPu GnBu Greens Greys OrRd Oranges PuBu PuBuGn PuRd Purples RdPu Reds YlGn YlGnBu
YlOrBr YlOrRd gray hot afmhot bone copper pink cool autumn winter spring summer Wistia
gist_heat gist_gray cubehelix gnuplot gnuplot2 jet rainbow terrain ocean hsv Spectral coolwarm
bwr seismic BrBG PRGn PiYG PuOr RdBu RdGy RdYlBu RdYlGn
"""


def colormap_names() -> list[str]:
    """Names of matplotlib's colour maps, each followed by its reverse."""
    return [name for colours in _COLOURS.split() for name in (colours, f"{colours}_r")]


def method_names() -> list[tuple[str, str]]:
    """Names of the methods, each with its summary."""
    return [(name, entry.summary) for name, entry in methods.METHODS.items()]


def model_names() -> Iterator[tuple[str, str]]:
    """Short names of models, each with its description."""
    from attnviz.models.aliases import ALIASES  # noqa: PLC0415 — for completion only

    for name, source in models.SOURCES.items():
        if source.alone:
            yield name, source.summary
    for name, alias in ALIASES.items():
        yield name, f"{alias.family}, {alias.megabytes} MB"
