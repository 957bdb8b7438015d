"""How the watcher meets PyTorch's dispatcher: which operators it enters, and in what state."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload


def uncompiled() -> AbstractContextManager[Any]:
    """Run compiled code uncompiled; if nothing was compiled yet, do not load the compiler."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


@cache
def is_wrapper(kind: type) -> bool:
    """Whether tensors of this class handle operators themselves, by operators on inner tensors."""
    disabled = torch._C._disabled_torch_dispatch_impl  # noqa: SLF001
    return getattr(kind, "__torch_dispatch__", disabled) is not disabled


OPAQUE = ("_transformer_encoder_layer_fwd", "_native_multi_head_attention")
_BACKENDS = {"cpu": "CPU", "cuda": "CUDA", "mps": "MPS", "xpu": "XPU"}


def as_outside() -> AbstractContextManager[Any]:
    """Set the dispatcher as it is outside of the watcher, with views and conjugates handled.

    Without this, `matmul` in inference mode takes another path for weights that require gradients,
    and its result differs in the last digit.
    """
    exclude = torch._C._dispatch_tls_local_exclude_set()  # noqa: SLF001
    for name in ("ADInplaceOrView", "Conjugate", "Negative", "ZeroTensor"):
        exclude = exclude.remove(getattr(torch._C.DispatchKey, name))  # noqa: SLF001
    include = torch._C._dispatch_tls_local_include_set()  # noqa: SLF001
    guard: AbstractContextManager[Any] = torch._C._ForceDispatchKeyGuard(include, exclude)  # noqa: SLF001
    return guard


@cache
def is_composite(func: OpOverload) -> bool:
    """Whether an operator consists of other operators that the watcher must see.

    `narrow` and `chunk` do not count: autograd tracks their results, not the views inside.
    """
    name = func._schema.name  # noqa: SLF001
    overload = func._schema.overload_name  # noqa: SLF001
    full = f"{name}.{overload}" if overload else name
    has = torch._C._dispatch_has_kernel_for_dispatch_key  # noqa: SLF001
    if name.removeprefix("aten::") in OPAQUE:
        return True
    tracked = func.is_view and has(full, "ADInplaceOrView")
    return has(full, "CompositeImplicitAutograd") and not tracked


def backend(func: OpOverload, args: Sequence[Any]) -> Any:
    """The dispatch key of the first tensor's device; None for tensors of unusual kinds."""
    flat = [a for arg in args for a in (arg if isinstance(arg, list | tuple) else (arg,))]
    tensor = next((arg for arg in flat if isinstance(arg, Tensor)), None)
    if tensor is None or tensor.layout != torch.strided:
        return None
    name = _BACKENDS.get(tensor.device.type)
    if tensor.is_nested:
        name = f"NestedTensor{name}" if name and "scaled_dot_product" in str(func) else None
    if name is None:
        return None
    return torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))  # noqa: SLF001
