"""The shapes of input to try for a picture, one after another, and how it lies in each."""

import math
from collections.abc import Iterator, Sequence

from attnviz.explanation.forward_errors import ForwardError, unknown_shape
from attnviz.explanation.trials import takes_more
from attnviz.geometry.grid import sides
from attnviz.geometry.placement import Fit, Placement
from attnviz.io.picture import PictureLike
from attnviz.models.failures import message
from attnviz.models.input_size import shapes_in
from attnviz.models.model import Model


def first_placement(model: Model, picture: PictureLike, fit: Fit) -> Placement:
    """The first placement to try: that of `Model.place`, unless positions would be wrong.

    If there are no more tokens than positions, but in other rows and columns, tokens may silently
    get positions of other places. In that case a trial shows whether the model takes more tokens.

    Raises:
        ModelError: it does not, and the shape of its positions is not known.
    """
    placement = model.place(picture, fit=fit)
    if model.plain or model.fixed:
        return placement
    shape = model.position_shape
    if shape is None:
        _check_table(model, placement)
        centre = model.place(picture, fit="crop").grid
        alike = placement.grid.patch == centre.patch and placement.grid.tokens == centre.tokens
        if fit != "keep" or not alike:
            return placement
        shape = centre.input_height, centre.input_width
    of_table = model.place(picture, fit=fit, shape=shape)
    size = placement.grid.input_height, placement.grid.input_width
    if size == shape or math.prod(size) > math.prod(shape) or takes_more(model, shape):
        return placement
    return of_table


def _check_table(model: Model, placement: Placement) -> None:
    """Check a position table of unknown shape: a model that takes more tokens can adapt it.

    Raises:
        ModelError: the model takes no more than that many tokens.
    """
    table, grid = model.position_table, placement.grid
    if table is not None and grid.tokens <= table[1]:
        height, width = ((math.isqrt(table[1]) + 1) * side for side in sides(model.patch))
        if not takes_more(model, (height, width)):
            raise unknown_shape(model, grid, table)


def placements(
    model: Model, picture: PictureLike, fit: Fit, failures: Sequence[ForwardError]
) -> Iterator[tuple[Placement, bool]]:
    """Placements to try: the first one, the model's own size, and shapes that it may take.

    Each comes with whether it has the requested size. Some of the last shapes come from messages in
    `failures`, the errors of the placements before.
    """
    first = first_placement(model, picture, fit)
    sizes = [model.place(picture, fit=each).grid for each in (fit, "crop")]
    yield first, first.grid in sizes
    centre = model.place(picture, fit="crop")
    if fit == "keep" and centre.grid != first.grid:
        yield centre, True
    if model.fixed:
        return
    texts = [message(each.error) for each in failures]
    spoken = shapes_in(texts, model.module, model.patch, model.prefix)
    tried = {each.shape for each in failures}
    for shape in dict.fromkeys([*model.other_shapes, *spoken]):
        if shape not in tried:
            yield model.place(picture, fit=fit, shape=shape), False
