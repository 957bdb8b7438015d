"""Reads what a detector or segmenter predicts for each of its object queries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from attnviz.models.preprocessing import labels as names_of

_LOGITS = ("logits", "class_queries_logits", "pred_logits")
_BOXES = ("pred_boxes",)
_MASKS = ("masks_queries_logits", "pred_masks")
OF_OBJECTS = (*_LOGITS[1:], *_BOXES, *_MASKS)
"""Names by which an output of a detector or segmenter alone has its parts."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of all object queries for a batch of pictures, float32 on the CPU.

    Attributes:
        scores: (B, objects, classes) probabilities, without that of no object.
        boxes: (B, objects, 4) centre x and y, width and height as shares of the input; None
            without boxes.
        masks: (B, objects, h, w) logits of masks that span the input; None without masks.
        labels: names of the classes.
        logits: (B, objects, outputs) as the model returns them, with their graph if there is one.
    """

    scores: Tensor
    boxes: Tensor | None
    masks: Tensor | None
    labels: tuple[str, ...]
    logits: Tensor

    @property
    def count(self) -> int:
        """Number of object queries."""
        return self.scores.shape[1]


def find_predictions(output: Any, module: nn.Module) -> Predictions | None:
    """The predictions in the output of a module; None if it predicts no objects.

    They are logits (B, objects, classes) with boxes (B, objects, 4) or masks (B, objects, h, w). A
    model with one output more than it has labels gives the last one to no object, and its scores
    are a softmax. Otherwise each score is a sigmoid, as DETR's successors have it.
    """
    logits, boxes, masks = (_first(output, names) for names in (_LOGITS, _BOXES, _MASKS))
    if logits is None or logits.ndim != 3:
        return None
    pictures, count, outputs = logits.shape
    if boxes is not None and boxes.shape != (pictures, count, 4):
        boxes = None
    if masks is not None and (masks.ndim != 4 or masks.shape[:2] != (pictures, count)):
        masks = None
    stated = getattr(getattr(module, "config", None), "id2label", None)
    names = names_of(module)
    known = len(stated or names or ())
    if (boxes is None and masks is None) or known not in (outputs, outputs - 1):
        return None
    values = logits.detach().float().cpu()
    scores = values.sigmoid() if known == outputs else F.softmax(values, -1)[..., :-1]
    return Predictions(
        scores,
        None if boxes is None else boxes.detach().float().cpu(),
        None if masks is None else masks.detach().float().cpu(),
        names or tuple(f"class {number}" for number in range(known)),
        logits,
    )


def part(output: Any, name: str) -> Any:
    """The part of an output that has a name, as an attribute or a key; None if there is none."""
    found = getattr(output, name, None)
    return output.get(name) if found is None and isinstance(output, Mapping) else found


def _first(output: Any, names: tuple[str, ...]) -> Tensor | None:
    found = (part(output, name) for name in names)
    return next((each for each in found if isinstance(each, Tensor)), None)
