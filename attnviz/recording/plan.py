"""What is learnt of one recorded run of a model, so that a later one is watched lightly.

A plan says what the attention calls of a model are, where their tokens lie, and which blocks and
projections they have. It has the program, too: PyTorch's functions that the model called, in order.
It holds for one signature: the shapes of the inputs, the modules and all that they hold, PyTorch's
switches.
"""

import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Buffer, Parameter

from attnviz.recording.outside import HOOKS
from attnviz.recording.variables import Variables

KINDS = (Tensor, Parameter, Buffer)
"""The classes of tensors that a plan knows; other classes compute in their own way."""
SCALARS = (int, float, bool, str, complex, type(None), type(Ellipsis), torch.dtype, torch.device)
SDPA: Any = torch._C._nn.scaled_dot_product_attention  # noqa: SLF001 — PyTorch's own
_COMPARED = 16
"""One of so many runs is compared with the program, function by function."""


class Ref:
    """A tensor of the program: an input, a result, or one that was there before."""

    __slots__ = ()


class Several(NamedTuple):
    """Arguments in a list or a tuple."""

    parts: tuple[Any, ...]


class ParameterView(NamedTuple):
    """A view of a parameter: the module that owns it, its name there, and where the view lies.

    `whole` is what the parameter looks like: its shape and its strides.
    """

    owner: "weakref.ref[nn.Module]"
    name: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    whole: tuple[Any, Any]

    def view(self) -> Tensor | None:
        """The view, without a graph; None if there is no such parameter any more."""
        owner = self.owner()
        tensor = None if owner is None else owner._parameters.get(self.name)  # noqa: SLF001
        if tensor is None or (tensor.shape, tensor.stride()) != self.whole:
            return None
        start = tensor.storage_offset() + self.offset
        return tensor.detach().as_strided(self.size, self.stride, start)


class FunctionCall(NamedTuple):
    """A function of the program: its arguments, with `Ref` for tensors, and what it made."""

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    made: Any


@dataclass(frozen=True)
class PlannedCall:
    """An attention call of the program.

    Attributes:
        options: what `attention_options` says of its arguments.
        fields: what the program alone says, by the names of the fields of `AttentionCall`: scale,
            whether it is causal, positions.
        converted: whether the kernel got its boolean mask as numbers.
        operator: the kernel's name.
        node: the number of its node in autograd's graph, from the first one of the function.
        projection: the projection, and the factors on it, one after the other.
    """

    options: tuple[Any, ...]
    fields: Mapping[str, Any]
    converted: bool
    operator: str
    node: int | None
    projection: Sequence[ParameterView] = ()


class PlannedBlock(NamedTuple):
    """The block of a call; see `Block`. `kind` is the class of its result."""

    module: "weakref.ref[nn.Module]"
    kind: type
    spec: Any
    place: int


@dataclass(eq=False)
class RunPlan:
    """What a model does, for one signature.

    Attributes:
        calls: its attention calls in order.
        blocks: blocks by the number of their call.
        operators: names of operators that lost positions.
        positions: those of the tensors of its result; None for no positions.
        versions: versions of the model's tensors, if positions depend on their values.
        steps: the program.
        inputs: what stands for each tensor among its inputs.
        outside: what stands for tensors that were there before, by their `id`.
        variables: what the model's code reads besides.
        foreign: whether code from elsewhere, such as a hook, may change the program.
        cards: the CUDA devices of the model's tensors.
        pictures: the number of pictures that was learnt, and another one that this plan is for;
            None if it was learnt as it is.
        runs: how many runs were watched by this plan.
    """

    calls: Sequence[PlannedCall]
    blocks: Mapping[int, PlannedBlock]
    operators: Sequence[str]
    positions: Sequence[Tensor | None]
    versions: tuple[Any, ...] | None
    steps: Sequence[FunctionCall]
    inputs: tuple[Ref, ...]
    outside: Mapping[int, Ref]
    variables: Variables
    foreign: bool
    cards: frozenset[torch.device] = frozenset()
    pictures: tuple[int, int] | None = None
    runs: int = 0
    _kept: tuple[int, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self._kept = self._written()

    def compares(self) -> bool:
        """Whether the next run is to be compared with the program, function by function."""
        self.runs += 1
        return self.foreign or self.runs == 1 or self.runs % _COMPARED == 0

    def _written(self) -> tuple[int, ...]:
        fields = (each for call in self.calls for each in call.fields.values())
        shared = [each for each in fields if isinstance(each, Tensor)]
        shared += [each for each in self.positions if each is not None]
        return tuple(versions_of(shared))

    def holds(self, module: nn.Module) -> bool:
        """Whether all is as it was: variables, and what nobody should have written to."""
        if self._kept != self._written() or self.variables.changed():
            return False
        return self.versions is None or self.versions == versions(module)


def attention_options(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """The arguments of `F.scaled_dot_product_attention`: its tensors, then what else they say.

    The second part has all that decides which kernel runs and how its call is read.
    """
    if kwargs or len(args) != 3:
        found = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
        args = tuple(map(found.get, _ARGUMENTS[:4]))
        others = tuple(map(found.get, _ARGUMENTS[4:]))
    else:
        args, others = (*args, None), _NO_OPTIONS
    query, key, value, mask = args
    shapes = query.shape, query.dtype, key.shape, value.shape
    graph = query.requires_grad, key.requires_grad, value.requires_grad
    masked = None if mask is None else (mask.shape, mask.dtype, mask.requires_grad)
    return args, (shapes, graph, masked, others)


_ARGUMENTS = (
    *("query", "key", "value", "attn_mask"),
    *("dropout_p", "is_causal", "scale", "enable_gqa"),
)
_NO_OPTIONS = (None, None, None, None)


def as_numbers(mask: Tensor, like: Tensor) -> Tensor:
    """A boolean mask as PyTorch gives it to a kernel: 0 for what takes part, else −∞."""
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask.logical_not(), -torch.inf)


def next_node() -> int:
    """The number that autograd's next node gets."""
    number: int = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]  # noqa: SLF001
    return number


def versions_of(tensors: Sequence[Tensor]) -> list[int]:
    """How often each tensor's memory was written to; nothing counts it in inference mode."""
    return [0 if each.is_inference() else each._version for each in tensors]  # noqa: SLF001


def versions(module: nn.Module) -> tuple[Any, ...]:
    """Which tensors a module has, and how often each was written to."""
    tensors = (*module.parameters(), *module.buffers())
    return tuple(zip(map(id, tensors), versions_of(tensors), strict=True))


def leaves_of(value: Any, leaves: list[Tensor]) -> Any:
    """The structure of a model's arguments as something to compare; adds its tensors to `leaves`.

    Raises:
        TypeError: it holds something whose content is not known.
    """
    kind = value.__class__
    if kind in KINDS:
        leaves.append(value)
        number = next(i for i, leaf in enumerate(leaves) if leaf is value)
        where = value.shape, value.stride(), value.dtype, value.device, value.requires_grad
        return (number, kind, *where, value.is_inference(), value.is_conj(), value.is_neg())
    if kind in {tuple, list}:
        return (kind, *(leaves_of(each, leaves) for each in value))
    if kind is dict:
        return (kind, *((name, leaves_of(value[name], leaves)) for name in value))
    if kind in SCALARS:
        return kind, value
    raise TypeError(f"a model's argument of type {kind.__name__}")


_FAST = (nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.MultiheadAttention)
_cuda: Any = torch.backends.cuda


def state_of_torch() -> tuple[Any, ...]:
    """PyTorch's switches that change what a model computes, or how, and hooks on all modules."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        *((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        (_cuda.flash_sdp_enabled(), _cuda.mem_efficient_sdp_enabled()),
        (_cuda.math_sdp_enabled(), _cuda.cudnn_sdp_enabled()),
        HOOKS.on_all_modules(),
    )


def may_be_learnt(module: nn.Module) -> bool:
    """Whether PyTorch's functions show what a module does.

    TorchScript and compiled parts run code of their own. A function mode turns off the fast paths
    of PyTorch's own layers.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    return not any(
        isinstance(part, torch.jit.ScriptModule)
        or part.__dict__.get("_compiled_call_impl") is not None
        or (fast and isinstance(part, _FAST))
        or is_compiled(part)
        for part in module.modules()
    )


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is the result of `torch.compile`."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)
