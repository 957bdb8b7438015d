"""What the sides of a comparison are called: by what tells each from the others."""

from collections.abc import Sequence

from attnviz.comparison.comparison_record import SideInfo
from attnviz.comparison.sides import ComparisonSide
from attnviz.methods import METHODS


def names(sides: Sequence[ComparisonSide]) -> list[str]:
    """A name for each side: those of its parts in which not all are alike.

    Two layers of one model are `layer 0` and `layer 5`; a model and its control are `pretrained`
    and `random weights`.
    """
    return [_joined(of_side) for of_side, _ in _split(sides)]


def shared(sides: Sequence[ComparisonSide]) -> str:
    """The parts in which all sides are alike."""
    return _joined(_split(sides)[0][1])


def _split(sides: Sequence[ComparisonSide]) -> list[tuple[list[str], list[str]]]:
    """Of each side the parts in which sides differ, and those in which they do not."""
    models = len({side.said.model.spec for side in sides}) > 1
    parts = [_parts(side, models=models) for side in sides]
    differ = [len(set(kind)) > 1 for kind in zip(*parts, strict=True)]
    return [
        (
            [part for part, differs in zip(own, differ, strict=True) if differs],
            [part for part, differs in zip(own, differ, strict=True) if not differs],
        )
        for own in parts
    ]


def _parts(side: ComparisonSide, *, models: bool) -> tuple[str, ...]:
    """All that a side is, in words; `models` says whether there are several."""
    said = side.said
    return (
        said.model.spec,
        _weights(said, models=models),
        said.method,
        _layers(side),
        f"head {said.head}" if isinstance(said.head, int) else "",
        f"from {'all tokens' if side.query.kind == 'all' else side.query}",
        "" if side.target is None else f"for {side.target}",
    )


def _weights(said: SideInfo, *, models: bool) -> str:
    """Where a model has its weights from; what its name says already need not be said."""
    spec, weights = said.model.spec, said.model.weights
    if models and (weights == "pretrained" or weights == spec == "random"):
        return ""
    return "random weights" if weights == "random" else weights


def _layers(side: ComparisonSide) -> str:
    last, start = side.said.layer, (side.said.options or {}).get("start_layer", 0)
    if METHODS[side.said.method].merges == "layers" and last > start:
        return f"layers {start} to {last}"
    return f"layer {last}"


def heads(side: ComparisonSide) -> str:
    """Of which heads a map is, in words."""
    said = side.said
    if said.head == "mean":
        return f"mean of {len(said.heads or ())} heads"
    return "merged heads" if said.head is None else f"head {said.head}"


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(part for part in parts if part)
