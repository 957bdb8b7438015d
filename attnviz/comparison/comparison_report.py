"""From a comparison to its record."""

from collections.abc import Mapping, Sequence

from attnviz.comparison.compare import Comparison
from attnviz.comparison.comparison_record import ComparisonRecord, PairInfo
from attnviz.comparison.side_names import names
from attnviz.pipeline.report import image_info


def make_record(
    comparison: Comparison,
    *,
    files: Sequence[str] | None = None,
    differences: Mapping[int, str] | None = None,
) -> ComparisonRecord:
    """All that is said about one picture.

    Args:
        comparison: what `compare` gave.
        files: the file that each side was drawn to.
        differences: the file that the difference of a side from the first was drawn to.
    """
    picture, sides = comparison.picture, comparison.sides
    drawn: Sequence[str | None] = files or [None] * len(sides)
    return ComparisonRecord(
        image=image_info(picture),
        sides=[
            side.said.model_copy(update={"name": name, "file": file})
            for side, name, file in zip(sides, names(sides), drawn, strict=True)
        ],
        pairs=[
            PairInfo(
                first=first,
                second=second,
                **numbers,
                cells=int(comparison.common(first, second).sum()),
                file=(differences or {}).get(second) if first == 0 else None,
            )
            for (first, second), numbers in comparison.pairs.items()
        ],
    )
