"""Methods that show what is like the query: cosines of keys, or of tokens."""

from torch import Tensor
from torch.nn import functional as F

from attnviz.attention.layer_input import LayerInput
from attnviz.errors import RecordingError
from attnviz.methods.rollout import of_itself


def similarity(reading: LayerInput) -> Tensor:
    """cos(k_j, Σ_i w_i k_i) of each head, (windows, R, heads, keys).

        k = k of every head                   # (heads, keys, features)
        map = normed(w @ k) @ normed(k).T

    For a single query it is the cosine with the query's own key, so it is 1 at the query itself.
    Keys that heads share are repeated.

    Amir et al. 2021, 2112.05814: the keys of a ViT as descriptors of its patches.

    Raises:
        RecordingError: queries that are no keys.
    """
    _check(reading)
    call = reading.call
    keys = call.key.float().repeat_interleave(call.heads // call.key.shape[1], dim=1)
    return _cosines(reading, keys).transpose(1, 2)


def token_similarity(reading: LayerInput) -> Tensor:
    """cos(x_j, Σ_i w_i x_i) of the tokens after the layer, (windows, R, 1, keys).

        x = tokens after the layer            # (tokens, features)
        map = normed(w @ x) @ normed(x).T

    Amir et al. 2021, 2112.05814.

    Raises:
        RecordingError: queries that are no keys, or tokens that were not kept.
    """
    _check(reading)
    if reading.tokens is None:
        raise RecordingError("the tokens after this layer were not kept; take --method similarity")
    return _cosines(reading, reading.tokens.float()[:, None]).transpose(1, 2)


def _check(reading: LayerInput) -> None:
    if not of_itself(reading):
        raise RecordingError(
            "the queries of this layer are not its keys, so cosines do not apply; take "
            "--method attention"
        )


def _cosines(reading: LayerInput, features: Tensor) -> Tensor:
    """Cosines with the mean of the query, (windows, heads, R, keys), of (windows, heads, N, F)."""
    means = reading.weights.float()[:, None] @ features  # (windows, heads, R, F)
    if reading.key_cells:  # windows of one picture: a region may lie in several of them
        means = means.sum(0, keepdim=True)
    return F.normalize(means, dim=-1) @ F.normalize(features, dim=-1).transpose(-2, -1)
