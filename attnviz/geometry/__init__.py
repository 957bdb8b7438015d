"""Where tokens lie: grids, cells and placements, and queries in words. Knows numbers alone."""
