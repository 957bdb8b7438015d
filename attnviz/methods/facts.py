"""What is known to tell little: one table of facts, measured in docs/which-method.md.

This file has no heavy imports.
"""

from collections.abc import Sequence
from dataclasses import dataclass

PAGE = "docs/which-method.md"


@dataclass(frozen=True)
class Fact:
    """A question whose maps are known to tell little.

    Attributes:
        methods: names of methods.
        queries: kinds of queries; empty for any.
        layers: values of `--layers` for which it is known; empty for any.
        text: what is known, and what to ask instead.
    """

    methods: tuple[str, ...]
    queries: tuple[str, ...]
    layers: tuple[str, ...]
    text: str


FACTS: tuple[Fact, ...] = ()
"""All facts; each number is in the page."""


def facts_about(methods: Sequence[str], queries: Sequence[str], layers: str) -> list[str]:
    """What is known of a question, a line for each fact, with the page.

    Args:
        methods: names of methods.
        queries: kinds of queries, `auto` replaced by what it stands for.
        layers: value of `--layers`, `auto` replaced by what it stands for.

    >>> facts_about(["attention"], ["point"], "-1")
    []
    """
    found = []
    for fact in FACTS:
        named = next((name for name in methods if name in fact.methods), None)
        of_query = not fact.queries or any(query in fact.queries for query in queries)
        of_layer = not fact.layers or layers.strip() in fact.layers
        if named is not None and of_query and of_layer:
            found.append(f"{fact.text.format(method=named)} ({PAGE})")
    return found
