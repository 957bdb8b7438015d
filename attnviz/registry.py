"""What a table of choices is made of.

Tables name their code as strings, so that `--help`, `attnviz methods` and the documentation
come from them without importing torch.
"""

import pkgutil
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class TableEntry:
    """One choice: where its code is, what it is in a line, and where it comes from."""

    code: str
    summary: str
    reference: str

    def load(self) -> Any:
        """Import the code that this entry names."""
        return load(self.code)


@cache
def load(code: str) -> Any:
    """Import what `package.module:name` names.

    >>> load("math:sqrt")(9)
    3.0
    """
    return pkgutil.resolve_name(code)
