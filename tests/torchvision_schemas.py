"""torchvision and timm for tests, also where torchvision was built for another torch.

A torchvision with CUDA beside a torch without it cannot load its own operators, and then fails to
import, since two of them get a Python part. With their schemas defined it imports, and all that the
tests use works. The product never does this.
"""

import importlib
import importlib.util
import sys
import warnings
from typing import Any

import pytest
import torch

_SCHEMAS = [
    f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")
]
_library: list[Any] = []  # gone schemas would take the imported module with them


def import_or_skip(name: str) -> Any:
    """timm, torchvision or a part of them; the module that asks is skipped where they are not."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # operators that could not be loaded
        try:
            importlib.import_module("torchvision")
        except RuntimeError:
            for half in [part for part in sys.modules if part.partition(".")[0] == "torchvision"]:
                del sys.modules[half]
            make: Any = torch.library.Library
            library = make("torchvision", "FRAGMENT")
            for schema in _SCHEMAS:
                library.define(schema)
            _library.append(library)
        return importlib.import_module(name)
