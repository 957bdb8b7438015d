"""What a model attends with, noted by its own code in a run apart from those that are tested.

The oracle runs a model once as plainly as PyTorch can: gradients on, fast paths off, nothing
watching. Models write `note(q, k)` beside their attention, which does nothing in any other run;
`nn.MultiheadAttention` and what is made of it, and modules whose weights leave an `nn.Softmax`,
are read by hooks. Attnviz has no part in it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn



class Notes:
    """What was noted in one run: weights of the calls, and mixtures of tokens."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.mixtures: list[Tensor] = []


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
    """The same where the weights are at hand, (…, heads, queries, keys)."""
    if _notes is not None:
        _notes.weights.append(weights.detach().double().reshape(-1, *weights.shape[-3:]))


def note_mixture(mixture: Tensor) -> None:
    """Tokens are ordered, dropped or merged by what they hold: (tokens after, tokens before)."""
    if _notes is not None:
        _notes.mixtures.append(mixture.detach().double().reshape(mixture.shape[-2:]))


def take_notes(model: nn.Module, pixels: Tensor) -> Notes:
    """Weights of every attention call in call order, (windows, heads, queries, keys) float64."""
    global _notes  # noqa: PLW0603 — open during one run
    before = torch.backends.mha.get_fastpath_enabled()
    _notes = notes = Notes()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.enable_grad(), _hooks(model.eval()):
            model(pixels)
    finally:
        _notes = None
        torch.backends.mha.set_fastpath_enabled(before)
    return notes


@contextmanager
def _hooks(model: nn.Module) -> Iterator[None]:
    """Modules of libraries, which have no notes of their own."""
    handles: list[Any] = []
    for part in model.modules():
        if isinstance(part, nn.MultiheadAttention):
            handles.append(part.register_forward_pre_hook(_of_framework, with_kwargs=True))
        elif isinstance(part, nn.Softmax) and part.dim == -1:
            handles.append(part.register_forward_hook(lambda _, __, weights: note_weights(weights)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
