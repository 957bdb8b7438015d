"""Measures how good maps are; `METRICS` is the table of the metrics.

This module has no heavy imports, so that `--help` and usage errors are answered at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attnviz.errors import UsageError, did_you_mean
from attnviz.registry import Option, Table, TableEntry, complete

MASKS, PERTURBATION, SENSITIVITY, RANDOMISATION = GROUPS = (
    "masks", "perturbation", "sensitivity", "randomisation",
)  # fmt: skip
RANDOM, GAUSSIAN, SALIENCY = BASELINES = ("random weights", "gaussian", "saliency")
MEAN, BEST, LOCALIZED, ORACLE = "mean", "best", "localized", "oracle"
"""Values in place of a head's number: the mean map of the heads, the best head of each object, the
mean of the most localized heads, and the best head of each picture, which only its mask can tell.
"""


@dataclass(frozen=True)
class Metric(TableEntry):
    """One number of a map.

    A metric of the group `masks` is a function of two arrays: the weights of the drawn tokens,
    (tokens,), and which of these tokens belong to any object, (tokens,). With `per_object` the
    second array says which tokens belong to each object, (objects, tokens); the function returns a
    number for each object, (objects,), and the result is their mean. A metric of the group
    `perturbation` is a function of `PerturbationCurves`. One of the groups `sensitivity` and
    `randomisation` is a function of three arrays: a map (rows, columns), the maps of noisy
    pictures or of redrawn models (runs, rows, columns), and which cells are drawn.

    Attributes:
        group: what the metric needs: `masks`, `perturbation` for a class head, or runs of the model
            on noisy pictures (`sensitivity`) or with redrawn weights (`randomisation`).
        higher: whether a larger number is better.
        full: the number of the best possible map, for scales.
        short: its heading in a table; by default its name.
        per_object: whether it has a number for each object; then there is also a best head.
        options: options of the runs that its group needs.
    """

    group: str = MASKS
    higher: bool = True
    full: float = 1
    short: str = ""
    per_object: bool = False
    options: tuple[Option, ...] = ()

    @property
    def declared_options(self) -> tuple[Option, ...]:
        """Options of the runs that its group needs."""
        return self.options

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"group {self.group!r}: give one of {', '.join(GROUPS)}")


DRAWS = Option(
    "draws", int, 10, "Noisy pictures of --metrics sensitivity.", minimum=1, maximum=1000,
    metavar="N",
)  # fmt: skip
RADIUS = Option(
    "radius", float, 0.02, "Bound of their noise, for pixel values of 0 to 1.",
    minimum=1e-6, maximum=1.0,
)  # fmt: skip
CASCADE_STEPS = Option(
    "cascade_steps", int, None,
    "Parts of the model that --metrics randomisation redraws, from the head down.  "
    "[default: all]",
    minimum=1, metavar="N",
)  # fmt: skip
_METRICS: dict[str, Metric] = {
    "pointing": Metric(
        "attnviz.evaluation.objects:pointing",
        "whether the heaviest token is an object's",
        "Zhang et al. 2016, arXiv 1608.00507",
    ),
    "jaccard60": Metric(
        "attnviz.evaluation.objects:jaccard60",
        "Jaccard index of an object and the smallest set of tokens with 60 % of the mass",
        "Caron et al. 2021, arXiv 2104.14294",
        per_object=True,
    ),
    "jaccard_area": Metric(
        "attnviz.evaluation.objects:jaccard_area",
        "Jaccard index of all objects and as many of the heaviest tokens",
        "Jaccard 1912",
        short="jac. area",
    ),
    "auc": Metric(
        "attnviz.evaluation.objects:auc",
        "chance that a token of an object outweighs one of the background",
        "Mann & Whitney 1947; Hanley & McNeil 1982",
    ),
    "deletion": Metric(
        "attnviz.evaluation.perturbation:deletion",
        "area under the class probability while the heaviest pixels are deleted",
        "Petsiuk et al. 2018, arXiv 1806.07421",
        group=PERTURBATION,
        higher=False,
    ),
    "insertion": Metric(
        "attnviz.evaluation.perturbation:insertion",
        "area under the class probability while the heaviest pixels replace blurred ones",
        "Petsiuk et al. 2018, arXiv 1806.07421",
        group=PERTURBATION,
    ),
    "positive": Metric(
        "attnviz.evaluation.perturbation:positive",
        "area under the accuracy while 0 to 90 % of the pixels go, heaviest first",
        "Chefer et al. 2021, arXiv 2012.09838",
        group=PERTURBATION,
        higher=False,
        full=90,
    ),
    "negative": Metric(
        "attnviz.evaluation.perturbation:negative",
        "area under the accuracy while 0 to 90 % of the pixels go, lightest first",
        "Chefer et al. 2021, arXiv 2012.09838",
        group=PERTURBATION,
        full=90,
    ),
    "road": Metric(
        "attnviz.evaluation.perturbation:road",
        "half the probability that imputing the heaviest pixels costs beyond the lightest",
        "Rong et al. 2022, arXiv 2202.00449",
        group=PERTURBATION,
        full=0.5,
    ),
    "saco": Metric(
        "attnviz.evaluation.perturbation:saco",
        "agreement of weights with what tenths of the pixels cost alone, −1 to 1",
        "Wu et al. 2024, arXiv 2404.01415",
        group=PERTURBATION,
    ),
    "sensitivity_max": Metric(
        "attnviz.evaluation.robustness:sensitivity_max",
        "the largest change of the map by small noise, as a share of the map",
        "Yeh et al. 2019, arXiv 1901.09392",
        group=SENSITIVITY,
        higher=False,
        short="max",
        options=(DRAWS, RADIUS),
    ),
    "sensitivity_avg": Metric(
        "attnviz.evaluation.robustness:sensitivity_avg",
        "the mean change of the map by small noise, as a share of the map",
        "Yeh et al. 2019, arXiv 1901.09392; Bhatt et al. 2020, arXiv 2005.00631",
        group=SENSITIVITY,
        higher=False,
        short="avg",
        options=(DRAWS, RADIUS),
    ),
    "cascade_rank": Metric(
        "attnviz.evaluation.robustness:cascade_rank",
        "rank correlation with the map while weights are redrawn from the head down, −1 to 1",
        "Adebayo et al. 2018, arXiv 1810.03292",
        group=RANDOMISATION,
        higher=False,
        short="rank",
        options=(CASCADE_STEPS,),
    ),
    "cascade_ssim": Metric(
        "attnviz.evaluation.robustness:cascade_ssim",
        "structural similarity with the map while weights are redrawn from the head down",
        "Adebayo et al. 2018, arXiv 1810.03292; Wang et al. 2004",
        group=RANDOMISATION,
        higher=False,
        short="ssim",
        options=(CASCADE_STEPS,),
    ),
}
METRICS = Table(
    "attnviz.metrics",
    Metric,
    _METRICS,
    reserved=("baseline", "method", "layer", "head"),
    identifiers=True,
)
"""Metrics by name; other packages add theirs with entry points of the group `attnviz.metrics`."""


def parse_groups(text: str | None, *, masks: bool) -> tuple[str, ...]:
    """Groups of metrics from `--metrics`; for None, `masks` (are masks given) decides.

    >>> parse_groups(None, masks=True)
    ('masks',)

    Raises:
        UsageError: no such group; a group needs masks, and none are given; masks are not needed.
    """
    if text is None:
        return (MASKS,) if masks else (PERTURBATION,)
    asked = [part.strip() for part in text.removesuffix(",").split(",")]
    unknown = next((name for name in asked if name not in GROUPS), None)
    if unknown is not None:
        hint = did_you_mean(unknown, GROUPS)
        choices = ", ".join(GROUPS)
        raise UsageError(
            f"--metrics: unknown group {unknown!r}{hint or f'; choose from {choices}'}"
        )
    if (MASKS in asked) != masks:
        raise UsageError(
            "--masks is given, and --metrics leaves masks out; leave out one of them"
            if masks
            else "--metrics masks compares maps with masks; say where they are with --masks FOLDER"
        )
    return tuple(name for name in GROUPS if name in asked)


def metrics_of(groups: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the metrics in the groups, in the order of the table."""
    return tuple(name for name, metric in METRICS.items() if metric.group in groups)


def settings_of(groups: tuple[str, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the metrics in the groups, with defaults for those that are not given.

    >>> settings_of(("sensitivity",), {"draws": 5})
    {'draws': 5, 'radius': 0.02}

    Raises:
        UsageError: an option belongs to a group that is not asked for, or has a wrong value.
    """
    entries = [metric for metric in METRICS.values() if metric.group in groups]
    known = {option.name: option for entry in entries for option in entry.declared_options}
    for name, value in given.items():
        if value is not None and name not in known:
            takers = (each for each in METRICS.values() if name in {o.name for o in each.options})
            group = next(takers).group
            raise UsageError(f"--{name.replace('_', '-')} is of --metrics {group}; add it")
        if value is not None:
            known[name].check(value)
    return complete(known.values(), given)
