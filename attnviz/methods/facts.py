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
        of_class: whether it is known for scores of classes alone.
    """

    methods: tuple[str, ...]
    queries: tuple[str, ...]
    layers: tuple[str, ...]
    text: str
    of_class: bool = False


LAST = ("-1",)
FACTS: tuple[Fact, ...] = (
    Fact(
        ("similarity", "token-similarity"),
        ("cls",),
        LAST,
        "{method} from a class token in the last layer points at objects no better than chance: a "
        "class token is like no place; ask from a point, -q X,Y",
    ),
    Fact(
        ("gradient-attention",),
        ("point", "box", "mask", "mean"),
        LAST,
        "{method} from a place in the last layer is 0: the score of a class is made of the class "
        "token alone; ask from cls, or a lower layer",
        of_class=True,
    ),
    Fact(
        ("attcat", "input-gradient", "integrated-gradients"),
        (),
        (),
        "{method} tells little of where an object is: tokens of it weigh hardly more than others; "
        "for the object of a class ask --method relevance",
        of_class=True,
    ),
)
"""All facts, of models with a class token; each is measured in the page."""


def facts_about(
    methods: Sequence[str], queries: Sequence[str], layers: str, *, of_class: bool = False
) -> list[str]:
    """What is known of a question, a line for each fact, with the page.

    Args:
        methods: names of methods.
        queries: kinds of queries, `auto` replaced by what it stands for.
        layers: value of `--layers`, `auto` replaced by what it stands for.
        of_class: whether scores are those of classes.

    >>> facts_about(["attention"], ["point"], "-1")
    []
    """
    found = []
    for fact in FACTS:
        named = next((name for name in methods if name in fact.methods), None)
        of_query = not fact.queries or any(query in fact.queries for query in queries)
        of_layer = not fact.layers or layers.strip() in fact.layers
        if named and of_query and of_layer and of_class >= fact.of_class:
            found.append(f"{fact.text.format(method=named)} ({PAGE})")
    return found
