"""Notes for the user on how a picture was read."""

from dataclasses import dataclass

KINDS = {
    "narrow": "their values use a small part of the range; add --range LO:HI or --range percentile",
    "own": "their type says no range: each is drawn from its smallest value to its largest; add "
    "--range LO:HI to draw all alike",
    "missing": "they have values that are no numbers, which are drawn black",
    "bands": "they have more bands than are drawn",
    "frames": "they have more pages or frames than the first, which is drawn",
    "bits": "only 8 bits of their samples are read",
}
"""Kinds of notes, each with a sentence for many pictures that have such a note."""


@dataclass(frozen=True)
class Note:
    """A sentence about one picture, without its name; `kind` is one of `KINDS`."""

    kind: str
    text: str

    def __str__(self) -> str:
        return self.text
