"""`--install-completion` and `--show-completion`, for bash, zsh and fish.

Typer's own options of these names import pydantic in every call. These options call the same
functions of Typer, but only when they are used.
"""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from attnviz.errors import UsageError, unknown
from attnviz.registry import load

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
