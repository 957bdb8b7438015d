"""An extension of Griffe: examples in docstrings become blocks of code on the page of Python.

Docstrings hold doctests as they are typed, `>>> …`, which Markdown would take for quotes.
"""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^( *)>>> .*(?:\n(?! *$) *\S.*)*", re.MULTILINE)


class DoctestFences(griffe.Extension):
    """Puts fences around doctests."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring when its object has been loaded."""
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    r"""A docstring whose examples are fenced blocks.

    >>> fenced(">>> 1 + 1")
    '```pycon\n>>> 1 + 1\n```'
    """
    return _EXAMPLE.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)
