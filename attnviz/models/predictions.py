"""Reads what a model predicts for each of its object queries, or for each place of a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnviz.models.preprocessing import labels as names_of

_LOGITS = ("logits", "class_queries_logits", "pred_logits")
_BOXES = ("pred_boxes",)
_MASKS = ("masks_queries_logits", "pred_masks")
OF_OBJECTS = (*_LOGITS[1:], *_BOXES, *_MASKS)
"""Names by which an output of a detector or segmenter alone has its parts."""
_OF_CLASSES = ("logits", "out")
_DEPTH = ("predicted_depth", "depth")


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
    def each_alone(self) -> bool:
        """Whether each score is a sigmoid, so that no output stands for no object."""
        return self.logits.shape[-1] == len(self.labels)

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


@dataclass(frozen=True, eq=False)
class DenseOutput:
    """Scores of each place of a picture, with their graph.

    Attributes:
        values: (B, classes, h, w) float32, which span the input; (B, 1, h, w) of a depth.
        labels: names of the classes, if they have names.
        classes: whether they are scores of classes.
    """

    values: Tensor
    labels: tuple[str, ...] | None = None
    classes: bool = True


def find_dense(output: Any, module: nn.Module) -> DenseOutput | None:
    """The scores of each place in the output of a module; None if it has none.

    They are logits (B, classes, h, w), alone or as `logits` or `out`; a depth (B, h, w); or of a
    segmenter with object queries Σ_o p_o(class)·σ(mask_o), as MaskFormer's authors merge them.
    """
    objects, masks = find_predictions(output, module), _first(output, _MASKS)
    if objects is not None and objects.masks is not None and masks is not None:
        logits = objects.logits.float()
        sure = logits.sigmoid() if objects.each_alone else F.softmax(logits, -1)[..., :-1]
        merged = torch.einsum("boc,bohw->bchw", sure, masks.float().sigmoid())
        return DenseOutput(merged, objects.labels)
    depth = _first(output, _DEPTH)
    if depth is not None and depth.ndim in (3, 4):
        return DenseOutput(
            depth.float().reshape(len(depth), -1, *depth.shape[-2:])[:, :1], None, False
        )
    found = output if isinstance(output, Tensor) else _first(output, _OF_CLASSES)
    if found is None or found.ndim != 4:
        return None
    names = names_of(module)
    return DenseOutput(found.float(), names if names and len(names) == found.shape[1] else None)


def part(output: Any, name: str) -> Any:
    """The part of an output that has a name, as an attribute or a key; None if there is none."""
    found = getattr(output, name, None)
    return output.get(name) if found is None and isinstance(output, Mapping) else found


def _first(output: Any, names: tuple[str, ...]) -> Tensor | None:
    found = (part(output, name) for name in names)
    return next((each for each in found if isinstance(each, Tensor)), None)
