"""The parts of a record that say what was seen, by which model, and whether to trust it."""

import os
from collections.abc import Sequence

from attnviz.explanation.observation import Observation
from attnviz.io.picture import PictureLike
from attnviz.models.settings import FILTERS
from attnviz.output import record_parts


def check_info(observation: Observation, layers: Sequence[int] | None = None) -> record_parts.Check:
    """Whether the maps of some layers, or of all, can be trusted; and what is not drawn."""
    chosen = {
        number: layer
        for number, layer in observation.layers.items()
        if layers is None or number in layers
    }
    assumed = [layer.assumed for layer in chosen.values() if layer.assumed is not None]
    calls = [*observation.calls.not_drawn.items(), *((None, what) for what in observation.unread)]
    covers = {number: layer.keys.cover for number, layer in chosen.items()}
    return record_parts.Check(
        verified=not observation.unexplained,
        max_error=max(observation.errors.values()),
        places="assumed" if assumed else "measured",
        places_reason=assumed[0] if assumed else None,
        loaded=observation.model.loaded,
        load_notes=list(observation.model.notes) or None,
        not_drawn=[record_parts.NotDrawn(layer=n, reason=reason) for n, reason in calls],
        merged=[n for n, each in covers.items() if each is not None and not each.grids] or None,
        uneven=[n for n, layer in chosen.items() if layer.keys.uneven] or None,
    )


def image_info(picture: PictureLike) -> record_parts.Image:
    """The record's part about the picture."""
    sound, reduced = picture.sound, getattr(picture, "reduced", 1)
    return record_parts.Image(
        path=readable(picture.path),
        width=picture.width,
        height=picture.height,
        range=picture.range,
        channels=picture.part.channels,
        slice=picture.part.slice,
        region=picture.part.region,
        reduced=reduced if reduced > 1 else None,
        duration=None if sound is None else sound.duration,
        seconds=None if sound is None else (sound.time(0), sound.time(picture.width)),
        hertz=None if sound is None else list(sound.hertz),
    )


def model_info(observation: Observation) -> record_parts.ModelInfo:
    """The record's part about the model."""
    model = observation.model
    return record_parts.ModelInfo(
        spec=model.spec,
        weights=readable(model.weights),
        layers=observation.count,
        heads=max(layer.call.heads for layer in observation.layers.values()),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        features=model.features,
        seed=model.seed,
    )


def preprocessing_info(observation: Observation) -> record_parts.Preprocessing | None:
    """How the model's input was made of the picture; None if its own processor made it."""
    if observation.model.sound is not None or observation.model.words is not None:
        return None
    channels, model = observation.channels, observation.model
    mean, std = (numbers.tolist() for numbers in model.statistics(channels))
    names = {number: name for name, number in FILTERS.items()}
    return record_parts.Preprocessing(
        channels=channels, mean=mean, std=std, resize=names[model.resample]
    )


def text_info(observation: Observation) -> record_parts.TextInfo | None:
    """Prompt and answer; None if the model was asked nothing."""
    text, baseline = observation.text, observation.baseline
    if text is None:
        return None
    return record_parts.TextInfo(
        prompt=text.prompt,
        answer=text.answer,
        baseline_prompt=None if baseline is None or baseline.text is None else baseline.text.prompt,
        learned_queries=observation.learned_queries or None,
        prompt_tokens=text.prompt_tokens,
        tokens=text.tokens,
        agrees=text.agrees,
        cut=text.cut,
        words=[
            record_parts.WordInfo(
                word=word.word,
                start=word.start,
                end=word.end,
                tokens=list(word.tokens),
                logprob=word.logprob,
            )
            for word in text.words
        ],
        image_layer=observation.image_layer,
        layers=[
            record_parts.LayerMass(layer=number, image_mass=mass)
            for number, mass in observation.image_mass.items()
        ],
    )


def readable(path: str) -> str:
    """A path as text; bytes of it that are not valid text are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")
