"""Where in the picture every token of a running model comes from: traced, never guessed."""

from attnviz.recording.positions.token_positions import TokenPositions

__all__ = ["TokenPositions"]
