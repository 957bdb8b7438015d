"""Statistics: from a layer that is read to its numbers.

`STATISTICS` is the table of those that are always there, one number per head, which one sweep
gives. `MORE` has further numbers per head, `LAYER` what concerns heads or tokens beside each other;
these take passes of their own. Each entry is a function of a reading.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnviz.registry import TableEntry

if TYPE_CHECKING:
    from torch import Tensor

    from attnviz.attention.layer_input import LayerInput
    from attnviz.statistics.tokens import HighNorm, Token

STATISTICS: dict[str, TableEntry] = {
    "entropy": TableEntry(
        "attnviz.statistics.heads:entropy",
        "how spread a row is, in nats; ln(keys) when uniform",
        "Shannon 1948",
    ),
    "entropy_ratio": TableEntry(
        "attnviz.statistics.heads:entropy_ratio",
        "entropy as a share of its maximum, 0 to 1",
        "Shannon 1948",
    ),
    "confidence": TableEntry(
        "attnviz.statistics.heads:confidence",
        "mean of the largest weight of a row",
        "Voita et al. 2019, arXiv 1905.09418",
    ),
    "distance_px": TableEntry(
        "attnviz.statistics.heads:distance_px",
        "mean attention distance in input pixels",
        "Dosovitskiy et al. 2021, arXiv 2010.11929, fig. 7",
    ),
    "prefix_mass": TableEntry(
        "attnviz.statistics.heads:prefix_mass",
        "share of the attention that goes to class and register tokens",
        "Darcet et al. 2024, arXiv 2309.16588",
    ),
    "sink_mass": TableEntry(
        "attnviz.statistics.heads:sink_mass",
        "attention that the most looked-at token receives, mean over queries",
        "Gu et al. 2025, arXiv 2410.10781",
    ),
}

MORE: dict[str, TableEntry] = {
    "head_cosine": TableEntry(
        "attnviz.statistics.head_similarity:head_cosine",
        "cosine similarity of its weights with those of the other heads, mean",
        "cosine of the flattened matrices",
    ),
    "head_jensen_shannon": TableEntry(
        "attnviz.statistics.head_similarity:head_jensen_shannon",
        "Jensen-Shannon divergence of its rows from those of the other heads, mean, in nats",
        "Clark et al. 2019, arXiv 1906.04341; Lin 1991",
    ),
    "value_distance_px": TableEntry(
        "attnviz.statistics.value_distance:value_distance_px",
        "mean attention distance, weights times the norm of what they bring",
        "Kobayashi et al. 2020, arXiv 2004.10102",
    ),
    "sinks": TableEntry(
        "attnviz.statistics.tokens:sink_count",
        "number of tokens that receive far more than others do",
        "Gu et al. 2025, arXiv 2410.10781",
    ),
    "importance": TableEntry(
        "attnviz.statistics.heads:importance",
        "how much the score would change with all of the head's weights",
        "Michel et al. 2019, arXiv 1905.10650",
    ),
}

LAYER: dict[str, TableEntry] = {
    "cosine": TableEntry(
        "attnviz.statistics.head_similarity:cosine",
        "cosine similarity of every two heads",
        "cosine of the flattened matrices",
    ),
    "jensen_shannon": TableEntry(
        "attnviz.statistics.head_similarity:jensen_shannon",
        "Jensen-Shannon divergence of every two heads, in nats",
        "Clark et al. 2019, arXiv 1906.04341; Lin 1991",
    ),
    "sinks": TableEntry(
        "attnviz.statistics.tokens:sinks",
        "tokens that receive far more than others do, head by head",
        "Gu et al. 2025, arXiv 2410.10781",
    ),
    "high_norm": TableEntry(
        "attnviz.statistics.tokens:high_norm",
        "tokens whose norm after the layer's block stands out",
        "Darcet et al. 2024, arXiv 2309.16588",
    ),
}


@dataclass(frozen=True, eq=False)
class More:
    """All further numbers of one layer; tensors are float32, on the CPU.

    Attributes:
        numbers: of each entry of `MORE`, (heads,); NaN where it is not defined.
        cosine, jensen_shannon: of every two heads, (heads, heads).
        sinks: head by head, the strongest first.
        high_norm: None where the tokens after the block were not kept.
    """

    numbers: "dict[str, Tensor]"
    cosine: "Tensor"
    jensen_shannon: "Tensor"
    sinks: "tuple[Token, ...]"
    high_norm: "HighNorm | None"


def measure(reading: "LayerInput") -> "dict[str, Tensor]":
    """Every statistic of the table for one layer, each (heads,)."""
    return {name: entry.load()(reading) for name, entry in STATISTICS.items()}


def more(reading: "LayerInput") -> More:
    """Every entry of `MORE` and of `LAYER` for one layer."""
    return More(
        numbers={name: entry.load()(reading) for name, entry in MORE.items()},
        **{name: entry.load()(reading) for name, entry in LAYER.items()},
    )
