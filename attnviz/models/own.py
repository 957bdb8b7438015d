"""`py:MODULE:FACTORY`: the user's own nn.Module, or what makes one."""

import contextlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from attnviz.errors import AttnvizError, ModelError, UsageError
from attnviz.models import Request
from attnviz.models.devices import DTYPES, find_device
from attnviz.models.failures import nearest
from attnviz.models.labels import labels_of
from attnviz.models.model import (
    Model,
    has_class_token,
    no_text_tower,
    refuse_options,
)
from attnviz.models.preprocessing import FILTERS, triple
from attnviz.models.weights import load_weights, seeded

SIZE, MULTIPLE = 224, 32


def load(request: Request) -> Model:
    """Load the user's own model, whose code is run; see `attnviz.load_model`."""
    refuse_options(request, patch=True)
    if request.random_weights:
        raise UsageError(
            f"--random-weights: only the factory of {request.spec} knows how weights are drawn; "
            "give a factory that draws them (--seed is set before it is called)"
        )
    if request.head == "text":
        raise no_text_tower(request.spec, "a module of yours is shown pictures alone")
    device, dtype = find_device(request.device), DTYPES[request.dtype]
    where, name = _parts(request.spec)
    with _here():
        with seeded(request.seed):
            found = _found(request.spec, _module(request.spec, where), name)
        # Anew, since a module that was imported before draws nothing now.
        with seeded(request.seed):
            model = _made(request.spec, name, found)
    notes: tuple[str, ...] = ()
    if request.weights is not None:
        notes = load_weights(model, request.weights)
    classifies = request.head == "class" or _may_classify(model)
    said = _said(model)
    prefix = said.get("num_prefix_tokens", int(has_class_token(model)))
    return Model(
        spec=request.spec,
        weights=request.weights or "own",
        module=model.to(device, dtype).eval().requires_grad_(False),
        layers=None,
        heads=None,
        features=None,
        tokens="patches",
        patch=request.patch or _multiple(model, said),
        size=request.size or _size(said),
        prefix=prefix,
        class_token=prefix > 0 and has_class_token(model),
        mean=triple(_first(said, "mean", "image_mean"), 0.5),
        std=triple(_first(said, "std", "image_std"), 0.5),
        resample=_filter(said),
        seed=request.seed,
        head="class" if classifies else "none",
        labels=_labels(model) if classifies else None,
        loaded=None if request.weights is None else 1.0,
        notes=notes,
        device=device,
        dtype=dtype,
    )


def _parts(spec: str) -> tuple[str, str]:
    """`py:MODULE:FACTORY` → module or file, and what is in it."""
    where, _, name = spec.removeprefix("py:").rpartition(":")
    if not where or not name:
        raise UsageError(
            f"--model {spec!r} is not complete; give py:MODULE:FACTORY, such as py:nets.vit:build, "
            "or py:FILE.py:FACTORY"
        )
    return where, name


@contextlib.contextmanager
def _here() -> Iterator[None]:
    """The current folder is searched for modules, as it is by `python -m`."""
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def _module(spec: str, where: str) -> ModuleType:
    """Import a module by its name or its file."""
    if where.endswith(".py"):
        return _file(spec, Path(where))
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{where}.".startswith(f"{error.name}."):
            raise ModelError(
                f"{spec}: no module {where!r} here or among what is installed; go to the folder "
                "that holds it, or give its file: py:FILE.py:FACTORY"
            ) from error
        raise _raised(spec, f"importing {where}", error) from error
    except AttnvizError:
        raise
    except Exception as error:
        raise _raised(spec, f"importing {where}", error) from error


def _file(spec: str, path: Path) -> ModuleType:
    """Import a file; its own folder is searched too, as when it is run."""
    if not path.is_file():
        raise ModelError(f"{spec}: no such file {path}; check the path")
    sys.path.insert(0, str(path.resolve().parent))
    found = importlib.util.spec_from_file_location(path.stem, path)
    if found is None or found.loader is None:
        raise ModelError(f"{spec}: {path} cannot be imported; give a Python file")
    module = importlib.util.module_from_spec(found)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # dataclasses and pickles look their module up
    try:
        found.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(path.stem)
        if before is not None:
            sys.modules[path.stem] = before
        raise _raised(spec, f"importing {path}", error) from error
    return module


def _found(spec: str, module: ModuleType, name: str) -> Any:
    """The attribute of that name, dots and all."""
    value: Any = module
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError as error:
            names = [known for known in dir(value) if not known.startswith("_")]
            close = nearest(part, names or [part])
            raise ModelError(
                f"{spec}: {_title(value)} has no {part!r}{close}; give the name of a module or of "
                "a function that returns one"
            ) from error
    return value


def _made(spec: str, name: str, value: Any) -> nn.Module:
    """The module itself, or what the factory returns when called with nothing."""
    if not isinstance(value, nn.Module):
        if not callable(value):
            raise ModelError(
                f"{spec}: {name} is {_title(value)}, neither an nn.Module nor callable; give what "
                "is one, or returns one"
            )
        try:
            value = value()
        except Exception as error:
            raise _raised(spec, f"calling {name}()", error) from error
    if not isinstance(value, nn.Module):
        raise ModelError(
            f"{spec}: {name}() returned {_title(value)}, not an nn.Module; have it return the model"
        )
    return value


def _title(value: Any) -> str:
    if isinstance(value, ModuleType | type):
        return value.__name__
    return f"a value of type {type(value).__name__}"


def _raised(spec: str, what: str, error: Exception) -> ModelError:
    """A line about an error of the user's own code, with the line it came from."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    file, number = frames[-1]
    reason = " ".join(str(error).split())[:200]
    return ModelError(
        f"{spec}: {what} raised {type(error).__name__}: {reason} ({Path(file).name}, line "
        f"{number}); mend it, or see the traceback with --debug"
    )


def _may_classify(model: nn.Module) -> bool:
    """Whether nothing says that it gives no logits; what it gives is seen when it runs."""
    without_head = isinstance(getattr(model, "head", None), nn.Identity)
    return not without_head and getattr(model, "num_classes", None) != 0


def _labels(model: nn.Module) -> tuple[str, ...] | None:
    """Names of its classes, from its own `labels` or its config's `id2label`."""
    config = getattr(model, "config", None)
    return labels_of(getattr(model, "labels", None)) or labels_of(getattr(config, "id2label", None))


def _said(model: nn.Module) -> dict[str, Any]:
    """What the module says of its input: its own attributes, then those of its configs."""
    said: dict[str, Any] = {}
    for source in ("config", "default_cfg", "pretrained_cfg"):
        value = getattr(model, source, None)
        said |= value if isinstance(value, dict) else getattr(value, "__dict__", {})
    names = (
        "mean", "std", "image_mean", "image_std", "input_size", "image_size", "img_size",
        "patch_size", "interpolation", "num_prefix_tokens",
    )  # fmt: skip
    said |= {name: getattr(model, name) for name in names if hasattr(model, name)}
    embedding = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if said.get("patch_size") is None and embedding is not None:
        said["patch_size"] = embedding
    return {name: said[name] for name in names if said.get(name) is not None}


def _first(said: dict[str, Any], *names: str) -> Any:
    return next((_plain(said[name]) for name in names if name in said), None)


def _plain(value: Any) -> Any:
    """Numbers of a tensor or an array, such as a buffer (3, 1, 1), as a list."""
    return value.flatten().tolist() if hasattr(value, "flatten") else value


def _sides(value: Any) -> list[int]:
    return [int(side) for side in (value if isinstance(value, list | tuple) else [value])]


def _size(said: dict[str, Any]) -> int:
    """Side of a square of as many pixels as the input that the module says it has, else 224."""
    value = _first(said, "input_size", "image_size", "img_size")
    if value is None:
        return SIZE
    sides = _sides(value)[-2:]  # timm says (3, height, width)
    return round(math.pow(math.prod(sides), 1 / len(sides)))


def _multiple(model: nn.Module, said: dict[str, Any]) -> int:
    """What the sides of the input are rounded to: what the module says, or embeds patches by."""
    if "patch_size" in said:
        return math.lcm(*_sides(_plain(said["patch_size"])))
    convolutions = (part for part in model.modules() if isinstance(part, nn.Conv2d))
    first = next((part for part in convolutions if part.in_channels == 3), None)
    if first is None or first.kernel_size != first.stride:
        return MULTIPLE
    return math.lcm(*_sides(first.stride))


def _filter(said: dict[str, Any]) -> int:
    return FILTERS.get(str(said.get("interpolation")), FILTERS["bicubic"])
