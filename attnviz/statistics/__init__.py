"""Statistics compute numbers of heads, layers and maps; this file holds their tables.

`STATISTICS` has one number per head that is always computed, in one sweep. `MORE` has further
numbers per head, and `LAYER` compares heads or tokens with each other; both need extra passes. Each
entry is a function of one layer input. `MAP_NUMBERS` has numbers of a drawn map. Records, tables,
CSV, Parquet and gallery have a field for each entry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnviz.errors import UsageError
from attnviz.registry import Option, Table, TableEntry, complete

if TYPE_CHECKING:
    from torch import Tensor

    from attnviz.attention.layer_input import LayerInput
    from attnviz.statistics.tokens import HighNorm, Token


@dataclass(frozen=True)
class Statistic(TableEntry):
    """One number of a head: a function of a `LayerInput` that returns (heads,).

    Attributes:
        short: its heading in tables of the command line; its name unless given.
        basic: whether it is always computed; others need `--stats all`.
        whole: whether it is a whole number, because it counts something.
        scored: whether it needs the gradient of a score; without a score it is not defined.
        options: its own options, keyword arguments of its function.
    """

    short: str = ""
    basic: bool = True
    whole: bool = False
    scored: bool = False
    options: tuple[Option, ...] = ()

    @property
    def declared_options(self) -> tuple[Option, ...]:
        """Its own options."""
        return self.options

    def measure(self, reading: "LayerInput", settings: Mapping[str, Any] | None = None) -> "Tensor":
        """The number of every head, (heads,) float32 on the CPU; NaN if it is not defined.

        Args:
            reading: the layer.
            settings: options by name, its own among them; defaults stand for missing ones.
        """
        options = complete(self.options, settings or {})
        if not self.package:
            values: Tensor = self(reading, **options)
            return values
        import torch  # noqa: PLC0415 — tables import no torch

        heads = reading.call.heads

        def measured() -> "Tensor":
            values = torch.as_tensor(self(reading, **options)).detach().float().cpu()
            if values.shape != (heads,):
                raise ValueError(f"it returns {tuple(values.shape)}, not ({heads},)")
            return values

        return self.run_or(torch.full((heads,), torch.nan), measured)


@dataclass(frozen=True)
class MapNumber(TableEntry):
    """One number of a drawn map: a function of a `DrawnMap`.

    Attributes:
        short: its heading in tables of the command line; an empty one leaves it out.
    """

    short: str = ""


_FIELDS = (
    "layer", "head", "rank", "rows", "columns", "map", "query", "target", "scale", "file", "image",
    "frame", "time", "model", "weights", "method", "unsaid", "data", "copy", "dict", "json",
    "schema", "construct", "validate",
)  # fmt: skip
"""Field names of a record that no statistic may have."""

_STATISTICS: dict[str, Statistic] = {
    "entropy": Statistic(
        "attnviz.statistics.heads:entropy",
        "how spread a row is, in nats; ln(keys) when uniform",
        "Shannon 1948",
        short="entropy",
    ),
    "entropy_ratio": Statistic(
        "attnviz.statistics.heads:entropy_ratio",
        "entropy as a share of its maximum, 0 to 1",
        "Shannon 1948",
        short="ratio",
    ),
    "confidence": Statistic(
        "attnviz.statistics.heads:confidence",
        "mean of the largest weight of a row",
        "Voita et al. 2019, arXiv 1905.09418",
        short="confid.",
    ),
    "distance_px": Statistic(
        "attnviz.statistics.heads:distance_px",
        "mean attention distance in input pixels",
        "Dosovitskiy et al. 2021, arXiv 2010.11929, fig. 7",
        short="dist. px",
    ),
    "prefix_mass": Statistic(
        "attnviz.statistics.heads:prefix_mass",
        "share of the attention that goes to class and register tokens",
        "Darcet et al. 2024, arXiv 2309.16588",
        short="prefix",
    ),
    "sink_mass": Statistic(
        "attnviz.statistics.heads:sink_mass",
        "attention that the most looked-at token receives, mean over queries",
        "Gu et al. 2025, arXiv 2410.10781",
        short="sink",
    ),
}

_MORE: dict[str, Statistic] = {
    "head_cosine": Statistic(
        "attnviz.statistics.heads:head_cosine",
        "cosine similarity of its weights with those of the other heads, mean",
        "cosine of the flattened matrices",
        short="cosine",
        basic=False,
    ),
    "head_jensen_shannon": Statistic(
        "attnviz.statistics.heads:head_jensen_shannon",
        "Jensen-Shannon divergence of its rows from those of the other heads, mean, in nats",
        "Clark et al. 2019, arXiv 1906.04341; Lin 1991",
        short="J-S",
        basic=False,
    ),
    "value_distance_px": Statistic(
        "attnviz.statistics.heads:value_distance_px",
        "mean attention distance, weights times the norm of what they bring",
        "Kobayashi et al. 2020, arXiv 2004.10102",
        short="value dist. px",
        basic=False,
    ),
    "sinks": Statistic(
        "attnviz.statistics.tokens:sink_count",
        "number of tokens that receive far more than others do",
        "Gu et al. 2025, arXiv 2410.10781",
        short="sinks",
        basic=False,
        whole=True,
    ),
    "importance": Statistic(
        "attnviz.statistics.heads:importance",
        "how much the score would change with all of the head's weights",
        "Michel et al. 2019, arXiv 1905.10650",
        short="importance",
        basic=False,
        scored=True,
    ),
}

LAYER: dict[str, TableEntry] = {
    "cosine": TableEntry(
        "attnviz.statistics.heads:cosine",
        "cosine similarity of every two heads",
        "cosine of the flattened matrices",
    ),
    "jensen_shannon": TableEntry(
        "attnviz.statistics.heads:jensen_shannon",
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


_MAP_NUMBERS: dict[str, MapNumber] = {
    "minimum": MapNumber(
        "attnviz.statistics.maps:minimum",
        "smallest weight that is drawn",
        "docs/formulas.md",
    ),
    "maximum": MapNumber(
        "attnviz.statistics.maps:maximum",
        "largest weight that is drawn",
        "docs/formulas.md",
        short="map max",
    ),
    "entropy": MapNumber(
        "attnviz.statistics.maps:entropy",
        "how spread the map is, in nats",
        "Shannon 1948",
    ),
    "peak_x": MapNumber(
        "attnviz.statistics.maps:peak_x",
        "where its heaviest token lies, in pixels from the left",
        "docs/formulas.md",
    ),
    "peak_y": MapNumber(
        "attnviz.statistics.maps:peak_y",
        "where its heaviest token lies, in pixels from the top",
        "docs/formulas.md",
    ),
    "area60": MapNumber(
        "attnviz.statistics.maps:area60",
        "share of the tokens that hold 60 % of its mass",
        "Caron et al. 2021, arXiv 2104.14294",
        short="area60",
    ),
    "spatial_entropy": MapNumber(
        "attnviz.statistics.maps:spatial_entropy",
        "into how many separate parts the map falls, in nats; 0 for one part",
        "Batra et al. 2021; Kang et al. 2025, arXiv 2503.06287",
    ),
    "border_mass": MapNumber(
        "attnviz.statistics.maps:border_mass",
        "share of the map's mass on the outermost ring of cells",
        "docs/formulas.md",
    ),
    "border_ratio": MapNumber(
        "attnviz.statistics.maps:border_ratio",
        "border_mass over that of a uniform map",
        "docs/formulas.md",
    ),
}

STATISTICS = Table(
    "attnviz.statistics",
    Statistic,
    _STATISTICS,
    accepts=lambda entry: entry.basic,
    reserved=(*_FIELDS, *_MORE),
    identifiers=True,
)
"""Numbers of a head that are always computed, by name."""
MORE = Table(
    "attnviz.statistics",
    Statistic,
    _MORE,
    accepts=lambda entry: not entry.basic,
    reserved=(*_FIELDS, *_STATISTICS),
    identifiers=True,
)
"""Numbers of a head that `--stats all` adds, by name."""
MAP_NUMBERS = Table(
    "attnviz.map_numbers", MapNumber, _MAP_NUMBERS, reserved=_FIELDS, identifiers=True
)
"""Numbers of a drawn map, by name."""
OBJECT_NUMBERS = {
    "object_mass": "share of the map within the object's mask, or its box",
    "object_distance": "picture pixels from the map's centre of mass to the middle of the box",
    "object_peak_distance": "picture pixels from the map's peak to the middle of the box",
}
"""Numbers of a map that looks from an object of a detector, each with a line about it."""


def options_of(statistics: str) -> dict[str, Option]:
    """Options of the statistics that are computed, by name; `statistics` is `basic` or `all`."""
    return STATISTICS.options | (MORE.options if statistics == "all" else {})


def check_options(settings: Mapping[str, Any], statistics: str) -> dict[str, Option]:
    """Check the values of options of statistics among all settings; return all these options.

    Raises:
        UsageError: a value is wrong, or the option belongs to a statistic that is not computed.
    """
    computed = options_of(statistics)
    for name, value in settings.items():
        if value is not None and name in computed:
            computed[name].check(value)
        elif value is not None and name in MORE.options:
            raise UsageError(f"{MORE.options[name].flag} is for --stats all; add it")
    return computed


@dataclass(frozen=True, eq=False)
class More:
    """All further numbers of one layer; tensors are float32, on the CPU.

    Attributes:
        numbers: each entry of `MORE`, (heads,); NaN if it is not defined.
        cosine, jensen_shannon: similarity and divergence of every two heads, (heads, heads).
        sinks: tokens that receive far more than others, head by head, the strongest first.
        high_norm: tokens of high norm; None if the tokens after the block were not kept.
    """

    numbers: "dict[str, Tensor]"
    cosine: "Tensor"
    jensen_shannon: "Tensor"
    sinks: "tuple[Token, ...]"
    high_norm: "HighNorm | None"


def measure(reading: "LayerInput") -> "dict[str, Tensor]":
    """Every statistic of the table for one layer, each (heads,) on the CPU."""
    return measure_all([reading])[0]


def measure_all(readings: "Sequence[LayerInput]") -> "list[dict[str, Tensor]]":
    """Every statistic of the table for several layers; a device is waited for once."""
    from attnviz.attention.sweep_together import sweep_together, to_host  # noqa: PLC0415

    sweep_together(readings)
    names = tuple(STATISTICS)
    found = to_host([STATISTICS[name].measure(each) for each in readings for name in names])
    rows = range(0, len(found), len(names))
    return [dict(zip(names, found[row : row + len(names)], strict=True)) for row in rows]


def more(reading: "LayerInput") -> More:
    """Every entry of `MORE` and of `LAYER` for one layer."""
    return More(
        numbers={name: entry.measure(reading) for name, entry in MORE.items()},
        **{name: entry(reading) for name, entry in LAYER.items()},
    )
