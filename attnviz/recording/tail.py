"""The end of a model behind one of its blocks: what it says where those after it are left out."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from attnviz.errors import RecordingError
from attnviz.recording.model_blocks import Block


def run_tail(
    module: nn.Module,
    inputs: Tensor | tuple[Tensor, ...] | Mapping[str, Any],
    blocks: Mapping[int, Block],
    number: int,
) -> Any:
    """What a model returns as if its stack of blocks ended with that of call `number`.

    The model runs once more with blocks that do nothing, the last of which returns what the block
    of that call returned: so only what is before and behind the stack is computed. The result has
    its graph back to the recorded output, and from there to the pixels (the score of a layer in
    LeGrad, Bousselham et al., 2404.03214).

    Args:
        module: the model.
        inputs: what it was given, a tensor, several in their order, or arguments by name.
        blocks: all of `Recording.blocks`, of `record(gradients=True, blocks=model)`.
        number: of a call.

    >>> with attnviz.record(gradients=True, blocks=model) as recording:
    ...     model(pixels.requires_grad_())
    >>> logits = run_tail(model, pixels, recording.blocks, 3)
    >>> recording.gradients(logits[:, 281].sum(), calls=[3])

    Raises:
        RecordingError: the call has no block, or the blocks are no plain stack.
    """
    if number not in blocks:
        raise RecordingError(f"call {number} is in no block; ask one of {_in_words(list(blocks))}")
    shapes = {tuple(t.shape) for block in blocks.values() for t in (block.input, block.output)}
    if len(shapes) > 1:
        raise RecordingError(
            "the blocks change the shape of their tokens, so that none but the last can end the "
            "model; take a model that is a plain stack"
        )
    with _idle(blocks, blocks[number].output) as ended:
        if isinstance(inputs, Mapping):
            result = module(**inputs)
        else:
            result = module(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    if not ended:
        raise RecordingError("the model did not run its blocks; give it what it was recorded with")
    return result


@contextmanager
def _idle(blocks: Mapping[int, Block], end: Tensor) -> Iterator[list[bool]]:
    """Blocks that do nothing, but for the last, which returns `end`; yields whether it did."""
    ended: list[bool] = []
    last = blocks[max(blocks)]

    def forward(block: Block) -> Callable[..., Any]:
        def forward(*given: Any, **_: Any) -> Any:
            if block.module is last.module:
                ended.append(True)
                return block.returned(end)
            return block.returned(next(each for each in given if isinstance(each, Tensor)))

        return forward

    forwards = {block.module: vars(block.module).get("forward") for block in blocks.values()}
    try:
        for block in blocks.values():
            block.module.forward = forward(block)
        yield ended
    finally:
        for module, before in forwards.items():
            del module.forward
            if before is not None:
                module.forward = before


def _in_words(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) if numbers else "a model that has a stack of blocks"
