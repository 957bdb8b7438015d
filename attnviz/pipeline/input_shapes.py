"""The inputs that a picture is laid into, one after the other, until the model takes one."""

from collections.abc import Iterator, Sequence

from attnviz.geometry import Fit, Placement
from attnviz.images import Picture
from attnviz.models.code_errors import message
from attnviz.models.input_size import shapes_in
from attnviz.models.model import Model
from attnviz.pipeline.forward_errors import ForwardError, takes_other_shapes


def first_placement(model: Model, picture: Picture, fit: Fit) -> Placement:
    """How a picture is laid at first.

    As many tokens as the model's own grid has, in other rows and columns, would get the positions
    of other tokens and no error would say so: then it is seen whether the model takes other grids
    at all.
    """
    placement, centre = model.place(picture, fit=fit), model.place(picture, fit="crop")
    grid, own = placement.grid, centre.grid
    alike = grid != own and (grid.tokens, grid.patch) == (own.tokens, own.patch)
    if fit != "keep" or model.plain or not alike:
        return placement
    shape = own.input_height, own.input_width
    return placement if takes_other_shapes(model, shape) else centre


def placements(
    model: Model, picture: Picture, fit: Fit, failures: Sequence[ForwardError]
) -> Iterator[tuple[Placement, bool]]:
    """A picture as it is laid at first, at the model's own size, and in shapes that it may take.

    Beside each is whether it has the size that was asked for. Of the last some are what `failures`
    speak of, which are those of the placements before.
    """
    first = first_placement(model, picture, fit)
    yield first, True
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
