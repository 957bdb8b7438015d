"""What goes back from a score: gradients of calls, AttnLRP's rules, vectors through fused heads."""

from attnviz.attribution.propagation import propagate

__all__ = ["propagate"]
