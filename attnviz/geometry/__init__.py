"""Where tokens lie: grids, cells and placements, and queries in words. Knows numbers alone."""

from attnviz.geometry.grid import Box, Layout, TokenGrid
from attnviz.geometry.placement import Fit, Placement, keep_aspect, overlaps, place

__all__ = ["Box", "Fit", "Layout", "Placement", "TokenGrid", "keep_aspect", "overlaps", "place"]
