"""Which objects a query names."""

import pytest

from attnviz.errors import UsageError
from attnviz.geometry import queries
from attnviz.geometry.detections import DetectedObject, found_objects
from attnviz.geometry.grid import Box

FOUND = [
    DetectedObject(number, label, score, Box(0, 0, 8, 8))
    for number, (label, score) in enumerate(
        [("cat", 0.9), ("dog", 0.3), ("Cat", 0.7), ("cat", 0.95), ("mug", 0.5)]
    )
]


def numbers(**asked: object) -> list[int]:
    threshold = asked.pop("threshold", 0.5)
    found = found_objects(FOUND, threshold, asked="objects", **asked)  # type: ignore[arg-type]
    return [one.index for one in found]


def test_objects_come_with_the_highest_score_first() -> None:
    assert numbers() == [3, 0, 2]  # a score at the threshold is not over it
    assert numbers(threshold=0.0) == [3, 0, 2, 4, 1]
    assert numbers(label="cat") == [3, 0]
    assert numbers(label="Cat") == [2]
    assert numbers(label="CAT") == [3, 0, 2]
    assert numbers(number=1) == [1]  # whatever it scores


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (
            {"label": "fox"},
            r"over 0\.5 has this label; there are cat \(2\), Cat; give one of these",
        ),
        ({"label": "dog"}, r"object:1 is dog 0\.30: take --threshold 0\.29"),
        ({"number": 5}, "5 object queries, object:0 to object:4"),
        ({"threshold": 0.96}, r"no object .* over 0\.96; the best is object:3, cat 0\.95: take"),
        ({"threshold": 0.96, "label": "fox"}, r"label; the best is object:3, cat 0\.95"),
    ],
)
def test_what_is_not_found_is_told(asked: dict[str, object], line: str) -> None:
    with pytest.raises(UsageError, match=line):
        numbers(**asked)
    with pytest.raises(UsageError, match="this model predicts no objects"):
        found_objects([], 0.5, asked="objects")


@pytest.mark.parametrize("text", ["objects", "object:3", "object:cat", "object:potted plant"])
def test_queries_are_written_as_they_are_typed(text: str) -> None:
    assert str(queries.parse(text)) == text
