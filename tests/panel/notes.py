"""What a model attends with, noted by its own code in a run apart from those that are tested.

The oracle runs a model once as plainly as PyTorch can: gradients on, fast paths off, nothing
watching. Models write `note(q, k)` beside their attention, which does nothing in any other run;
`nn.MultiheadAttention` and what is made of it is read by hooks, models of a library by the
softmaxes and fused calls that their code names. Attnviz has no part in it.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Notes:
    """What was noted in one run: weights of the calls, and mixtures of tokens."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.mixtures: list[Tensor] = []

    def join(self, together: int) -> None:
        """So many calls after each other are the heads of one, (…, heads, queries, keys)."""
        groups = range(0, len(self.weights), together)
        self.weights = [torch.cat(self.weights[i : i + together], -3) for i in groups]


_notes: Notes | None = None


def taking_notes() -> bool:
    """Whether this is the oracle's run, for what a model computes for its note alone."""
    return _notes is not None


def note(
    query: Tensor, key: Tensor, *, scale: float | None = None, bias: Tensor | float = 0.0
) -> None:
    """An attention call is about to be made of q (…, heads, queries, d) and k (…, heads, keys, d).

    `scale` is 1/√d unless given. A call that is made in pieces is noted once, as a whole.
    """
    if _notes is not None:
        q, k = query.detach().double(), key.detach().double()
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        note_weights((q @ k.transpose(-2, -1) * factor + bias).softmax(-1))


def note_weights(weights: Tensor) -> None:
    """The same where the weights are at hand, (…, queries, keys), heads behind windows."""
    if _notes is not None:
        _notes.weights.append(weights.detach().double())


def note_mixture(mixture: Tensor) -> None:
    """Tokens are ordered, dropped or merged by what they hold: (tokens after, tokens before)."""
    if _notes is not None:
        _notes.mixtures.append(mixture.detach().double().reshape(mixture.shape[-2:]))


def take_notes(model: nn.Module, pixels: Tensor, *, of_library: bool = False) -> Notes:
    """What there is to note of a run; `of_library`: the model has no notes of its own."""
    global _notes  # noqa: PLW0603 — open during one run
    before = torch.backends.mha.get_fastpath_enabled()
    _notes = notes = Notes()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        reading: AbstractContextManager[Any] = _Softmaxes() if of_library else _hooks(model.eval())
        with torch.enable_grad(), reading:
            model(pixels)
    finally:
        _notes = None
        torch.backends.mha.set_fastpath_enabled(before)
    return notes


@contextmanager
def _hooks(model: nn.Module) -> Iterator[None]:
    """Modules of libraries, which have no notes of their own."""
    handles = [
        part.register_forward_pre_hook(_of_framework, with_kwargs=True)
        for part in model.modules()
        if isinstance(part, nn.MultiheadAttention)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Softmaxes(TorchFunctionMode):
    """Weights are what a softmax over the last dimension gives, and what a fused call would."""

    def __torch_function__(
        self, func: Any, _: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            mask = kwargs.get("attn_mask")
            bias = 0.0 if mask is None else torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
            note(args[0], args[1], scale=kwargs.get("scale"), bias=bias)
        elif func in (F.softmax, torch.softmax, Tensor.softmax):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if dim == -1:
                note_weights(result)
        return result


def _of_framework(module: nn.MultiheadAttention, args: Any, kwargs: dict[str, Any]) -> None:
    """`nn.MultiheadAttention` written out: its projections, heads and masks."""
    given = dict(zip(("query", "key", "value", "key_padding_mask"), args, strict=False)) | kwargs
    weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    heads = []
    for name, w, b in zip(("query", "key"), weights, biases, strict=False):
        x = given[name] @ w.T + b
        x = x if module.batch_first else x.transpose(0, 1)
        heads.append(x.unflatten(-1, (module.num_heads, -1)).transpose(1, 2))
    note(heads[0], heads[1], bias=_mask(given.get("key_padding_mask")))


def _mask(padding: Tensor | None) -> Tensor | float:
    """(batch, keys), True or −∞ where a key takes no part, as what is added to scores."""
    if padding is None:
        return 0.0
    if padding.dtype == torch.bool:
        padding = torch.zeros(padding.shape).masked_fill(padding, -torch.inf)
    return padding[:, None, None].double()
