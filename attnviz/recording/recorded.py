"""`Recording`, the result of `record`, and its HTML tables for notebooks."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, overload

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attribution.call_gradients import JoinedTrace, Trace, calls_behind, gradients
from attnviz.errors import RecordingError, UsageError
from attnviz.recording.model_blocks import Block, Blocks


class Recording(Sequence[AttentionCall]):
    """The attention calls of one model run, in call order.

    >>> with attnviz.record() as recording:
    ...     logits = model(pixels)
    >>> recording
    Recording(4 attention calls)

    Attributes:
        unread: descriptions of what looks like attention but is not softmax(q·kᵀ)·v over tokens.
        descriptions: the result of `record(describe=…)` for each call.
        operators: names of operators that lost the positions of tokens. If x of a position is
            infinite, y is an index into this list.
        places_of: while the model runs: places (…, 2) of tokens (…, features), and numbers of their
            pictures, if there are several; None if they are not known.
    """

    def __init__(
        self,
        calls: Sequence[AttentionCall | None] = (),
        traces: Sequence[Trace | JoinedTrace | None] | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        self._calls, self._traces, self._blocks = calls, traces, blocks
        self.unread: list[str] = []
        self.descriptions: list[Any] = []
        self.operators: list[str] = []
        self.places_of: Callable[[Tensor], tuple[Tensor, Tensor | None] | None] = _not_recording

    def __len__(self) -> int:
        return len(self._calls)

    @overload
    def __getitem__(self, index: int) -> AttentionCall: ...

    @overload
    def __getitem__(self, index: slice) -> "Recording": ...

    def __getitem__(self, index: int | slice) -> "AttentionCall | Recording":
        if isinstance(index, slice):
            traces = self._traces
            return Recording(self._calls[index], None if traces is None else traces[index])
        call = self._calls[index]
        if call is None:
            raise RecordingError(f"call {index} was not kept; name it in record(calls=…)")
        return call

    def choose(self, numbers: Sequence[int]) -> "Recording":
        """The recording of some calls, in this order."""
        traces = self._traces
        chosen = None if traces is None else [traces[number] for number in numbers]
        found = Recording([self._calls[number] for number in numbers], chosen)
        found.unread, found.operators = self.unread, self.operators
        return found

    def behind(self, output: Tensor, number: int) -> set[int]:
        """Numbers of the calls that the output of a call depends on.

        Args:
            output: a result of the model with its graph; tensors that the graph saves are not used.
            number: the number of the call.

        Raises:
            UsageError: the recording was made without `gradients`.
        """
        if self._traces is None:
            raise UsageError("no gradients were asked for; record with record(gradients=True)")
        assert output.grad_fn is not None
        return calls_behind(output.grad_fn, self._traces, number)

    def is_kept(self, number: int) -> bool:
        """Whether a call's tensors were kept."""
        return self._calls[number] is not None

    def __repr__(self) -> str:
        return f"Recording({len(self)} attention calls)"

    def _repr_html_(self) -> str:
        """An HTML table for notebooks, with a row for each call; it has no pictures."""
        calls = dict(enumerate(self._calls))
        errors = {n: None if call is None else call.check() for n, call in calls.items()}
        return call_table(repr(self), "call", calls, errors)

    @property
    def blocks(self) -> dict[int, Block]:
        """The block of each call that counts, by the call's number; the call need not be kept.

        A block is the outermost element of an nn.ModuleList or nn.Sequential that makes this call
        and no other. Calls outside of such elements (attention pools) have none.

        Raises:
            UsageError: the recording was made without `blocks`.
            RecordingError: a block's input or output was kept with its graph, and the model
                overwrote it.
        """
        if self._blocks is None:
            raise UsageError("no blocks were asked for; record with record(blocks=model)")
        if self._blocks.spoiled:
            raise RecordingError(
                f"the model overwrites the tokens of the block of call {min(self._blocks.spoiled)};"
                " blocks of such a model are kept without gradients=True only"
            )
        return dict(self._blocks.found)

    def gradients(self, score: Tensor, *, calls: Sequence[int] | None = None) -> dict[int, Tensor]:
        """∂score/∂output of calls, laid out as their outputs are, (B, Hv, Nq, Dv).

        Autograd's backward pass stops at the first requested call. The graph is kept, so other
        scores of the same run can follow. Calls that the score does not depend on are left out.

        Args:
            score: one number that is computed from the model's result.
            calls: numbers of the calls, negative from the end; by default all kept calls.

        >>> with attnviz.record(gradients=True) as recording:
        ...     logits = model(pixels.requires_grad_())
        >>> found = recording.gradients(logits[:, 281].sum(), calls=[-1])
        >>> call = replace(recording[-1], gradient=found[len(recording) - 1])
        >>> call.weight_gradient([0]).shape      # (batch, heads, 1, keys)
        torch.Size([1, 2, 1, 197])

        Raises:
            UsageError: the recording was made without `gradients`, or the score is more than one
                number.
            RecordingError: the gradient of a call cannot be computed, or a call was not kept.
        """
        if self._traces is None:
            raise UsageError("no gradients were asked for; record with record(gradients=True)")
        if calls is None:
            numbers = [number for number, call in enumerate(self._calls) if call is not None]
        else:
            numbers = [range(len(self))[number] for number in calls]
        calls_kept = {number: self[number] for number in numbers}
        found = gradients(score, {number: self._traces[number] for number in numbers})
        outputs = {number: call.output for number, call in calls_kept.items()}
        return {
            number: gradient if (output := outputs[number]) is None else gradient.to(output.device)
            for number, gradient in found.items()
        }


def _not_recording(_: Tensor) -> None:
    """Nothing is known when no model runs."""


Value = str | float | None


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    """A table as HTML; numbers have four digits, missing values are dashes.

    >>> table("heads", ["layer", "entropy"], [[5, 4.71168]])  # doctest: +ELLIPSIS
    '<table><caption ...>heads</caption><thead><tr>...<td ...>5</td><td ...>4.712</td>...'
    """
    head = "".join(f'<th style="text-align:right">{escape(each)}</th>' for each in headings)
    body = "".join(
        "<tr>"
        + "".join(f'<td style="text-align:right">{escape(_cell_text(one))}</td>' for one in row)
        + "</tr>"
        for row in rows
    )
    return (
        f'<table><caption style="text-align:left">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell_text(value: Value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_HEADINGS = (
    "batch", "heads", "queries × keys", "features", "scale", "bias", "type", "error of A·V",
)  # fmt: skip


def call_table(
    caption: str,
    what: str,
    calls: Mapping[int, AttentionCall | None],
    errors: Mapping[int, float | None],
) -> str:
    """An HTML table with a row per call; `errors`: how far A·V is from the model's output."""
    rows = [[str(number), *_row(call, errors.get(number))] for number, call in calls.items()]
    return table(caption, [what, *_HEADINGS], rows)


def _row(call: AttentionCall | None, error: float | None) -> list[Value]:
    if call is None:
        return ["not kept", *[None] * (len(_HEADINGS) - 1)]
    batch, heads, queries, keys = call.shape
    groups = call.key.shape[1]
    return [
        str(batch),
        str(heads) if groups == heads else f"{heads} ({groups} of keys)",
        f"{queries} × {keys}",
        str(call.query.shape[3]),
        float(call.scale),
        _bias(call),
        str(call.query.dtype).removeprefix("torch."),
        None if error is None else f"{error:.1e}",
    ]


def _bias(call: AttentionCall) -> str | None:
    """The kinds of bias and mask of a call, in words; None if it has none."""
    kinds = ["causal"] if call.causal else []
    if call.bias is not None:
        kinds.append("mask" if call.bias.dtype == torch.bool else "bias")
    return ", ".join(kinds) or None
