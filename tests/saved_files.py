"""A state dict in the forms in which training code saves it."""

import argparse
import datetime
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]


class AttributeDict(dict[str, Any]):
    """As Lightning keeps hyper-parameters: a dict of a class of its own."""


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def with_args(state: State) -> dict[str, Any]:
    args = argparse.Namespace(
        lr=0.1, out=pathlib.PurePosixPath("runs/1"), when=datetime.date.today()
    )
    return {"model": state, "args": args, "best": np.float64(0.5), "epoch": 3}


def lightning(state: State) -> dict[str, Any]:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.5",
        "state_dict": {**prefixed(state, "model."), "criterion.weight": torch.ones(3)},
        "loops": {"fit_loop": {"state_dict": {"x": torch.ones(1)}}},
        "callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": AttributeDict(lr=0.1, wd=np.float32(0.05)),
    }


FORMS: dict[str, tuple[str, Callable[[State], Any]]] = {
    "plain": ("plain.pt", lambda s: s),
    "state_dict": ("nested.pth", lambda s: {"epoch": 3, "state_dict": s}),
    "model and args": ("deit.pth", with_args),
    "Lightning": ("last.ckpt", lightning),
    "DataParallel": ("parallel.pth.tar", lambda s: prefixed(s, "module.")),
    "torch.compile": ("compiled.pt", lambda s: prefixed(s, "_orig_mod.")),
    "bin": ("pytorch_model.bin", lambda s: s),
    "model_ema": ("ema.pth", lambda s: {"model_ema": s, "optimizer": {"state": {}}}),
    "float16": ("half.pt", lambda s: {name: tensor.half() for name, tensor in s.items()}),
}
"""Name of the file, and what `torch.save` gets for a state dict."""


def save(form: str, state: State, folder: pathlib.Path) -> str:
    name, wrap = FORMS[form]
    torch.save(wrap(state), folder / name)
    return str(folder / name)
