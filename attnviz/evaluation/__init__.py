"""Whether a map is any good, as numbers: `METRICS` is the table.

Free of heavy imports, so that `--help` and a slip of the pen are answered at once.
"""

from dataclasses import dataclass

from attnviz.errors import UsageError, did_you_mean

MASKS, PERTURBATION = GROUPS = ("masks", "perturbation")
RANDOM, GAUSSIAN, SALIENCY = BASELINES = ("random weights", "gaussian", "saliency")
MEAN, BEST = "mean", "best"
"""What stands in the place of a head: the mean map of the heads, the best head for each object."""


@dataclass(frozen=True)
class Metric:
    """One number of a map.

    Attributes:
        group: what it needs: masks, or a class head.
        higher: whether more is better.
        full: what the best possible map has, for scales.
        short: its heading in a table.
        summary: what it is, in a line.
        reference: where it comes from.
    """

    group: str
    higher: bool
    full: float
    short: str
    summary: str
    reference: str


METRICS: dict[str, Metric] = {
    "pointing": Metric(
        MASKS, True, 1, "pointing",
        "whether the heaviest token is an object's", "Zhang et al. 2016, arXiv 1608.00507",
    ),
    "jaccard60": Metric(
        MASKS, True, 1, "jaccard60",
        "Jaccard index of an object and the smallest set of tokens with 60 % of the mass",
        "Caron et al. 2021, arXiv 2104.14294",
    ),
    "jaccard_area": Metric(
        MASKS, True, 1, "jac. area",
        "Jaccard index of all objects and as many of the heaviest tokens", "Jaccard 1912",
    ),
    "auc": Metric(
        MASKS, True, 1, "auc",
        "chance that a token of an object outweighs one of the background",
        "Mann & Whitney 1947; Hanley & McNeil 1982",
    ),
    "deletion": Metric(
        PERTURBATION, False, 1, "deletion",
        "area under the class probability while the heaviest pixels are deleted",
        "Petsiuk et al. 2018, arXiv 1806.07421",
    ),
    "insertion": Metric(
        PERTURBATION, True, 1, "insertion",
        "area under the class probability while the heaviest pixels replace blurred ones",
        "Petsiuk et al. 2018, arXiv 1806.07421",
    ),
    "positive": Metric(
        PERTURBATION, False, 90, "positive",
        "area under the accuracy while 0 to 90 % of the pixels go, heaviest first",
        "Chefer et al. 2021, arXiv 2012.09838",
    ),
    "negative": Metric(
        PERTURBATION, True, 90, "negative",
        "area under the accuracy while 0 to 90 % of the pixels go, lightest first",
        "Chefer et al. 2021, arXiv 2012.09838",
    ),
    "road": Metric(
        PERTURBATION, True, 0.5, "road",
        "half the probability that imputing the heaviest pixels costs beyond the lightest",
        "Rong et al. 2022, arXiv 2202.00449",
    ),
}  # fmt: skip


def parse_groups(text: str | None, *, masks: bool) -> tuple[str, ...]:
    """`--metrics` → groups of metrics; None takes what `masks` being there or not allows.

    >>> parse_groups(None, masks=True)
    ('masks',)

    Raises:
        UsageError: no such group, or one that needs masks without them, or masks for no group.
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
    """Names of the metrics of some groups, in the order of the table."""
    return tuple(name for name, metric in METRICS.items() if metric.group in groups)
