"""Estimates how large a page becomes, and suggests what would fit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnviz.errors import OutputError
from attnviz.explanation.observation import Observation
from attnviz.page.page_layers import Packed
from attnviz.page.page_weights import byte_count

_REST = 1_000_000
"""Bytes for everything outside the blocks: photograph, script, descriptions."""


@dataclass(frozen=True)
class Size:
    """The size of a page of some heads of some layers.

    Attributes:
        observation: the observation that the page shows.
        heads: the heads of the page, by layer.
        limit: the largest size of a page in bytes.
    """

    observation: Observation
    heads: Mapping[int, tuple[int, ...]]
    limit: int

    def check(self, packed: Sequence[Packed] = ()) -> None:
        """Check that the page can stay within its limit, given the parts that are packed already.

        The other layers count with half of their size before compression, so that no page is
        refused that would fit. Packed layers count with their real size.

        Raises:
            OutputError: the page would be too large.
        """
        size_so_far = sum(len(each.block.text) for each in packed)
        layers = list(self.heads)[len(packed) :]
        rest = sum(self._expected(number) for number in layers)
        if size_so_far + rest / 2 + (0 if layers else _REST) > self.limit:
            raise OutputError(self._advice(size_so_far + rest))

    def check_whole(self, size: int) -> None:
        """Check that the finished page is small enough.

        Raises:
            OutputError: the page is too large.
        """
        if size > self.limit:
            raise OutputError(self._advice(size))

    def _expected(self, number: int) -> float:
        """The size of a layer in base64 without compression, in bytes."""
        call = self.observation.layers[number].call
        return byte_count(call, len(self.heads[number])) * 4 / 3

    def _advice(self, total: float) -> str:
        """An error line that names the estimated size, and options with which the page fits."""
        share = (self.limit - _REST) / total
        chosen, most = list(self.heads), max(len(each) for each in self.heads.values())
        layers, heads = math.floor(len(chosen) * share), math.floor(most * share)
        size = math.floor(self.observation.model.size * math.sqrt(share))
        advice = [f"--size {size} or smaller"]
        if heads:
            advice.insert(0, f"--heads {heads}")
        if layers:
            few = f"{chosen[-layers]}-{chosen[-1]}" if layers > 1 else f"{chosen[-1]}"
            advice.insert(0, f"--layers {few}")
        *others, last = advice
        take = f"{', '.join(others)} or {last}" if others else last
        return (
            f"the page would have about {total / 1e6:.0f} MB, over the limit of "
            f"{self.limit / 1e6:.0f} MB; take {take}"
        )
