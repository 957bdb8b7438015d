"""Parses targets: the text by which a user names the score that gradients are taken of.

It also reads class names, and finds the class that a name means. This file has no heavy imports, so
that a usage error shows at once. `models/scoring.py` computes the score of a target.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from attnviz.errors import UsageError
from attnviz.geometry import queries
from attnviz.geometry.queries import Query

Kind = Literal["auto", "class", "norm", "text", "word", "object", "region", "rest"]
Head = Literal["none", "class", "any", "text", "words", "dense"]
"""The head of a checkpoint that `load_model` is to load."""
_HEADS: dict[Kind, Head] = {
    "auto": "any", "class": "class", "norm": "none", "text": "text", "word": "words",
    "object": "dense", "region": "dense", "rest": "class",
}  # fmt: skip
_EXPECTED = "auto, a class by its number or label, norm or norm:QUERY"
_PLACES = "X,Y, X0,Y0,X1,Y1 in pixels of the picture, or a mask picture"


@dataclass(frozen=True)
class Target:
    """A target, as the user gave it or resolved for a model.

    Attributes:
        kind: `auto` is the predicted class, or the norm if there are no classes; `class` is the
            logit of a class; `norm` is the norm of the output; `text` is the cosine to the
            embedding of a text; `word` is the sum of the logits of a word's tokens; `object` the
            logit of an object's label; `region` the mean score of a class over a part of the
            picture, of models that have a score of each place; `rest`, the mean score of all other
            classes, is only `against`.
        index, label: for a class, or that of a region, the one that the user gave; after `resolve`
            both, if the class has a label. A region without class is of the one that scores most
            there, or of a depth.
        query: for a norm, the tokens of the output; None for the model's own pooling. For a
            word or an object, this word or object. For a region its place; None is all of the
            picture.
        text: the text that the picture is compared with.
        against: targets whose mean score is subtracted from this one's.
    """

    kind: Kind
    index: int | None = None
    label: str | None = None
    query: Query | None = None
    text: str | None = None
    against: tuple[Target, ...] = ()

    def __str__(self) -> str:
        """The target as it is typed: a text after `--text`, any other after `--target`."""
        if self.against:
            others = (f" --against {other}" for other in self.against)
            return f"{replace(self, against=())}{''.join(others)}"
        if self.kind == "text":
            return str(self.text)
        if self.kind == "class":
            return str(self.label if self.index is None else self.index)
        if self.kind in ("word", "object"):
            return str(self.query)
        if self.kind == "region":
            named = self.label if self.index is None else self.index
            place = "" if self.query is None else f"@{self.query}"
            return f"pixel:{self.query}" if named is None else f"class:{named}{place}"
        return self.kind if self.query is None else f"{self.kind}:{self.query}"

    @property
    def head(self) -> Head:
        """The head that a checkpoint must be loaded with: `load_model(…, head=target.head)`."""
        return "class" if self.kind == "auto" and self.against else _HEADS[self.kind]

    @property
    def option(self) -> str:
        """The option that gives the target."""
        given_alone = self.kind == "auto" and self.against
        return "--text" if self.kind == "text" else "--against" if given_alone else "--target"


def parse(text: str) -> Target:
    """Parse a target: `auto`, `norm`, `norm:QUERY`, or a class by its number or label.

    Of a part of a picture it is `class:NAME@PLACE` or `pixel:PLACE`, of an object `object:N`.

    >>> parse("243")
    Target(kind='class', index=243, label=None, query=None, text=None, against=())

    Raises:
        UsageError: the text is empty or a negative number, the query is not valid for a norm, or
            the place for a region.
    """
    text = text.strip()
    if text in ("auto", "norm"):
        return Target(text)  # type: ignore[arg-type]  # narrowed by the line above
    if text.startswith("norm:"):
        return _norm(text.removeprefix("norm:").strip())
    if text.startswith(("pixel:", "class:")):
        return _region(text)
    if text.startswith("object:"):
        return Target("object", query=queries.parse(text, option="--target "))
    if re.fullmatch(r"[0-9]{1,9}", text):
        return Target("class", index=int(text))
    if not text or re.fullmatch(r"[-+]?[0-9.]+", text):
        raise UsageError(f"--target {text!r} is no class, which count from 0; give {_EXPECTED}")
    return Target("class", label=text)


def of_text(text: str) -> Target:
    """A target for a text that the picture is compared with.

    >>> of_text("a tabby cat").text
    'a tabby cat'

    Raises:
        UsageError: the text is empty.
    """
    if not text.strip():
        raise UsageError("--text is empty; give what the picture may show, such as 'a tabby cat'")
    return Target("text", text=text.strip())


def contrasts(found: Sequence[Target], against: Sequence[str]) -> tuple[Target, ...]:
    """Targets whose scores are differences to others: `--against`, of every target.

    >>> [str(each) for each in contrasts([parse("cat")], ["dog", "fox"])]
    ['cat --against dog --against fox']

    Args:
        found: the targets; without any it is the predicted class.
        against: classes, or texts if the targets are texts; or `rest`, all other classes or, among
            texts, all other targets.

    Raises:
        UsageError: there is nothing to subtract, or a target cannot be compared with another.
    """
    if not against:
        return tuple(found)
    rest = "rest" in against
    if rest and len(against) > 1:
        raise UsageError("--against rest is all others; give it alone, or leave it out")
    results = []
    for target in found or (Target("auto"),):
        if target.kind == "norm":
            raise UsageError(
                f"--against {against[0]}: the target is a norm, which has no like; give "
                "--target CLASS or --text"
            )
        if target.kind == "text":
            others = tuple(found) if rest else tuple(map(of_text, against))
        else:
            others = tuple(Target("rest") if rest else _other(each) for each in against)
        others = tuple(dict.fromkeys(other for other in others if other != target))
        if not others:
            advice = "another --text" if target.kind == "text" else "another class, or rest"
            raise UsageError(f"--against {against[0]}: nothing is left to compare; give {advice}")
        results.append(replace(target, against=others))
    return tuple(results)


def _other(text: str) -> Target:
    """A class that another is compared with."""
    other = parse(text)
    if other.kind != "class":
        raise UsageError(f"--against {text}: give a class by its number or label, or rest")
    return other


def _norm(text: str) -> Target:
    query = queries.parse(text, option="--target norm:")
    if query.in_sound:
        raise UsageError(f"--target norm:{query}: give the place in pixels of the picture: X,Y")
    if query.kind == "pool":
        raise UsageError(
            "--target norm:pool: an attention pool asks and is no token of the output; give norm "
            "or norm:mean"
        )
    return Target("norm", query=query)


def _region(text: str) -> Target:
    """The score of a class over a part of the picture: `class:NAME@PLACE`, `pixel:PLACE`."""
    kind, _, rest = text.partition(":")
    name, at, place = rest.partition("@") if kind == "class" else ("", "@", rest)
    name, place = name.strip(), place.strip()
    if (kind == "class" and not name) or (at and not place):
        raise UsageError(
            f"--target {text}: give class:NAME@PLACE or pixel:PLACE, PLACE is {_PLACES}"
        )
    query = (
        queries.parse(place, option=f"--target {kind}:…@" if name else "--target pixel:")
        if at
        else None
    )
    if query is not None and (
        query.kind not in ("point", "box", "mask") or query.time or query.in_sound
    ):
        raise UsageError(f"--target {text}: {place} is no place of the picture; give {_PLACES}")
    if name.isdecimal():
        return Target("region", index=int(name), query=query)
    return Target("region", label=name or None, query=query)


FEW = 25
"""Up to so many labels, an error lists all of them; of more, it lists the nearest."""
_PLACEHOLDER = re.compile(r"LABEL_\d+")


def labels_of(value: Any, count: int | None = None) -> tuple[str, ...] | None:
    """Labels in the order of their classes; None if there are none, or not one for each class.

    >>> labels_of({1: "dog", 0: "cat"})
    ('cat', 'dog')

    Args:
        value: names in order, or numbers to names; transformers' filler `LABEL_3` is not a name.
        count: number of classes, if known.
    """
    if isinstance(value, dict):
        try:
            numbered = {int(number): name for number, name in value.items()}
        except (TypeError, ValueError):
            return None
        value = [numbered.get(number) for number in range(len(numbered))]
    if not isinstance(value, list | tuple) or not value or (count not in (None, len(value))):
        return None
    names = [name for name in value if isinstance(name, str)]
    if len(names) != len(value) or all(_PLACEHOLDER.fullmatch(name) for name in names):
        return None
    return tuple(names)


def find_label(labels: Sequence[str], name: str) -> int:
    """The class of a label, or of a comma-separated synonym; exact case first, then any.

    >>> find_label(["tench, Tinca tinca", "goldfish"], "tinca tinca")
    0

    Raises:
        UsageError: no class has this name, or several have.
    """
    names = [{label, *map(str.strip, label.split(","))} for label in labels]
    found = [number for number, of_class in enumerate(names) if name in of_class]
    if not found:  # "cardigan" is clothing, "Cardigan" is a dog
        lower = [{name.lower() for name in of_class} for of_class in names]
        found = [number for number, of_class in enumerate(lower) if name.lower() in of_class]
    if len(found) > 1:
        several = ", ".join(f"{number} ({labels[number]})" for number in found)
        raise UsageError(f"--target {name!r} is the name of {several}; give the number of one")
    if not found:
        raise UsageError(f"--target {name!r} is no label of this model; {_advice(labels, name)}")
    return found[0]


def _advice(labels: Sequence[str], name: str) -> str:
    """All labels if they are few; else those that contain the word or resemble it."""
    if len(labels) <= FEW:
        return f"give one of {', '.join(labels)}"
    names = list(dict.fromkeys(name.strip() for label in labels for name in label.split(",")))
    word = re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE)
    close = difflib.get_close_matches(name.lower(), [name.lower() for name in names], n=3)
    near = [name for name in names if word.search(name)][:3]
    near += [name for name in names if name.lower() in close and name not in near]
    number = f"a number from 0 to {len(labels) - 1}"
    return f"did you mean {' or '.join(near[:3])}? or give {number}" if near else f"give {number}"
