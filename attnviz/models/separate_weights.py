"""A separate file of weights for a checkpoint folder of transformers."""

from typing import Any

import torch
from torch import Tensor, nn

from attnviz.models.auto_classes import find_class
from attnviz.models.checkpoints import MISSING, Filling
from attnviz.models.fitting import misfit
from attnviz.models.model import Model
from attnviz.models.needs import Reach, misplaced, unfilled_tensors
from attnviz.models.position_tables import match_positions
from attnviz.models.state_dict_names import foreign


def resized_positions(
    library: Any, config: Any, state: dict[str, Tensor]
) -> tuple[dict[str, Tensor], str]:
    """A state dict with positions of another grid interpolated, and a note about it."""
    try:
        with torch.device("meta"):
            kind = find_class(library, "", config)
            expected = kind._from_config(config).state_dict()  # noqa: SLF001
    except Exception:  # it needs numbers to be built; loading says what does not fit
        return state, ""
    return match_positions(expected, state)


def check_fits(path: str, model: Model, whole: nn.Module, filling: Filling, reached: Reach) -> None:
    """Refuse a separate file that leaves weights unfilled that maps need, or has others."""
    alien = misplaced(model, whole, filling)
    if reached != Reach.MAPS and not alien:
        return
    unfilled = unfilled_tensors(model, whole, filling)
    whys = [f"{name} {filling.unfilled[name]}" for name in unfilled]
    missing = [why for why in whys if why.endswith(MISSING)]
    others = [why for why in whys if why not in missing]
    count = len({id(tensor) for tensor in model.module.state_dict(keep_vars=True).values()})
    found = foreign(filling.unused, path)
    advice = (
        found[1] if found else f"give the folder of the model that it was saved from, or -m {path}"
    )
    raise misfit(
        path,
        count - len(whys),
        count,
        (missing, others, [f"{n} has no place" for n in alien]),
        advice,
    )
