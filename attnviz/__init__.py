"""See what a vision transformer attends to.

>>> import attnviz
>>> model = attnviz.load_model()                                     # the embedded model
>>> seen = attnviz.observe(attnviz.load_image("cat.jpg"), model)     # runs the model once
>>> maps = attnviz.explain(seen, query="120,80")                     # ask as often as you like
>>> attnviz.render(maps)[5, 3].save("head3.png")
"""

from typing import TYPE_CHECKING

from attnviz.errors import AttnvizError
from attnviz.lazy import lazy_names

if TYPE_CHECKING:
    from attnviz.attention import AttentionCall, MultiHeadAttention
    from attnviz.comparison.compare import Comparison, compare
    from attnviz.evaluation.map_scorer import Score, evaluate
    from attnviz.explanation import Answer, Explanation, Observation, explain, observe
    from attnviz.io import Picture, load_image, load_mask
    from attnviz.models import load_model
    from attnviz.models.model import Model
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
    "explore",
    "load_image",
    "load_mask",
    "load_model",
    "observe",
    "record",
    "render",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Answer": "attnviz.explanation",
        "AttentionCall": "attnviz.attention",
        "Comparison": "attnviz.comparison.compare",
        "Drawing": "attnviz.output.write_pictures",
        "Explanation": "attnviz.explanation",
        "Model": "attnviz.models.model",
        "MultiHeadAttention": "attnviz.attention",
        "Observation": "attnviz.explanation",
        "Page": "attnviz.page.explore",
        "Picture": "attnviz.io",
        "Recording": "attnviz.recording",
        "Score": "attnviz.evaluation.map_scorer",
        "compare": "attnviz.comparison.compare",
        "evaluate": "attnviz.evaluation.map_scorer",
        "explain": "attnviz.explanation",
        "explore": "attnviz.page.explore",
        "load_image": "attnviz.io",
        "load_mask": "attnviz.io",
        "load_model": "attnviz.models",
        "observe": "attnviz.explanation",
        "record": "attnviz.recording",
        "render": "attnviz.output.write_pictures",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
