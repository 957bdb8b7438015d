"""Compile the kernels for a card, without one, and print their names."""

import tempfile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from attnviz.attention import kernel, triton_kernels
from attnviz.attention.sweep import CallTensors, SweepRequest

TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    float: "fp32",
    int: "i32",
}
OPTIONS = ("num_warps", "num_stages")


def compile_for(name: str, arguments: dict[str, Any]) -> None:
    """Compile one kernel with the arguments that it is launched with."""
    function = getattr(triton_kernels, name)
    fixed = {each.num: arguments[each.name] for each in function.params if each.is_constexpr}
    signature = {
        each.name: "constexpr"
        if each.is_constexpr
        else TYPES[getattr(arguments[each.name], "dtype", type(arguments[each.name]))]
        for each in function.params
    }
    source = ASTSource(
        fn=function, signature=signature, constexprs={(number,): v for number, v in fixed.items()}
    )
    triton.compile(
        source,
        target=GPUTarget("cuda", 90, 32),
        options={option: arguments[option] for option in OPTIONS},
    )
    print(name)


def main() -> None:
    """All that a call and a request may have, in half precision, with pairs of heads."""
    launched: list[tuple[str, dict[str, Any]]] = []

    def launch(name: str, _programs: int, _scores: int, given: dict[str, Any], *_: Any) -> None:
        launched.append((name, given | {"first": 0}))

    kernel._launch = launch  # type: ignore[assignment]
    query = torch.rand(2, 4, 40, 16, dtype=torch.bfloat16)
    bias = torch.zeros(2, 1, 40, 40)
    call = CallTensors(query, query[:, :2], query, 0.5, bias=bias, causal=True)
    some = torch.rand(40) > 0.5
    asked = SweepRequest(some, some, (torch.rand(40, 2),) * 2, some, torch.rand(2, 40), True)
    kernel._sweep(call, asked, None)
    for name, arguments in launched:
        compile_for(name, arguments)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        triton.knobs.cache.dir = folder
        main()
