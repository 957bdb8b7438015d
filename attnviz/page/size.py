"""How large a page becomes, and what would fit: asked before it is made, and while it is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnviz.errors import OutputError
from attnviz.explanation.observation import Observation
from attnviz.page.page_layers import Packed
from attnviz.page.page_weights import byte_count

_REST = 1_000_000
"""Bytes for all that is not a block: photograph, script, descriptions."""


@dataclass(frozen=True)
class Size:
    """Of a page of some heads of some layers.

    Attributes:
        observation: whose page.
        heads: of each layer, those that the page has.
        limit: bytes of the largest page.
    """

    observation: Observation
    heads: Mapping[int, tuple[int, ...]]
    limit: int

    def check(self, packed: Sequence[Packed] = ()) -> None:
        """Whether the page can become no larger than its limit, with what is packed already.

        What is to come is taken for half of what it is before compression, so that nothing is
        refused that would fit; a layer that is packed tells of itself.

        Raises:
            OutputError: it cannot.
        """
        size_so_far = sum(len(each.block.text) for each in packed)
        layers = list(self.heads)[len(packed) :]
        rest = sum(self._expected(number) for number in layers)
        if size_so_far + rest / 2 + (0 if layers else _REST) > self.limit:
            raise OutputError(self._advice(size_so_far + rest))

    def check_whole(self, size: int) -> None:
        """Whether the finished page is small enough.

        Raises:
            OutputError: not.
        """
        if size > self.limit:
            raise OutputError(self._advice(size))

    def _expected(self, number: int) -> float:
        """Bytes of a layer in base64, if nothing could be compressed."""
        call = self.observation.layers[number].call
        return byte_count(call, len(self.heads[number])) * 4 / 3

    def _advice(self, total: float) -> str:
        """What would fit, by what this would take."""
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
