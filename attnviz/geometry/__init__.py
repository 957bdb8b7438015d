"""Where tokens lie: grids, cells and placements, and queries in words. Knows numbers alone."""

from typing import TYPE_CHECKING

from attnviz.lazy import lazy_names

if TYPE_CHECKING:
    from attnviz.geometry.grid import Box, Layout, TokenGrid
    from attnviz.geometry.placement import Fit, Placement, keep_aspect, overlaps, place

__all__ = ["Box", "Fit", "Layout", "Placement", "TokenGrid", "keep_aspect", "overlaps", "place"]

__getattr__ = lazy_names(
    __name__,
    {
        "Box": "attnviz.geometry.grid",
        "Fit": "attnviz.geometry.placement",
        "Layout": "attnviz.geometry.grid",
        "Placement": "attnviz.geometry.placement",
        "TokenGrid": "attnviz.geometry.grid",
        "keep_aspect": "attnviz.geometry.placement",
        "overlaps": "attnviz.geometry.placement",
        "place": "attnviz.geometry.placement",
    },
)
