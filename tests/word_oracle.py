"""Rollout and AttnLRP of whole models with words, written anew on eager attention in float64."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from softmaxes import SOFTMAXES, Softmaxes
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from attnviz.io.picture import Picture
from attnviz.models.model import Model
from attnviz.models.prompts import PromptRun

ANSWER = "a red mat"
_MATRICES = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm}
_PRODUCTS = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__}
_SHAPED = {F.gelu, F.silu, torch.sigmoid}


class Wide(TorchFunctionMode):
    """Keeps a model that runs in float64 from casting to float32 on the way."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in SOFTMAXES:
            kwargs.pop("dtype", None)
        if func in (Tensor.to, Tensor.float) and args[0].dtype == torch.float64:
            args = args[:1] + tuple(each for each in args[1:] if each is not torch.float32)
            if len(args) == 1 and not kwargs:
                return args[0]
        return self.run(func, args, kwargs)

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)


class Rules(Wide):
    """A forward pass of which gradient × input is AttnLRP with the ε-rule.

    Norms and ratios f(x)/x are cut off, and of a product each factor is seen by half.
    """

    def run(  # noqa: PLR0911 — a line for each rule
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attended(*args, **kwargs)
        if func is Tensor.view:  # products lie otherwise in memory here
            return Tensor.reshape(*args, **kwargs)
        if func in _MATRICES | _PRODUCTS and all(_moves(each) for each in args[:2]):
            a, b = args
            return (func(a, b.detach()) + func(a.detach(), b)) / 2
        if func is torch.sigmoid or func is torch.rsqrt:  # a gate made of its own input; a norm
            return func(*args).detach()
        if func in _SHAPED:
            x = args[0]
            return x * (func(*args, **kwargs) / x).detach()
        if func is F.layer_norm:
            x, shape, weight, bias, eps = (*args, *kwargs.values())[:5]
            spread = (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt().detach()
            assert tuple(shape) == (x.shape[-1],)
            normed = (x - x.mean(-1, keepdim=True)) / spread
            return normed if weight is None else normed * weight + bias
        return func(*args, **kwargs)


def _moves(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _attended(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *, is_causal: bool = False
) -> Tensor:
    assert attn_mask is None

    def product(a: Tensor, b: Tensor) -> Tensor:
        both = a.requires_grad and b.requires_grad
        return (a @ b.detach() + a.detach() @ b) / 2 if both else a @ b

    scores = product(q, k.mT) / q.shape[-1] ** 0.5
    if is_causal:
        above = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(above, -torch.inf)
    return product(scores.softmax(-1), v)


def answered_by(model: Model, picture: Picture, prompt: str, answer: str = ANSWER) -> PromptRun:
    """The arguments of a run over prompt and answer, in float64."""
    words = model.words
    assert words is not None
    found = words.answered(words.prompted(picture.image(), prompt), answer, 32)
    for name, each in found.arguments.items():
        if isinstance(each, Tensor) and each.is_floating_point():
            found.arguments[name] = each.double()  # type: ignore[index]
    return found


def eager(model: Model, folder: Path) -> Any:
    """The same model in float64, with attention that is written out."""
    kind: Any = model.module.__class__
    made = kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64)
    return made.eval().requires_grad_(False)


def weights_of(module: Any, answered: PromptRun) -> list[Tensor]:
    """The mean over heads of every softmax of a run, (windows, queries, keys), in order."""
    with Wide(), Softmaxes() as softmaxes, torch.no_grad():
        module(**answered.arguments)
    return [each.mean(-3).reshape(-1, *each.shape[-2:]) for each in softmaxes.found]


def step(weights: Tensor) -> Tensor:
    """rownorm(M + I)."""
    found: Tensor = (weights + torch.eye(weights.shape[-1])) / 2
    return found


def relevance_of(
    module: Any, answered: PromptRun, block: Any, rows: Sequence[int], pixels: bool
) -> Tensor:
    """x ⊙ g by the rules, of what enters a block or of the picture's tensor, of a word.

    `rows` are the positions from the end that predict its tokens.
    """
    caught: list[Tensor] = []

    def catch(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        caught.append(next(x for x in (*given, *named.values()) if isinstance(x, Tensor)))

    (name,) = answered.pictures
    tensor = answered.arguments[name].requires_grad_()
    hook = block.register_forward_pre_hook(catch, with_kwargs=True)
    with Rules():
        logits = module(**answered.arguments).logits[0]
        hook.remove()
        ids = [answered.ids[len(answered.ids) + row + 1] for row in rows]
        score = torch.stack([logits[row, each] for row, each in zip(rows, ids, strict=True)]).sum()
    x = tensor if pixels else caught[0]
    (gradient,) = torch.autograd.grad(score, [x])
    return (x * gradient).detach()
