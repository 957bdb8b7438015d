"""Attribution of a score: gradients of calls, AttnLRP's rules, vectors times fused heads."""

from attnviz.attribution.propagation import propagate

__all__ = ["propagate"]
