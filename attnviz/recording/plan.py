"""What is learnt of one recorded run of a model, so that a later one is watched lightly.

A plan is the program that the model ran, as functions of PyTorch in order: their arguments, which
of them is an attention call, and where blocks and projections are. It holds for one `signature`,
and `light_watch` compares every later run with it, function by function.
"""

import sys
import threading
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Buffer, Parameter
from torch.nn.modules import module as global_hooks

KINDS = (Tensor, Parameter, Buffer)
"""The classes of tensors that a plan knows; other classes compute in their own way."""
SCALARS = (int, float, bool, str, complex, type(None), type(Ellipsis), torch.dtype, torch.device)
SDPA: Any = torch.nn.functional.scaled_dot_product_attention
_FAILURES = 3
"""After so many plans of a module that did not hold, failing ones are not made again."""
_PLANS = 16
"""For so many signatures of a module there is a plan; the oldest is dropped first."""


class Ref:
    """A tensor of the program: an input, a result, or one that was there before."""

    __slots__ = ()


ANY = Ref()
"""Stands for any tensor, where it does not matter which."""


class Several(NamedTuple):
    """Arguments in a list or a tuple."""

    parts: tuple[Any, ...]


class Place(NamedTuple):
    """A view of an argument of a function: the argument's number or name, and where it lies."""

    argument: int | str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """The view, without a graph."""
        where = self.argument
        tensor: Tensor = kwargs[where] if isinstance(where, str) else args[where]
        start = tensor.storage_offset() + self.offset
        return tensor.detach().as_strided(self.size, self.stride, start)


class Step(NamedTuple):
    """A function of the program.

    Attributes:
        func: the function.
        args, kwargs: its arguments, with `Ref` for tensors; None if they are not compared.
        made: what stands for its result, or for each of several; None for none.
        acts: what to do with it: (what, number, more).
    """

    func: Any
    args: tuple[Any, ...] | None
    kwargs: Mapping[str, Any]
    made: Any
    acts: tuple[tuple[str, Any, Any], ...]


@dataclass(frozen=True)
class PlannedCall:
    """An attention call of the program.

    Attributes:
        options: what `attention_options` says of its arguments.
        scale, causal: as in `AttentionCall`.
        converted: whether the kernel got its boolean mask as numbers.
        operator: the kernel's name.
        node: the number of its node in autograd's graph, from the first one of the function.
        places: positions of its tokens, by the names of the fields of `AttentionCall`.
    """

    options: tuple[Any, ...]
    scale: float
    causal: bool
    converted: bool
    operator: str
    node: int | None
    places: Mapping[str, Tensor]


class PlannedBlock(NamedTuple):
    """The block of a call: what stands for its input and its output; see `Block`."""

    module: "weakref.ref[nn.Module]"
    input: Ref
    output: Ref
    spec: Any
    place: int


@dataclass(frozen=True)
class Plan:
    """The program of a model for one signature.

    Attributes:
        steps: its functions in order.
        inputs: what stands for each tensor among its inputs.
        outside: what stands for tensors that were there before, by their `id`.
        calls: its attention calls in order.
        blocks: blocks by the number of their call.
        operators: names of operators that lost positions.
        positions: those of the tensors of its result; None for no positions.
        versions: versions of the model's tensors, if positions depend on their values.
    """

    steps: Sequence[Step]
    inputs: tuple[Ref, ...]
    outside: Mapping[int, Ref]
    calls: Sequence[PlannedCall]
    blocks: Mapping[int, PlannedBlock]
    operators: Sequence[str] = ()
    positions: Sequence[Tensor | None] = ()
    versions: tuple[Any, ...] | None = None
    _kept: tuple[int, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_kept", self._written())

    def _written(self) -> tuple[int, ...]:
        shared = [place for call in self.calls for place in call.places.values()]
        shared += [each for each in self.positions if each is not None]
        return tuple(each._version for each in shared)  # noqa: SLF001

    def holds(self, module: nn.Module) -> bool:
        """Whether what it has to give is as it was: nobody wrote to positions, or to weights."""
        if self._kept != self._written():
            return False
        return self.versions is None or self.versions == versions(module)


def attention_options(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """The arguments of `F.scaled_dot_product_attention`: its tensors, then what else they say.

    The second part has all that decides which kernel runs and how its call is read.
    """
    found = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
    tensors = tuple(map(found.get, _ARGUMENTS[:4]))
    said = tuple(
        None if each is None else (each.shape, each.dtype, each.requires_grad) for each in tensors
    )
    return tensors, (*said, *map(found.get, _ARGUMENTS[4:]))


_ARGUMENTS = (
    *("query", "key", "value", "attn_mask"),
    *("dropout_p", "is_causal", "scale", "enable_gqa"),
)


def as_numbers(mask: Tensor, like: Tensor) -> Tensor:
    """A boolean mask as PyTorch gives it to a kernel: 0 for what takes part, else −∞."""
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask.logical_not(), -torch.inf)


def versions(module: nn.Module) -> tuple[Any, ...]:
    """Which tensors a module has, and how often each was written to."""
    tensors = (*module.parameters(), *module.buffers())
    return tuple((id(t), None if t.is_inference() else t._version) for t in tensors)  # noqa: SLF001


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
_cuda = torch.backends.cuda


def state_of_torch(own_hooks: Collection[int]) -> tuple[Any, ...]:
    """PyTorch's switches that change what a model computes, or how, and hooks on all modules.

    `own_hooks` are the numbers of hooks that do not count.
    """
    hooks = (*global_hooks._global_forward_pre_hooks, *global_hooks._global_forward_hooks)  # noqa: SLF001
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        *((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        (_cuda.flash_sdp_enabled(), _cuda.mem_efficient_sdp_enabled()),
        (_cuda.math_sdp_enabled(), _cuda.cudnn_sdp_enabled()),
        tuple(hook for hook in hooks if hook not in own_hooks),
    )


_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def tree_of(module: nn.Module, watched: Any, own: Any) -> tuple[Any, ...]:
    """A model's parts: which modules, how each is switched, and its hooks.

    While it is `watched`, the model's own `forward` is `own`.
    """
    found: list[Any] = [getattr(own, "__func__", own)]
    stack = [module]
    while stack:
        part = stack.pop()
        facts = part.__dict__
        found += (id(part), facts["training"])
        pre, post, pre_back, back = map(facts.__getitem__, _HOOKS)
        if pre or post or pre_back or back:
            found += [id(hook) for hooks in (pre, post, pre_back, back) for hook in hooks.values()]
        forward = facts.get("forward")
        if (forward is not None and forward != watched) or facts.get("_compiled_call_impl") is not None:
            found += (id(forward), id(facts.get("_compiled_call_impl")))
        parts = facts["_modules"]
        if parts:
            stack += [each for each in parts.values() if each is not None]
    return tuple(found)


def attributes_of(module: nn.Module) -> list[Any]:
    """What every part of a model holds, to see whether a run changes it."""
    return [tuple(map(id, part.__dict__.values())) for part in module.modules()]


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


class Plans:
    """Plans of modules, by signature, for as long as the modules live."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: weakref.WeakKeyDictionary[nn.Module, dict[Any, Plan | None]]
        self._found = weakref.WeakKeyDictionary()
        self._failures: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()

    def get(self, module: nn.Module, signature: Any) -> tuple[bool, Plan | None]:
        """Whether a signature was seen before, and its plan; None if it has none."""
        with self._lock:
            plans = self._found.get(module, {})
            return signature in plans, plans.get(signature)

    def put(self, module: nn.Module, signature: Any, plan: Plan | None) -> None:
        """Set the plan of a signature; None if it has none."""
        with self._lock:
            plans = self._found.setdefault(module, {})
            plans.pop(signature, None)
            plans[signature] = plan
            if len(plans) > _PLANS:
                del plans[next(iter(plans))]

    def failed(self, module: nn.Module, signature: Any) -> None:
        """A plan did not hold: learn it anew, or, if that happens often, no more."""
        with self._lock:
            count = self._failures[module] = self._failures.get(module, 0) + 1
        if count > _FAILURES:
            self.put(module, signature, None)
        else:
            self.forget(module, signature)

    def forget(self, module: nn.Module, signature: Any) -> None:
        """Learn a signature anew."""
        with self._lock:
            self._found.get(module, {}).pop(signature, None)


PLANS = Plans()
