"""The command line, one file per command; only this package prints, and reports errors."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import attnviz
from attnviz.cli import console
from attnviz.cli.batch import batch
from attnviz.cli.commands import Command, Group, option_error
from attnviz.cli.compare import compare
from attnviz.cli.doctor import doctor
from attnviz.cli.evaluate import evaluate
from attnviz.cli.explore import explore
from attnviz.cli.lists import methods, models, schema, statistics
from attnviz.cli.merge import merge
from attnviz.cli.options.completion import Install, ShowScript, prepare_completion
from attnviz.cli.options.groups import Help
from attnviz.cli.show import show, stats
from attnviz.cli.video import video
from attnviz.errors import AttnvizError, ExitCode, unknown
from attnviz.models import memory

app = typer.Typer(
    cls=Group,
    # Plain help: rich takes longer to import than the rest of the command line.
    rich_markup_mode=None,
    # Typer's own options for completion and help import pydantic in every call; see options.Help
    # and cli.shells.
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": [], "max_content_width": 100},
)
for command in (
    show,
    explore,
    stats,
    batch,
    merge,
    video,
    evaluate,
    compare,
    models,
    methods,
    statistics,
    schema,
    doctor,
):
    app.command(cls=Command, context_settings={"help_option_names": []})(command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"attnviz {attnviz.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 — its callback does the work
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    install_completion: Install = False,  # noqa: ARG001
    show_completion: ShowScript = False,  # noqa: ARG001
    help: Help = False,  # noqa: ARG001, A002
) -> None:
    """See what a vision transformer attends to.

    attnviz show cat.jpg --heads 8
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; every error becomes one line on stderr."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    console.prepare()
    if "_ATTNVIZ_COMPLETE" in os.environ:
        prepare_completion()
    try:
        code = app(arguments, prog_name="attnviz", standalone_mode=False, obj=arguments)
        return int(code or ExitCode.DONE)
    except typer.TyperException as error:
        return _report(error, _usage(error, arguments), arguments)
    except AttnvizError as error:
        return _report(error, str(error), arguments)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except Exception as error:
        if memory.is_exhausted(error):
            advice = "out of memory; use a smaller --size, a smaller picture or fewer --layers"
            return _report(error, advice, arguments)
        name = type(error).__name__
        hint = "this is a fault of attnviz: run again with --debug and report what it prints"
        return _report(error, f"{name}: {error}; {hint}", arguments)


def _report(error: Exception, line: str, arguments: Sequence[str]) -> int:
    """Print what is wrong and return the exit code."""
    if "--debug" in arguments:
        traceback.print_exception(error)
    first, *others = getattr(error, "lines", (line,))
    console.say(f"error: {first}")
    for other in others:
        console.say(f"  {other}")
    return int(getattr(error, "exit_code", ExitCode.FAILED))


def _usage(error: typer.TyperException, arguments: Sequence[str]) -> str:
    """The error line of a wrong command line: what is wrong, and what to type instead."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    command = next((word for word in arguments if word in commands), "")
    wrong = getattr(error, "option_name", None)
    if wrong is not None and type(error).__name__ == "NoSuchOption":
        return option_error(wrong, command, commands)
    words = [word for word in arguments if not word.startswith("-")]
    if not command and words:
        return str(unknown("command", words[0], commands, see="attnviz --help"))
    return f"{_sentence(error)}; see `{' '.join(filter(None, ('attnviz', command)))} --help`"


def _sentence(error: typer.TyperException) -> str:
    """Typer's own message, without its full stop."""
    text = error.format_message().replace("Value error, ", "").strip().rstrip(".")
    # Pydantic's messages do not name the wrong value.
    refused: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    value = repr(refused[0]["input"]) if refused else ""
    return text if value in text else f"{text}, not {value}"
