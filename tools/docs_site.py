"""Hooks of MkDocs: pages and styles that are made from the program when the site is built.

`options.md` comes from the options that the commands declare, `schema.md` from the models of the
record, `pygments.css` from Pygments. mkdocs.yml names this file under `hooks`.
"""

import json
import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter

from attnviz.cli import app
from attnviz.output.record_parts import Image
from attnviz.output.records import MapInfo, Record

LIGHT, DARK = "default", "github-dark"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the program."""
    made = {"options.md": options(), "schema.md": schema(), "pygments.css": styles()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Take away the marks between which tests write tables: they would end a table."""
    del page, config, files
    return re.sub(r"^<!-- [\w -]+ -->\n", "", markdown, flags=re.MULTILINE)


def options() -> str:
    """A table of options for every command."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = [
        "# Options of every command",
        "",
        "This page is made from the program. [The command line](cli.md) explains options, files",
        "and exit codes in full. An option has one meaning in every command that takes it.",
    ]
    for name, command in commands.items():
        lines += ["", f"## attnviz {name}", "", _text(command.help or "")]
        for panel, parameters in _panels(command.params).items():
            lines += ["", f"### {panel} {{ #{name}-{_slug(panel)} }}", ""]
            lines += ["| option | what it does | default |", "|---|---|---|"]
            lines += [_row(parameter) for parameter in parameters]
    return "\n".join(lines) + "\n"


def _panels(parameters: list[Any]) -> dict[str, list[Any]]:
    """Parameters by the panel of the help that they stand in."""
    found: dict[str, list[Any]] = {}
    for parameter in parameters:
        argument = parameter.param_type_name == "argument"
        panel = getattr(parameter, "rich_help_panel", None) or (
            "Arguments" if argument else "Options"
        )
        found.setdefault(panel, []).append(parameter)
    return found


def _row(parameter: Any) -> str:
    """Names, help with the choices there are, and default of one parameter."""
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        names = [parameter.metavar or parameter.name.upper()]
    text = _text(parameter.help or "")
    choices = [f"`{each}`" for each in _choices(parameter.type_descriptor.annotation)]
    if choices:
        text = f"{text} One of {', '.join(choices)}."
    cells = (", ".join(f"`{name}`" for name in names), text, _default(parameter.default))
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _choices(kind: Any) -> Iterator[str]:
    """The values of a `Literal`, also of one that may be missing."""
    if get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    elif get_origin(kind) in (Union, UnionType):
        for each in get_args(kind):
            yield from _choices(each)


def _default(value: Any) -> str:
    """A default as it would be typed; nothing where there is none."""
    if value is None or value is False or value == "" or callable(value):
        return ""
    if value is True:
        return "on"
    if isinstance(value, (list, tuple)):
        return ", ".join(f"`{each}`" for each in value)
    return f"`{getattr(value, 'value', value)}`"


def _text(text: str) -> str:
    return " ".join(text.replace("\b", " ").split())


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def schema() -> str:
    """The parts of the record in tables, and its JSON schema."""
    found = Record.model_json_schema(mode="serialization")
    found["properties"] = {name.rstrip("_"): kind for name, kind in found["properties"].items()}
    lines = [
        "# The record's JSON schema",
        "",
        "`attnviz show --json`, `attnviz stats --json`, `stats.json` and every line of a batch's",
        "`stats.jsonl` are records. Fields of a part that do not apply may be absent:",
        "[the command line](cli.md#the-record) says when. [Formulas](formulas.md) says what each",
        "number is.",
    ]
    for name, part in {"Record": found, **_parts(found)}.items():
        lines += ["", f"## {name}", "", _text(part.get("description", "")), ""]
        lines += ["| field | type |", "|---|---|"]
        lines += [f"| `{field}` | {_type(kind)} |" for field, kind in part["properties"].items()]
    text = json.dumps(found, indent=2, ensure_ascii=False)
    return "\n".join([*lines, "", "## As JSON", "", "```json", text, "```", ""])


def _parts(found: dict[str, Any]) -> dict[str, Any]:
    """The parts of a record; those with a serializer of their own are added."""
    parts = {part.__name__: part.model_json_schema() for part in (Image, MapInfo)}
    return {**found["$defs"], **parts}


def _type(kind: dict[str, Any]) -> str:
    """A type of JSON in words."""
    if "anyOf" in kind:
        return " or ".join(dict.fromkeys(_type(each) for each in kind["anyOf"]))
    if "$ref" in kind:
        name = kind["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in kind or "enum" in kind:
        return ", ".join(f"`{each}`" for each in kind.get("enum", [kind.get("const")]))
    if kind.get("type") == "array" and "items" in kind:
        return f"list of {_type(kind['items'])}"
    return str(kind.get("type", "any"))


def styles() -> str:
    """Colours of code, for light and dark pages."""
    light = HtmlFormatter(style=LIGHT).get_style_defs(".codehilite")
    dark = HtmlFormatter(style=DARK).get_style_defs("[data-bs-theme=dark] .codehilite")
    return f"{light}\n{dark}\n"
