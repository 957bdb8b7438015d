"""See what a vision transformer attends to.

>>> import attnviz
>>> model = attnviz.load_model()                                     # the embedded model
>>> seen = attnviz.observe(attnviz.load_image("cat.jpg"), model)     # runs the model once
>>> maps = attnviz.explain(seen, query="120,80")                     # ask as often as you like
>>> attnviz.render(maps)[5, 3].save("head3.png")
"""

import importlib
from typing import TYPE_CHECKING, Any

from attnviz.errors import AttnvizError

if TYPE_CHECKING:
    from attnviz.attention import AttentionCall, MultiHeadAttention
    from attnviz.comparison.compare import Comparison, compare
    from attnviz.evaluation.map_scorer import Score, evaluate
    from attnviz.explanation.explain_observation import explain
    from attnviz.explanation.explanation import Answer, Explanation
    from attnviz.explanation.observation import Observation
    from attnviz.explanation.running import observe
    from attnviz.explanation.tiled_file import explain_tiled
    from attnviz.io.clip_frames import load_clip
    from attnviz.io.picture import Picture, load_image, load_mask
    from attnviz.models import load_model
    from attnviz.models.model import Model
    from attnviz.monitoring.log import log
    from attnviz.output.write_pictures import Drawing, render
    from attnviz.page.explore import Page, explore
    from attnviz.recording import Recording, record

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AttentionCall",
    "AttnvizError",
    "Comparison",
    "Drawing",
    "Explanation",
    "Model",
    "MultiHeadAttention",
    "Observation",
    "Page",
    "Picture",
    "Recording",
    "Score",
    "compare",
    "evaluate",
    "explain",
    "explain_tiled",
    "explore",
    "load_clip",
    "load_image",
    "load_mask",
    "load_model",
    "log",
    "observe",
    "record",
    "render",
]

_HOMES = {
    "Answer": "attnviz.explanation.explanation",
    "AttentionCall": "attnviz.attention",
    "Comparison": "attnviz.comparison.compare",
    "Drawing": "attnviz.output.write_pictures",
    "Explanation": "attnviz.explanation.explanation",
    "Model": "attnviz.models.model",
    "MultiHeadAttention": "attnviz.attention",
    "Observation": "attnviz.explanation.observation",
    "Page": "attnviz.page.explore",
    "Picture": "attnviz.io.picture",
    "Recording": "attnviz.recording",
    "Score": "attnviz.evaluation.map_scorer",
    "compare": "attnviz.comparison.compare",
    "evaluate": "attnviz.evaluation.map_scorer",
    "explain": "attnviz.explanation.explain_observation",
    "explain_tiled": "attnviz.explanation.tiled_file",
    "explore": "attnviz.page.explore",
    "load_clip": "attnviz.io.clip_frames",
    "load_image": "attnviz.io.picture",
    "load_mask": "attnviz.io.picture",
    "load_model": "attnviz.models",
    "log": "attnviz.monitoring.log",
    "observe": "attnviz.explanation.running",
    "record": "attnviz.recording",
    "render": "attnviz.output.write_pictures",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562), so that `--help` stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'attnviz' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
