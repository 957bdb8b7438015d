"""Statistics: from a layer that is read to one number per head. `STATISTICS` is the table."""

from typing import TYPE_CHECKING

from attnviz.catalog import Entry

if TYPE_CHECKING:
    from torch import Tensor

    from attnviz.attention.reading import Reading

STATISTICS: dict[str, Entry] = {
    "entropy": Entry(
        "attnviz.statistics.heads:entropy",
        "how spread a row is, in nats; ln(keys) when uniform",
        "Shannon 1948",
    ),
    "entropy_ratio": Entry(
        "attnviz.statistics.heads:entropy_ratio",
        "entropy as a share of its maximum, 0 to 1",
        "Shannon 1948",
    ),
    "confidence": Entry(
        "attnviz.statistics.heads:confidence",
        "mean of the largest weight of a row",
        "Voita et al. 2019, arXiv 1905.09418",
    ),
    "distance_px": Entry(
        "attnviz.statistics.heads:distance_px",
        "mean attention distance in input pixels",
        "Dosovitskiy et al. 2021, arXiv 2010.11929, fig. 7",
    ),
    "prefix_mass": Entry(
        "attnviz.statistics.heads:prefix_mass",
        "share of the attention that goes to class and register tokens",
        "Darcet et al. 2024, arXiv 2309.16588",
    ),
    "sink_mass": Entry(
        "attnviz.statistics.heads:sink_mass",
        "attention that the most looked-at token receives, mean over queries",
        "Gu et al. 2025, arXiv 2410.10781",
    ),
}


def measure(reading: "Reading") -> "dict[str, Tensor]":
    """Every statistic of the table for one layer, each (heads,)."""
    return {name: entry.load()(reading) for name, entry in STATISTICS.items()}
