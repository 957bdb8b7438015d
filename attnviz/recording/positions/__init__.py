"""Traces where in the picture every token of a running model comes from."""

from attnviz.recording.positions.token_positions import TokenPositions

__all__ = ["TokenPositions"]
