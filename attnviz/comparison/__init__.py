"""Compares maps with each other; `AGREEMENTS` is the table of numbers of how alike two maps are.

This module has no heavy imports, so that `--help` and usage errors are answered at once.
"""

from dataclasses import dataclass

from attnviz.errors import UsageError
from attnviz.registry import Table, TableEntry

MOST = 12
"""The most sides of one comparison: a sheet or table of more would be unreadable."""
MOST_FRAMES = 200
"""The most sides of a moving picture: every pair of them is compared."""


@dataclass(frozen=True)
class Agreement(TableEntry):
    """One number of two maps: a function of their weights, both (cells,), over cells both saw.

    Attributes:
        short: its heading in a table; by default its name.
    """

    short: str = ""


_AGREEMENTS: dict[str, Agreement] = {
    "spearman": Agreement(
        "attnviz.statistics.correlation:spearman",
        "whether they order the cells alike: correlation of ranks",
        "Spearman 1904", "ρ",
    ),
    "pearson": Agreement(
        "attnviz.statistics.correlation:pearson",
        "whether one is the other times a factor, plus a number", "Pearson 1895", "r",
    ),
    "jaccard60": Agreement(
        "attnviz.comparison.compare:jaccard60",
        "Jaccard index of the smallest sets of cells with 60 % of the mass",
        "Jaccard 1912; Caron et al. 2021, arXiv 2104.14294", "jaccard60",
    ),
}  # fmt: skip
AGREEMENTS = Table(
    "attnviz.agreements",
    Agreement,
    _AGREEMENTS,
    reserved=("first", "second", "cells", "file", "first_name", "second_name", "image", "data"),
    identifiers=True,
)
"""Agreements by name; other packages add theirs with entry points `attnviz.agreements`."""


def check_count(sides: int, *, most: int | None = MOST) -> None:
    """Check the number of sides: at least two, and at most `most`.

    Raises:
        UsageError: there are too few or too many.
    """
    if sides < 2:
        raise UsageError(
            "there is one side alone, and nothing to compare it with; add --random-weights, a "
            "second --model or --method, or --layers 0,-1"
        )
    if most is not None and sides > most:
        raise UsageError(
            f"{sides} sides are more than the {most} that are compared at a time; take fewer "
            "--model, --method, --layers or --query"
        )
