"""Targets as they are typed."""

import subprocess
import sys

import pytest

from attnviz.errors import UsageError
from attnviz.geometry.queries import Query
from attnviz.models.targets import Target, of_text, parse

TYPED = {
    "auto": Target("auto"),
    "243": Target("class", index=243),
    "0": Target("class", index=0),
    "tabby": Target("class", label="tabby"),
    "Egyptian cat": Target("class", label="Egyptian cat"),
    "tabby, tabby cat": Target("class", label="tabby, tabby cat"),
    "7up": Target("class", label="7up"),
    "norm": Target("norm"),
    "normal": Target("class", label="normal"),
    "norm:cls": Target("norm", query=Query("cls")),
    "norm:mean": Target("norm", query=Query("mean")),
    "norm:auto": Target("norm", query=Query("auto")),
    "norm:120,80": Target("norm", query=Query("point", (120.0, 80.0))),
    "norm:1,2,30,40": Target("norm", query=Query("box", (1.0, 2.0, 30.0, 40.0))),
    "pixel:120,80": Target("region", query=Query("point", (120.0, 80.0))),
    "pixel:1,2,30,40": Target("region", query=Query("box", (1.0, 2.0, 30.0, 40.0))),
    "class:road": Target("region", label="road"),
    "class:3@120,80": Target("region", index=3, query=Query("point", (120.0, 80.0))),
    "class:blue mug@a@2.png": Target(
        "region", label="blue mug", query=Query("mask", path="a@2.png")
    ),
    "object:3": Target("object", query=Query("object", (3.0,))),
    "object:cat": Target("object", query=Query("object", name="cat")),
    "norm:masks/cat.png": Target("norm", query=Query("mask", path="masks/cat.png")),
}


@pytest.mark.parametrize("text", TYPED)
def test_a_target_is_read_and_written_as_it_is_typed(text: str) -> None:
    assert parse(text) == TYPED[text]
    assert str(parse(text)) == text
    assert parse(f" {text} ") == TYPED[text]


def test_a_resolved_class_is_written_by_its_number() -> None:
    assert str(Target("class", index=281, label="tabby, tabby cat")) == "281"


def test_a_text_is_taken_as_it_stands() -> None:
    assert of_text(" norm ") == Target("text", text="norm")
    assert str(of_text("a tabby cat")) == "a tabby cat"
    with pytest.raises(UsageError, match="--text is empty; give"):
        of_text("  ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "--target '' is no class"),
        ("-1", "--target '-1' is no class, which count from 0; give auto, a class"),
        ("2.5", "--target '2.5' is no class"),
        ("9" * 40, "is no class"),
        ("pixel:", "--target pixel:: give class:NAME@PLACE or pixel:PLACE"),
        ("class:@1,2", "give class:NAME@PLACE or pixel:PLACE, PLACE is X,Y, X0"),
        ("class:road@", "give class:NAME@PLACE"),
        ("class:road@here", "--target class:…@'here' cannot be read"),
        ("pixel:mean", "mean is no place of the picture; give X,Y, X0,Y0,X1,Y1"),
        ("pixel:1,2@3", "1,2@3 is no place of the picture"),
        ("object:", "--target 'object:' names nothing; give object:3 or object:cat"),
        ("norm:", "--target norm:'' cannot be read; give auto, cls"),
        ("norm:here", "--target norm:'here' cannot be read"),
        ("norm:1,2,3", "--target norm:'1,2,3' has 3 numbers"),
        ("norm:9,9,1,1", "--target norm:'9,9,1,1' is an empty box"),
        ("norm:pool", "give norm or norm:mean"),
    ],
)
def test_what_cannot_be_meant_is_told(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "head"),
    [("auto", "any"), ("3", "class"), ("tabby", "class"), ("norm", "none"), ("norm:cls", "none")],
)
def test_a_target_says_which_head_it_needs(target: str, head: str) -> None:
    assert parse(target).head == head
    assert of_text("a cat").head == "text"


def test_reading_a_target_imports_nothing_heavy() -> None:
    script = (
        "from attnviz.models import targets; targets.parse('norm:1,2'); import sys\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) & {"torch", "numpy", "PIL", "transformers"} == set()
