"""Records inputs and outputs of a model's blocks, and runs the model as if one block were its last.

PyTorch's global module hooks observe the blocks. Hooks on a module itself would turn off the fast
path of nn.TransformerEncoderLayer.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.hooks import RemovableHandle

from attnviz.errors import RecordingError
from attnviz.recording.learning import Learner
from attnviz.recording.outside import HOOKS
from attnviz.recording.tensor_registry import clone_if_aliased, shares_memory


@dataclass(frozen=True)
class Block:
    """A part of a model that makes one attention call.

    Attributes:
        module: an element of an nn.ModuleList or nn.Sequential.
        input: its first positional argument that is a tensor.
        output: the tensor that it returned, or the first of several.
        spec, place: the structure of its result, and the number of the output's leaf in it.
    """

    module: nn.Module
    input: Tensor
    output: Tensor
    spec: TreeSpec
    place: int

    def returned(self, tokens: Tensor) -> Any:
        """Put other tokens into the structure of the block's result; its other leaves are None."""
        leaves: list[Tensor | None] = [None] * self.spec.num_leaves
        leaves[self.place] = tokens
        return tree_unflatten(leaves, self.spec)


@dataclass(frozen=True)
class _Open:
    """A module that is running, the number of calls before it, and its input."""

    module: nn.Module
    count: int
    tokens: Tensor


class Blocks:
    """Finds the blocks of a running model: the outermost elements that make one call each.

    Attributes:
        found: blocks by the number of their call.
        graph: whether tensors keep their graph.
        learner: learns where the blocks are, if anything does.
        spoiled: numbers of calls whose block had a tensor with a graph, which the model overwrote.
    """

    def __init__(self, model: nn.Module, count: Callable[[], int], *, graph: bool) -> None:
        self.found: dict[int, Block] = {}
        self.spoiled: set[int] = set()
        self.learner: Learner | None = None
        self._count, self.graph = count, graph
        self._thread = threading.get_ident()
        self._open: list[_Open] = []
        self._hooks: list[RemovableHandle] = []
        self._model = model

    @cached_property
    def _elements(self) -> set[nn.Module]:
        """The elements of the model's stacks; a run that is watched lightly needs none."""
        parts = self._model.modules()
        stacks = (part for part in parts if isinstance(part, nn.ModuleList | nn.Sequential))
        return {element for stack in stacks for element in stack}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the model while it runs."""
        self.begin()
        try:
            yield
        finally:
            self.end()
            self._open.clear()

    def begin(self) -> None:
        """Watch modules from now on."""
        self._hooks = HOOKS.registered(
            lambda: register_module_forward_pre_hook(self._entered),
            lambda: register_module_forward_hook(self._returned),
        )

    def end(self) -> None:
        """Watch modules no longer."""
        HOOKS.remove(self._hooks)

    def _entered(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if module is self._model or module not in self._elements:
            return
        if threading.get_ident() != self._thread:
            return
        tokens = next((each for each in inputs if isinstance(each, Tensor)), None)
        if tokens is not None:
            self._open.append(_Open(module, self._count(), self._copy_before_overwrite(tokens)))

    def _returned(self, module: nn.Module, _: Any, result: Any) -> None:
        if not self._open or threading.get_ident() != self._thread:
            return
        if module not in self._elements:
            return
        while self._open and self._open[-1].module is not module:
            self._open.pop()  # an exception ended this module, and the model caught it
        if not self._open:
            return
        opened = self._open.pop()
        if self._count() != opened.count + 1:
            return
        leaves, spec = tree_flatten(result)
        place = next((i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)), None)
        if place is not None:
            output = self._copy_before_overwrite(leaves[place])
            block = Block(module, opened.tokens, output, spec, place)
            self.found[opened.count] = block
            if self.learner is not None:
                self.learner.block(opened.count, block, result)

    def _copy_before_overwrite(self, tensor: Tensor) -> Tensor:
        if self.graph:
            return tensor
        with nullcontext() if self.learner is None else self.learner.aside():
            return tensor.detach()

    def written(self, tensor: Tensor) -> None:
        """Copy what blocks keep in memory that the model is about to overwrite."""
        for number, block in self.found.items():
            tensors = (block.input, block.output)
            if not any(shares_memory(each, tensor) for each in tensors):
                continue
            self._overwritten()
            if self.graph:  # a copy would not be part of the graph
                self.spoiled.add(number)
            else:
                inputs, outputs = (clone_if_aliased(each, tensor) for each in tensors)
                self.found[number] = replace(block, input=inputs, output=outputs)
        if any(shares_memory(each.tokens, tensor) for each in self._open):
            self._overwritten()
        if not self.graph:
            self._open = [
                replace(each, tokens=clone_if_aliased(each.tokens, tensor)) for each in self._open
            ]

    def _overwritten(self) -> None:
        if self.learner is not None:
            self.learner.refuse("tokens of a block that the model overwrites")


def run_tail(
    module: nn.Module,
    inputs: Tensor | tuple[Tensor, ...] | Mapping[str, Any],
    blocks: Mapping[int, Block],
    number: int,
) -> Any:
    """The model's result as if its stack of blocks ended with the block of call `number`.

    The model runs once more with blocks that do nothing; the last one returns the recorded output
    of that call's block. So only the parts before and after the stack are computed. The result's
    graph leads back to the recorded output, and from there to the pixels (LeGrad uses this for the
    score of a layer, Bousselham et al., 2404.03214).

    Args:
        module: the model.
        inputs: the model's input: a tensor, several tensors in order, or arguments by name.
        blocks: all of `Recording.blocks`, from `record(gradients=True, blocks=model)`.
        number: the number of a call.

    >>> with attnviz.record(gradients=True, blocks=model) as recording:
    ...     whole = model(pixels.requires_grad_())
    >>> logits = run_tail(model, pixels, recording.blocks, 3)
    >>> list(recording.gradients(logits[:, 281].sum(), calls=[3]))
    [3]

    Raises:
        RecordingError: the call has no block, or the blocks are not a plain stack.
    """
    if number not in blocks:
        raise RecordingError(f"call {number} is in no block; choose {_in_words(list(blocks))}")
    shapes = {tuple(t.shape) for block in blocks.values() for t in (block.input, block.output)}
    if len(shapes) > 1:
        raise RecordingError(
            "the blocks change the shape of their tokens, so that none but the last can end the "
            "model; take a model that is a plain stack"
        )
    with _ending(blocks, blocks[number].output) as ended:
        if isinstance(inputs, Mapping):
            result = module(**inputs)
        else:
            result = module(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    if not ended:
        raise RecordingError("the model did not run its blocks; give it what it was recorded with")
    return result


def run_from(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    blocks: Mapping[int, Block],
    number: int,
    tokens: Tensor | None,
    *,
    last: int,
) -> Any:
    """The model's result if other tokens enter the block of call `number`.

    Blocks before this one do nothing, and neither do those after the block of call `last`.

    Args:
        module: the model.
        inputs: the model's input.
        blocks: all of `Recording.blocks`.
        number: the number of a call.
        tokens: what enters its block, in the shape of what entered it when it was recorded; None:
            what the model itself gives it, and all blocks before it run.
        last: the number of the last call whose block is to run.

    Raises:
        RecordingError: the model does not run this block, or the blocks are not a plain stack.
    """
    entered: list[bool] = []

    def forward(number_of_block: int, block: Block) -> Callable[..., Any]:
        before = block.module.forward

        def enter(*given: Any, **more: Any) -> Any:
            entered.append(True)
            place = next(i for i, each in enumerate(given) if isinstance(each, Tensor))
            own = given[place] if tokens is None else tokens
            return before(*given[:place], own, *given[place + 1 :], **more)

        return enter if number_of_block == number else _idle(block)

    first = number if tokens is None else 0
    replaced = {n: each for n, each in blocks.items() if first <= n <= number or n > last}
    modules = {block.module for block in blocks.values()}
    if len(modules) < len(blocks) or any(
        each.input.shape != each.output.shape for n, each in replaced.items() if n != number
    ):
        raise RecordingError(
            "the blocks are no plain stack, so that none but the first can begin the model; take "
            "a method of one run, such as input-gradient"
        )
    with _forwards({block.module: forward(n, block) for n, block in replaced.items()}):
        result = module(*inputs)
    if not entered:
        raise RecordingError("the model did not run its blocks; give it what it was recorded with")
    return result


def _idle(block: Block) -> Callable[..., Any]:
    """A forward that returns what it is given."""

    def forward(*given: Any, **_: Any) -> Any:
        return block.returned(next(each for each in given if isinstance(each, Tensor)))

    return forward


@contextmanager
def _ending(blocks: Mapping[int, Block], end: Tensor) -> Iterator[list[bool]]:
    """Make all blocks do nothing, except that the last one returns `end`.

    Yields a list that is not empty after the last block has run.
    """
    ended: list[bool] = []
    last = blocks[max(blocks)]

    def forward(*_: Any, **__: Any) -> Any:
        ended.append(True)
        return last.returned(end)

    forwards = {block.module: _idle(block) for block in blocks.values()}
    with _forwards(forwards | {last.module: forward}):
        yield ended


@contextmanager
def _forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Give modules other forwards for a while."""
    earlier = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module, before in earlier.items():
            del module.forward
            if before is not None:
                module.forward = before


def _in_words(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) if numbers else "a model that has a stack of blocks"
