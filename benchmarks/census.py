"""Loads every vision type of transformers and observes a picture, or a clip, with it.

    python benchmarks/census.py [TYPE …] [--seconds 60] [--file FILE] [--write]

A type is one that some Auto class of transformers maps to a model that takes pixels first or
classifies images; also one that takes pixels beside other inputs and writes no text. A model is
made from its default config with few layers and random weights, saved to a folder (weights too if
there are few), and loaded and observed as a user would. Each type has a process and limits of CPU
time and memory of its own. `--file` appends a line of JSON for each type as soon as it is done;
types that the file has already are not measured again. `--write` puts the table into RESULTS.md.
"""

import argparse
import copy
import json
import multiprocessing
import re
import resource
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import attnviz
from attnviz.io.clip_frames import ClipFrames
from attnviz.io.clips import Clip, Frame
from attnviz.models.auto_classes import class_of, find_class
from attnviz.models.vision import parameters_of, sees

RESULTS = Path(__file__).parent / "RESULTS.md"
CAT = Path(__file__).parents[1] / "sample_images" / "cat.jpg"
MEMORY = 9 * 2**30
"""Bytes of address space of each process."""
LAYERS = re.compile(r"(^|_)(num_(hidden_)?layers|(en|de)coder_layers|depth|num_blocks)$")
"""Names of numbers of layers in configs, which are made small."""
LARGE = 20_000_000
"""Of a model of more parameters the config alone is saved, to be fast."""
CROP: dict[str, Any] = {"model_type": "dinov2", "image_size": 112}
MENDED: dict[str, dict[str, Any]] = {
    "depth_pro": {
        "patch_size": 112,
        "intermediate_hook_ids": [3, 1],
        **{f"{name}_model_config": CROP for name in ("image", "patch", "fov")},
    },
    "lw_detr": {"projector_scale_factors": [1.0]},
    "pp_ocrv6_small_det": {
        "backbone_config": {
            "model_type": "pp_lcnet_v3",
            "scale": 0.75,
            "divisor": 16,
            "out_features": ["stage2", "stage3", "stage4", "stage5"],
        },
        "layer_list_out_channels": [48, 96, 192, 384],
    },
    "uvdoc": {
        "backbone_config": {"model_type": "uvdoc_backbone", "out_indices": [1, 2, 3, 4, 5, 6]}
    },
    "pp_doclayout_v2": {"class_thresholds": [0.5, 0.5], "class_order": [0, 1]},
    "vitmatte": {"hidden_size": 768, "fusion_hidden_sizes": [256, 128, 64, 32]},
}
"""Arguments of configs whose defaults transformers itself cannot run, or that are too large."""
FEW, SHORT = 4, 2
"""Layers of a shrunken model, and layers of each stage."""
LONGEST = 300
"""Characters of what is printed of a type."""
WRITING = ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForCausalLM",
           "AutoModelForSeq2SeqLM")  # fmt: skip
"""Auto classes of models that write text, which are another matter."""
KINDS = ("works", "no attention", "needs more", "refused", "not built")
NEEDS = (
    "takes more than a picture",
    "takes pairs of pictures",
    "takes no pictures",
    "a model of timm",
)


def types() -> Iterator[str]:
    """Names of the vision types of the installed transformers."""
    autos = [
        auto
        for name in dir(modeling_auto)
        if name.startswith("Auto")
        and hasattr(auto := getattr(modeling_auto, name), "_model_mapping")
    ]
    for name in sorted(CONFIG_MAPPING.keys()):
        try:
            kind = CONFIG_MAPPING[name]
            config = kind()
            of = {auto: class_of(auto, config) for auto in autos if kind in auto._model_mapping}  # noqa: SLF001
            writes = any(getattr(modeling_auto, auto, None) in of for auto in WRITING)
            if (
                any(map(sees, of.values()))
                or kind in modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
                or (not writes and any(sees_too(config, each) for each in of.values()))
            ):
                yield name
        except Exception as error:  # a library that it needs is not installed
            print(f"# {name}: {type(error).__name__}", flush=True)


def sees_too(config: Any, kind: Any) -> bool:
    """Whether a model class takes pixels beside other inputs."""
    pixels = any(name.startswith("pixel_values") for name in parameters_of(kind))
    return pixels or hasattr(config, "vision_config")


def shrunk(config: Any, few: int = FEW) -> Any:
    """A config with few layers, also in the configs inside it."""
    if hasattr(config, "stage_names") and hasattr(config, "num_hidden_layers"):
        return _backbone(config, few)
    for name, value in list(vars(config).items()):
        if isinstance(value, transformers.PreTrainedConfig):
            shrunk(value, few)
        elif name.endswith("_types") and isinstance(value, list):  # of each layer
            setattr(config, name, value[:few])
        elif LAYERS.search(name) and isinstance(value, int):
            setattr(config, name, min(value, few))
        elif name in ("depths", "depth") and isinstance(value, list | tuple):
            setattr(config, name, [min(each, SHORT) for each in value])
        elif name == "vocab_size":
            setattr(config, name, min(value, 1000))
    return config


def _backbone(config: Any, few: int) -> Any:
    """The config of a plain backbone with few layers, whose last ones are the output."""
    outputs = len(config.out_indices or [1])
    config.num_hidden_layers = count = min(config.num_hidden_layers, max(few, outputs))
    config.stage_names = ["stem", *(f"stage{number}" for number in range(1, count + 1))]
    config.set_output_features_output_indices(None, list(range(count - outputs + 1, count + 1)))
    return config


def without_timm(config: Any) -> Any:
    """A config whose backbone of timm is a ResNet of transformers."""
    inner: Any = getattr(config, "backbone_config", None)
    if getattr(inner, "model_type", "") == "timm_backbone":
        backbone: Any = transformers.ResNetConfig
        config.backbone_config = backbone(out_indices=list(inner.out_indices))
    return config


def built(name: str) -> tuple[Any, str]:
    """A small model of a type, and what was changed in its default config beside numbers.

    It has the default number of layers if it is not consistent when it is small. A model of more
    than `LARGE` parameters has no memory.
    """
    errors, mended = [], MENDED.get(name, {})
    more = "".join(f"; {k}={v}" for k, v in mended.items() if not isinstance(v, dict))
    ways: dict[Callable[[Any], Any], str] = {
        shrunk: "",
        lambda each: shrunk(each, 12): "",
        lambda each: each: "",
        lambda each: shrunk(without_timm(each)): "; ResNet in place of timm's backbone",
    }
    for shrink, change in ways.items():
        try:
            made: Any = CONFIG_MAPPING[name]
            config = shrink(made(**mended))
            config = type(config).from_dict(config.to_dict())  # as it is read again
            kind: Any = find_class(transformers, name, config)
            with torch.device("meta"):
                model = kind._from_config(copy.deepcopy(config))  # noqa: SLF001
            if sum(parameter.numel() for parameter in model.parameters()) > LARGE:
                return model, more + change
            torch.manual_seed(0)
            return kind._from_config(config), more + change  # noqa: SLF001
        except attnviz.AttnvizError:
            raise
        except Exception as error:
            errors.append(error)
    raise errors[0]


def observed(name: str) -> tuple[str, str]:
    """What becomes of a type: one of `KINDS`, and details."""
    try:
        model, change = built(name)
    except attnviz.AttnvizError as error:
        return kind_of(str(error)), str(error)
    except ImportError as error:
        library = re.search(r"requires the (\S+) library", str(error))
        return "not built", f"needs {library[1]}" if library else f"ImportError: {error}"
    except Exception as error:
        return "not built", f"{type(error).__name__}: {error}"
    large = sum(parameter.numel() for parameter in model.parameters()) > LARGE
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        try:
            (model.config if large else model).save_pretrained(folder)
            del model
            loaded = attnviz.load_model(folder, random_weights=large)
            picture = attnviz.load_image(str(CAT))
            seen = attnviz.observe(
                moving(picture, loaded.clip.frames) if loaded.clip else picture, loaded
            )
        except attnviz.AttnvizError as error:
            line = str(error).replace(folder, "").lstrip(": ")
            return kind_of(line), line + change
        except Exception as error:
            return "refused", f"a fault of attnviz: {type(error).__name__}: {error}"
    return "works", described(seen) + change


def moving(picture: attnviz.Picture, count: int) -> ClipFrames:
    """A clip of so many frames, in which a picture moves to the right."""
    frames = [
        Frame(n, replace(picture, pixels=np.roll(picture.pixels, 8 * n, 1)), n, 1)
        for n in range(count)
    ]
    rate = Fraction(25)
    clip = Clip("clip.mp4", picture.width, picture.height, rate, 1 / rate, True, count, ())
    return ClipFrames(clip, tuple(frames))


def described(seen: Any) -> str:
    """Layers, grids and errors of an observation, and why calls are not drawn."""
    layers = list(seen.layers.values())
    grids = dict.fromkeys(
        f"{each.queries.columns}×{each.queries.rows}"
        + (f"×{each.queries.views} in time" if each.queries.moments else "")
        for each in layers
    )
    checked = "unchecked" if seen.unexplained else f"{max(seen.errors.values()):.0e}"
    parts = [f"{len(layers)} of {seen.count} layers, {', '.join(grids)}, error {checked}"]
    counts = Counter(seen.calls.not_drawn.values())
    parts += [f"{count} not drawn: {reason}" for reason, count in counts.items()]
    parts += [f"places of {len(assumed)} assumed" for assumed in [seen.calls.assumed] if assumed]
    return "; ".join([*parts, *seen.unread])


def kind_of(line: str) -> str:
    if any(each in line for each in NEEDS):
        return "needs more"
    return "no attention" if "made no attention call:" in line else "refused"


def work(name: str, results: Any, seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    results.put(observed(name))


def limited(name: str, seconds: int) -> tuple[str, str]:
    """What becomes of a type, in a process of its own."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=work, args=(name, results, seconds))
    process.start()
    process.join()
    if results.empty():
        return "refused", f"not done within {seconds} s of CPU time, or {MEMORY >> 30} GiB"
    found: tuple[str, str] = results.get()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    observed("vit")  # imports once what all need
    done = read(options.file)
    names = options.types or list(types())
    for name in names:
        if name not in done:
            kind, what = limited(name, options.seconds)
            done[name] = kind, " ".join(what.split())[:LONGEST].replace("|", "/")
            append(options.file, name, *done[name])
        print(row(name, *done[name]), flush=True)
    found = {name: done[name] for name in names}
    counts = Counter(kind for kind, _ in found.values())
    total = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS)
    print(f"\n{len(found)} types: {total}")
    if options.write:
        write(f"transformers {transformers.__version__}: {len(found)} types: {total}.", found)


def read(file: Path | None) -> dict[str, tuple[str, str]]:
    """What an earlier run found of each type; the last line of a type counts."""
    if file is None or not file.exists():
        return {}
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {line["type"]: (line["kind"], line["what"]) for line in lines}


def append(file: Path | None, name: str, kind: str, what: str) -> None:
    if file is not None:
        with file.open("a", encoding="utf-8") as lines:
            line = {"type": name, "kind": kind, "what": what}
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def row(name: str, kind: str, what: str) -> str:
    return f"| {name} | {kind} | {what} |"


def write(total: str, found: dict[str, tuple[str, str]]) -> None:
    text = RESULTS.read_text(encoding="utf-8")
    table = [row(name, *found[name]) for kind in KINDS for name in found if found[name][0] == kind]
    lines = [total, "", "| type | | |", "|---|---|---|", *table]
    part = re.compile(r"(?s)<!-- census -->.*?<!-- /census -->")
    new = "<!-- census -->\n" + "\n".join(lines) + "\n<!-- /census -->"
    RESULTS.write_text(part.sub(lambda _: new, text), encoding="utf-8")


if __name__ == "__main__":
    main()
