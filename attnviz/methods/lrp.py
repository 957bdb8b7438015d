"""Relevance that was propagated through the model: what tokens say for a score."""

from collections.abc import Sequence

from torch import Tensor

from attnviz.attention.layer_input import LayerInput
from attnviz.errors import RecordingError
from attnviz.methods.merging import split


def attnlrp(readings: Sequence[LayerInput]) -> Tensor:
    """R_j of the tokens that enter the first layer, (windows, 1, 1, keys), with their sign.

        g = d(score)/dx, but on the way back:
            g * f(x) / x                      # through GELU, SiLU … of elements, not g * f'(x)
            g / 2                             # to both factors of Q @ K.T, A @ V and gates
            σ and norms in a denominator are constants
        map = (x * g).sum(-1)                 # (tokens, features) → (tokens,)

    AttnLRP with the ε-rule for all linear maps, ε → 0. The paper takes the γ-rule for those of
    vision transformers, which needs what each of them was given; autograd does not keep it for
    frozen weights. `attention.propagate` has the rules. The score is that of the model as if it
    ended with the last layer; the query plays no role.

    Achtibat et al. 2024, 2402.05602.

    Raises:
        RecordingError: layers with different tokens, or relevance was not asked for.
    """
    split(readings)
    relevance = readings[-1].relevance
    if relevance is None:
        raise RecordingError("no relevance was propagated; observe with gradients, and ask for it")
    return relevance[:, None, None]
