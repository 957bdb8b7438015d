"""Positions of tokens (grids, cells, placements) and queries; this package uses numbers alone."""
