"""What gradients are of: a target in words, which becomes a scalar of the model's output.

Free of heavy imports, so that a slip of the pen is answered at once; `models/scoring.py` is where a
target meets a model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from attnviz.errors import UsageError
from attnviz.geometry import queries
from attnviz.geometry.queries import Query

Kind = Literal["auto", "class", "norm", "text"]
Head = Literal["none", "class", "any", "text"]
"""Which head of a checkpoint is asked for: what `load_model` takes."""
_HEADS: dict[Kind, Head] = {"auto": "any", "class": "class", "norm": "none", "text": "text"}
_EXPECTED = "auto, a class by its number or label, norm or norm:QUERY"


@dataclass(frozen=True)
class Target:
    """A target as it was asked for, or as it was found.

    Attributes:
        kind: `auto`, the class that is predicted, or the norm where there are no classes; `class`,
            the logit of a class; `norm`, of the output; `text`, the cosine to the embedding of one.
        index, label: of a class: what was given, and both once it is resolved, if it has a label.
        query: which tokens of the output the norm is of; None of the model's own pooling.
        text: what the picture is compared with.
    """

    kind: Kind
    index: int | None = None
    label: str | None = None
    query: Query | None = None
    text: str | None = None

    def __str__(self) -> str:
        """As it would be typed: after `--text` of a text, after `--target` of all others."""
        if self.kind == "text":
            return str(self.text)
        if self.kind == "class":
            return str(self.label if self.index is None else self.index)
        return self.kind if self.query is None else f"{self.kind}:{self.query}"

    @property
    def head(self) -> Head:
        """The head that a checkpoint must be loaded with: `load_model(…, head=target.head)`."""
        return _HEADS[self.kind]


def parse(text: str) -> Target:
    """Read a target: `auto`, `norm`, `norm:` and a query, the number of a class or its label.

    >>> parse("243")
    Target(kind='class', index=243, label=None, query=None, text=None)

    Raises:
        UsageError: nothing, a negative number, or a query that cannot be read or is of no output.
    """
    text = text.strip()
    if text in ("auto", "norm"):
        return Target(text)  # type: ignore[arg-type]  # narrowed by the line above
    if text.startswith("norm:"):
        return _norm(text.removeprefix("norm:").strip())
    if re.fullmatch(r"[0-9]{1,9}", text):
        return Target("class", index=int(text))
    if not text or re.fullmatch(r"[-+]?[0-9.]+", text):
        raise UsageError(f"--target {text!r} is no class, which count from 0; give {_EXPECTED}")
    return Target("class", label=text)


def of_text(text: str) -> Target:
    """A target of a text that the picture is compared with.

    >>> of_text("a tabby cat").text
    'a tabby cat'

    Raises:
        UsageError: it is empty.
    """
    if not text.strip():
        raise UsageError("--text is empty; give what the picture may show, such as 'a tabby cat'")
    return Target("text", text=text.strip())


def _norm(text: str) -> Target:
    query = queries.parse(text, option="--target norm:")
    if query.kind == "pool":
        raise UsageError(
            "--target norm:pool: an attention pool asks and is no token of the output; give norm "
            "or norm:mean"
        )
    return Target("norm", query=query)
