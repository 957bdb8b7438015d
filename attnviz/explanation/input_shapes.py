"""The inputs that a picture is laid into, one after the other, until the model takes one."""

import math
from collections.abc import Iterator, Sequence

from attnviz.explanation.forward_errors import ForwardError, takes_more, unknown_shape
from attnviz.geometry.placement import Fit, Placement
from attnviz.io.picture import PictureLike
from attnviz.models.failures import message
from attnviz.models.input_size import shapes_in
from attnviz.models.model import Model


def first_placement(model: Model, picture: PictureLike, fit: Fit) -> Placement:
    """How a picture is laid at first: as `Model.place` does, unless positions would be wrong.

    No more tokens than a model has positions, in other rows and columns, may get those of other
    places, and no error would say so: then it is seen whether the model takes more tokens at all.

    Raises:
        ModelError: it does not, and which shape its positions are for is not known.
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
    """Whether a table of positions of no known shape is one that all its tokens may be cut from.

    Raises:
        ModelError: the model takes no more than that many tokens.
    """
    table, grid = model.position_table, placement.grid
    if table is not None and grid.tokens <= table[1]:
        side = (math.isqrt(table[1]) + 1) * model.patch
        if not takes_more(model, (side, side)):
            raise unknown_shape(model, grid, table)


def placements(
    model: Model, picture: PictureLike, fit: Fit, failures: Sequence[ForwardError]
) -> Iterator[tuple[Placement, bool]]:
    """A picture as it is laid at first, at the model's own size, and in shapes that it may take.

    Beside each is whether it has the size that was asked for. Of the last some are what `failures`
    speak of, which are those of the placements before.
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
