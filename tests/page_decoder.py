"""A reader of pages of `attnviz explore`, from docs/explore.md alone: no code of the product."""

import base64
import gzip
import json
import re
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {"u8": "<u1", "i16": "<i2", "i32": "<i4", "f32": "<f4"}
Array = NDArray[Any]
Entry = dict[str, Any]


class Decoded:
    """What a page holds."""

    def __init__(self, html: str) -> None:
        self._texts = {
            found[1]: text
            for attributes, text in re.findall(r"<script([^>]*)>([^<]*)</script>", html)
            if (found := re.search(r'id="([^"]+)"', attributes))
        }
        about = self._texts["about"]
        self.about: Entry = json.loads(about)
        self._bytes: dict[str, bytes] = {}

    @cached_property
    def layers(self) -> dict[int, Entry]:
        return {layer["layer"]: layer for layer in self.about["layers"]}

    @cached_property
    def rollouts(self) -> dict[int, Entry]:
        return {end["layer"]: end for end in self.about["rollout"]["ends"]}

    def part(self, entry: Entry, name: str) -> Array:
        block = entry["block"]
        if block not in self._bytes:
            self._bytes[block] = gzip.decompress(base64.b64decode(self._texts[block]))
        found = entry["parts"][name]
        count = int(np.prod(found["shape"]))
        flat = np.frombuffer(self._bytes[block], TYPES[found["type"]], count, found["offset"])
        return flat.reshape(found["shape"])

    def optional(self, entry: Entry, name: str | None) -> Array | None:
        return None if name is None else self.part(entry, name)

    def cells(self, entry: Entry, role: str) -> Array:
        """Of every token, (windows, tokens)."""
        side = entry[role]
        found = self.optional(entry, side["cells"])
        if found is not None:
            return found
        cells = [*[-1] * len(side["prefix"]), *range(side["rows"] * side["columns"])]
        return np.array([cells])

    def taking_part(self, entry: Entry, role: str) -> Array:
        side = entry[role]
        found = self.optional(entry, side["taking_part"])
        shape = side["windows"], side["tokens"]
        return np.ones(shape, dtype=bool) if found is None else found.astype(bool)

    def drawn(self, entry: Entry, role: str) -> Array:
        side = entry[role]
        found = self.optional(entry, side["drawn"])
        shape = side["rows"], side["columns"]
        return np.ones(shape, dtype=bool) if found is None else found.astype(bool)

    def row(self, entry: Entry, window: int, head: int, query: int) -> Array:
        """Weights of a query over the keys of its window; `head` counts those of the page."""
        if entry["encoding"] == "weights8":
            values = self.part(entry, "weights")[window, head, query] / 255
            values = values * float(self.part(entry, "maximum")[window, head, query])
            prefix = []
            if entry["keys"]["prefix"]:
                prefix = self.part(entry, "prefix")[window, head, query].tolist()
            return np.concatenate([prefix, values])
        unit = self.part(entry, "unit")[window, head] if "unit" in entry["parts"] else 1.0
        q = self.part(entry, "query")[window, head, query].astype(float) * unit
        scores = self.part(entry, "key")[window, head].astype(float) @ q
        scores[~self.taking_part(entry, "keys")[window]] = -np.inf
        power = np.exp(scores - scores.max())
        return np.asarray(power / power.sum())

    def rolled(self, end: Entry, query: int) -> Array:
        """Rollout of a query over all keys."""
        values = self.part(end, "weights")[query] / 255 * float(self.part(end, "maximum")[query])
        prefix = self.part(end, "prefix")[query].tolist() if end["keys"]["prefix"] else []
        row = np.concatenate([prefix, values])
        if "own" in end["parts"]:
            row[query] = self.part(end, "own")[query]
        return row

    def on_cells(self, entry: Entry, values: Array) -> Array:
        """Values of all key tokens, (windows, tokens), as a map."""
        side, cells = entry["keys"], self.cells(entry, "keys")
        if "cover" in side:
            names = (f"{side['cover']}_{part}" for part in ("tokens", "cells", "shares"))
            token, cell, share = (self.part(entry, name) for name in names)
            flat = np.bincount(
                cell, values.ravel()[token] * share, minlength=side["rows"] * side["columns"]
            )
            return flat.reshape(side["rows"], side["columns"])
        flat = np.bincount(
            cells[cells >= 0], values[cells >= 0], minlength=side["rows"] * side["columns"]
        )
        return flat.reshape(side["rows"], side["columns"])
