"""Completion for bash, zsh and fish: its options, and the values that a shell completes.

Nothing here imports torch, numpy or matplotlib.
"""

import os
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from attnviz import methods, models
from attnviz.errors import UsageError, unknown
from attnviz.models.settings import SUFFIXES
from attnviz.registry import load

DEVICES = ("auto", "cpu", "cuda", "mps")
RANGES = ("full", "percentile")
SCALES = ("head", "layer", "all", "log")
HEADS, LAYERS = ("all", "localized"), ("-1", "all", "upper")
QUERIES = ("auto", "cls", "mean", "pool", "register0", "objects", "object:0")
TARGETS = ("auto", "norm")
METRICS = ("masks", "perturbation", "masks,perturbation", "sensitivity", "randomisation")
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
    """Short names of models, each with its description, and checkpoint files of this folder."""
    for file in sorted(os.listdir()):  # noqa: PTH208 — pathlib costs start-up
        if file.lower().endswith(SUFFIXES):
            yield file, "a checkpoint file"
    from attnviz.models.aliases import ALIASES  # noqa: PLC0415 — for completion only

    for name, source in models.SOURCES.items():
        if source.alone:
            yield name, source.summary
    for name, alias in ALIASES.items():
        yield name, f"{alias.family}, {alias.megabytes} MB"


SHELLS = ("bash", "zsh", "fish")


def prepare_completion() -> None:
    """Register the shells with Typer, before it answers a shell's request for completions."""
    from typer.completion import get_completion_inspect_parameters  # noqa: PLC0415 — for shells only

    get_completion_inspect_parameters()


def _install(context: typer.Context, parameter: Any, wanted: bool) -> None:
    if wanted:
        from typer.completion import install_callback  # noqa: PLC0415

        _call(install_callback, context, parameter, _shell(context, "--install-completion"))


def _show(context: typer.Context, parameter: Any, wanted: bool) -> None:
    if wanted:
        from typer.completion import show_callback  # noqa: PLC0415

        _call(show_callback, context, parameter, _shell(context, "--show-completion"))


def _call(callback: Callable[..., Any], *arguments: object) -> None:
    """Call one of Typer's functions, which end the program themselves."""
    try:
        callback(*arguments)
    except SystemExit as ended:
        raise typer.Exit(int(ended.code or 0)) from None


def _shell(context: typer.Context, option: str) -> str:
    """The shell that is named after the option, or the one that runs this program.

    Raises:
        UsageError: no shell is named and none is found, or the shell is not supported.
    """
    behind = list(context.obj or ())
    named = behind[behind.index(option) + 1 :][:1] if option in behind else []
    name = named[0] if named else _running_shell()
    if name is None:
        raise UsageError(f"the shell is not known; name it: attnviz {option} {SHELLS[0]}")
    if name not in SHELLS:
        raise unknown("shell", name, SHELLS, see="attnviz --help")
    return name


def _running_shell() -> str | None:
    """The name of the running shell, found by shellingham, which Typer installs."""
    try:
        name, _ = load("shellingham:detect_shell")()
    except load("shellingham:ShellDetectionFailure"):
        return None
    return str(name)


Install = Annotated[
    bool,
    typer.Option(
        "--install-completion",
        callback=_install,
        is_eager=True,
        help="Install completion for this shell, or the one named: bash, zsh, fish.",
    ),
]
ShowScript = Annotated[
    bool,
    typer.Option(
        "--show-completion",
        callback=_show,
        is_eager=True,
        help="Print the completion script for this shell, or the one named.",
    ),
]
