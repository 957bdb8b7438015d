"""Fits the basis of `pca` to the tokens of many pictures, in memory that does not grow."""

from collections.abc import Callable, Iterable
from typing import Any

from attnviz.errors import UsageError
from attnviz.explanation.observation import Observation
from attnviz.explanation.query_weights import read
from attnviz.explanation.selection import requested_layers
from attnviz.methods import complete_settings
from attnviz.methods.bases import Axes, Basis, TokenSums
from attnviz.methods.components import chosen_tokens, on_border, tokens_of
from attnviz.models.model import Model


def fit_basis(
    observations: Callable[[], Iterable[Observation]], layers: str = "auto", **options: Any
) -> Basis:
    """The principal axes of the tokens of several pictures, for `--basis FILE`.

    Sums over tokens are kept, not tokens. With a foreground the pictures are gone through twice:
    the first component of all tokens decides which tokens the axes are of.

    >>> basis = fit_basis(lambda: [observation], of="keys")
    >>> basis.whole[5].axes.shape                              # components, features
    torch.Size([16, 192])

    Args:
        observations: returns the observations, each time from the first one on.
        layers: as of `explain`.
        options: options of `pca`: `of`, `foreground`, `outliers`.

    Raises:
        UsageError: there is no picture, or their tokens differ in width.
        RecordingError: the tokens of a layer were not kept.
    """
    settings = complete_settings("pca", options)
    model, whole = _axes(observations, layers, settings, None)
    over = settings["foreground"]
    part = {} if over is None else _axes(observations, layers, settings, whole)[1]
    return Basis(settings["of"], whole, part, over, model.spec, model.digests)


def _axes(
    observations: Callable[[], Iterable[Observation]],
    layers: str,
    settings: dict[str, Any],
    whole: dict[int, Axes] | None,
) -> tuple[Model, dict[int, Axes]]:
    """The model, and the axes of each layer: of all tokens, or of the foreground by `whole`."""
    sums: dict[int, TokenSums] = {}
    model: Model | None = None
    for observation in observations():
        model = observation.model
        chosen_layers = observation.calls.choose(requested_layers(layers, "all"))
        for number, reading in read(observation, chosen_layers, {}).items():
            chosen = chosen_tokens(reading, settings["outliers"])
            x, border = tokens_of(reading, settings["of"])[chosen], on_border(reading, chosen)
            if whole is not None:
                part = (whole[number].scores(x.cpu())[:, 0] > settings["foreground"]).to(x.device)
                x, border = x[part], border[part.to(border.device)]
            sums.setdefault(number, TokenSums()).add(x, border)
    if model is None:
        raise UsageError("--basis: no picture can be read to make it of; name some")
    return model, {number: each.axes(oriented=whole is None) for number, each in sums.items()}
