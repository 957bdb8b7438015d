"""Finds a model's class token among its parameters, by their names."""

from torch import Tensor, nn

CLASS_TOKENS = ("cls_token", "class_token", "class_embedding", "cls_register_token")
"""Names of parameters that are a class token."""
PREFIXES = (*CLASS_TOKENS, "distillation_token", "register_tokens")


def has_class_token(module: nn.Module) -> bool:
    """Whether a model has a class token, judged by the names of its parameters.

    >>> from torchvision.models import vit_b_16  # doctest: +SKIP
    >>> has_class_token(vit_b_16())  # doctest: +SKIP
    True
    """
    return class_token_name(module) is not None


def class_token_name(module: nn.Module) -> str | None:
    """The name of the parameter that is a model's class token; None if there is none."""
    parameters = module.named_parameters()
    names = (name for name, each in parameters if is_class_token(name, each))
    return next((name for name in names if not is_of_head(name)), None)


def is_class_token(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a class token: a single vector with such a name.

    >>> is_class_token("encoder.cls", torch.zeros(1, 1, 32))
    True
    """
    last = name.rpartition(".")[2].lower()
    if last in CLASS_TOKENS:
        return True
    named = "cls" in last.split("_") or "class" in last.split("_")
    other = {"pos", "position", "positions", "weight", "bias", "head"} & set(last.split("_"))
    return named and not other and parameter.numel() == parameter.shape[-1]


def is_of_head(name: str) -> bool:
    """Whether a parameter belongs to a pooling head, whose token is a query but never a key.

    >>> is_of_head("head.cls_token")
    True
    """
    return any(part in ("head", "pooler", "attn_pool") for part in name.split(".")[:-1])


def prefix_tokens(model: nn.Module) -> int:
    """Number of tokens before the grid: class, distillation, registers.

    Each is a parameter whose last dimension is the width. The token of a pooling head does not
    count: it is a query only, never a key.
    """
    return sum(
        parameter.numel() // parameter.shape[-1]
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[2] in PREFIXES and not is_of_head(name)
    )
