"""Names of a package that are imported when they are first used (PEP 562).

`--help` and usage errors touch light modules of a package; its `__init__` must not import the
heavy ones beside them.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that imports public names from the modules that define them.

    >>> __getattr__ = lazy_names("attnviz.geometry", {"Placement": "attnviz.geometry.placement"})

    Args:
        package: the module's own `__name__`.
        homes: of each public name the full name of its module.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 — the name that Python looks for
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__
