"""Applies the options `--mean`, `--std` and `--resize` to a loaded model."""

from dataclasses import replace

from attnviz.errors import UsageError
from attnviz.models.input_size import channel_count
from attnviz.models.model import Model
from attnviz.models.settings import FILTERS, parse_filter, parse_statistic


def with_input_options(
    model: Model, *, mean: str | None, std: str | None, resize: str | None
) -> Model:
    """The model with its number of channels, and with what the options replace.

    Args:
        model: the model.
        mean: the value of its option; None for what the model states.
        std: the same.
        resize: the name of a resampling filter; None for the model's own.

    Raises:
        UsageError: an option has no such value, or neither three numbers nor one for each channel.
    """
    given = {"mean": mean, "std": std, "resize": resize}
    if model.sound is not None and any(given.values()):
        name = next(name for name, text in given.items() if text is not None)
        raise UsageError(
            f"--{name} is of pictures; {model.spec} hears sounds, which its feature extractor "
            "prepares: leave it out"
        )
    channels = channel_count(model.module) if model.channels == 3 else model.channels
    statistics = {
        name: parse_statistic(name, text)
        for name, text in (("mean", mean), ("std", std))
        if text is not None
    }
    for name, numbers in statistics.items():
        if len(numbers) not in (3, channels):
            raise UsageError(
                f"--{name} has {len(numbers)} numbers, and {model.spec} takes {channels} channels; "
                f"give one, or {channels}"
            )
    return replace(
        model,
        channels=channels,
        mean=statistics.get("mean", model.mean),
        std=statistics.get("std", model.std),
        resample=model.resample if resize is None else FILTERS[parse_filter(resize)],
    )
