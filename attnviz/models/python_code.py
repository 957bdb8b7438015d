"""Imports the user's own Python code for `py:MODULE:FACTORY`."""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from attnviz.errors import AttnvizError, ModelError, UsageError, did_you_mean
from attnviz.models.failures import describe


def split_spec(spec: str) -> tuple[str, str]:
    """`py:MODULE:FACTORY` → module or file, and the factory's name."""
    where, _, name = spec.removeprefix("py:").rpartition(":")
    if not where or not name:
        raise UsageError(
            f"--model {spec!r} is not complete; give py:MODULE:FACTORY, such as py:nets.vit:build, "
            "or py:FILE.py:FACTORY"
        )
    if name.endswith(")"):
        raise UsageError(
            f"--model {spec!r} calls it; give the name alone, and arguments by --set: "
            f"py:{where}:{name.partition('(')[0]}"
        )
    return where, name


@contextlib.contextmanager
def here() -> Iterator[None]:
    """Search the current folder for modules too, as `python -m` does."""
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def import_module(spec: str, where: str) -> ModuleType:
    """Import a module by its name or its file."""
    if where.endswith(".py"):
        return _file(spec, Path(where).expanduser())
    if not where.isidentifier() and Path(where).expanduser().exists():
        raise ModelError(f"{spec}: {where} is no Python file; give py:FILE.py:FACTORY")
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{where}.".startswith(f"{error.name}."):
            raise ModelError(
                f"{spec}: no module {where!r} here or among what is installed; go to the folder "
                "that holds it, or give its file: py:FILE.py:FACTORY"
            ) from error
        raise raised(spec, f"importing {where}", error) from error
    except AttnvizError:
        raise
    except (Exception, SystemExit) as error:
        raise raised(spec, f"importing {where}", error) from error


def _file(spec: str, path: Path) -> ModuleType:
    """Import a file; its own folder is searched too, as when Python runs the file."""
    if not path.is_file():
        raise ModelError(f"{spec}: no such file {path}; check the path")
    sys.path.insert(0, str(path.resolve().parent))
    known = sys.modules.get(path.stem)  # a library may have the file's name already
    is_free = known is None or getattr(known, "__file__", None) in (str(path), str(path.resolve()))
    name = path.stem if is_free else f"attnviz_own_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise ModelError(f"{spec}: {path} cannot be imported; give a Python file")
    module = importlib.util.module_from_spec(module_spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and pickle look up their module
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise raised(spec, f"importing {path}", error) from error
    return module


def find_attribute(spec: str, module: ModuleType, name: str) -> Any:
    """The attribute of that name, which may have dots."""
    value: Any = module
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError as error:
            names = [known for known in dir(value) if not known.startswith("_")]
            close = did_you_mean(part, names or [part])
            raise ModelError(
                f"{spec}: {title_of(value)} has no {part!r}{close}; give the name of a module or "
                "of a function that returns one"
            ) from error
    return value


def raised(spec: str, what: str, error: BaseException) -> ModelError:
    """The error for an exception in the user's own code, with the line that raised it."""
    advice = "mend it, or see the traceback with --debug"
    if isinstance(error, SystemExit):
        advice = "put what a script does under `if __name__ == '__main__':`"
    elif isinstance(error, ModuleNotFoundError) and error.name:
        advice = f"install what has {error.name} where attnviz is installed, or correct the import"
    elif "relative import" in str(error):
        advice = "give the module by its name: py:PACKAGE.MODULE:FACTORY, from the package's folder"
    return ModelError(f"{spec}: {what} raised {describe(error)}; {advice}")


def title_of(value: Any) -> str:
    """What a value is, in words for an error.

    >>> title_of(3), title_of([1, "a"])
    ('a value of type int', 'a list of int, str')
    """
    if isinstance(value, ModuleType | type):
        return value.__name__
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {', '.join(type(each).__name__ for each in value)}"
    if isinstance(value, Mapping) and value and all(torch.is_tensor(v) for v in value.values()):
        return "a state dict (save it and give it as --weights FILE)"
    return f"a value of type {type(value).__name__}"
