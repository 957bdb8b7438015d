"""Runs a model lightly watched where there is a plan, else under the full watcher.

While a recording of a model is open, its `forward` is replaced by one that decides how to watch it.
"""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from attnviz.errors import RecordingError
from attnviz.recording.call_store import CallStore
from attnviz.recording.learning import Learner
from attnviz.recording.light_watch import LightWatch, attention_by, is_attention_free
from attnviz.recording.model_blocks import Blocks
from attnviz.recording.outside import HOOKS, tree_of
from attnviz.recording.plan import (
    RunPlan,
    is_compiled,
    leaves_of,
    may_be_learnt,
    state_of_torch,
    versions_of,
)
from attnviz.recording.plan_check import PlanCheck
from attnviz.recording.plans import PLANS
from attnviz.recording.recorded import Recording
from attnviz.recording.watcher import Watcher

_LOCK = threading.Lock()
_OPEN: set[int] = set()
"""The `id` of every model whose `forward` is replaced at present."""


class ModelWatch:
    """How one recording watches its model."""

    def __init__(  # noqa: PLR0917
        self,
        model: nn.Module,
        watcher: Watcher,
        store: CallStore,
        recording: Recording,
        blocks: Blocks | None,
        pictures: Sequence[Tensor],
        time: int | None,
    ) -> None:
        self._model, self._watcher, self._store = model, watcher, store
        self._recording, self._blocks = recording, blocks
        self._pictures, self._time = pictures, time
        self._thread, self._running = threading.get_ident(), False
        self._forward = model.forward
        self._own = model.__dict__.get("forward")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Decide about every run of the model inside this context."""
        model, facts = self._model, self._model.__dict__
        with _LOCK:
            free = id(model) not in _OPEN and not isinstance(model, torch.jit.ScriptModule)
            if free and not is_compiled(model):
                _OPEN.add(id(model))
            else:
                free = False
        if not free:  # another recording of this model is open, or its code is not Python
            yield
            return
        own = facts.get("forward")
        facts["forward"] = run = wraps(self._forward)(partial(ModelWatch._run, self))
        try:
            yield
        finally:
            if facts.get("forward") is run:
                if own is None:
                    del facts["forward"]
                else:
                    facts["forward"] = own
            with _LOCK:
                _OPEN.discard(id(model))

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """The model's `forward`."""
        if self._running or threading.get_ident() != self._thread or not self._alone():
            return self._forward(*args, **kwargs)
        leaves: list[Tensor] = []
        signature = self._signature(args, kwargs, leaves)
        if signature is None:
            return self._forward(*args, **kwargs)
        self._running = True
        try:
            seen, plan = PLANS.get(self._model, signature)
            if plan is not None and not plan.holds(self._model):
                PLANS.forget(self._model, signature)
                seen, plan = False, None
            if not seen and not self._watcher.begun:
                with self._unwatched():
                    plan = PLANS.get_other(self._model, signature)
                if plan is not None:
                    PLANS.put(self._model, signature, plan)
            if plan is not None:
                return self._lightly(plan, signature, leaves, args, kwargs)
            if seen or self._watcher.begun:
                return self._forward(*args, **kwargs)
            return self._learning(signature, leaves, args, kwargs)
        finally:
            self._running = False

    def _alone(self) -> bool:
        """Whether nothing but this recording looks at PyTorch's operators and functions."""
        return (
            _get_current_dispatch_mode() is self._watcher
            and torch._C._len_torch_dispatch_stack() == 1  # noqa: SLF001
            and torch._C._len_torch_function_stack() == 0  # noqa: SLF001
            and torch._C._functorch.peek_interpreter_stack() is None  # noqa: SLF001
            and torch._C._get_tracing_state() is None  # noqa: SLF001
            and is_attention_free()
        )

    def _signature(self, args: Any, kwargs: Any, leaves: list[Tensor]) -> Any:
        """What a plan holds for; None if no plan may be made or used."""
        try:
            inputs = leaves_of(args, leaves), leaves_of(kwargs, leaves)
        except TypeError:
            return None
        where = [[leaf is each for leaf in leaves] for each in self._pictures]
        if not all(map(any, where)) or (self._pictures and self._watcher.begun):
            return None
        pictures = tuple(each.index(True) for each in where)
        of_recording = pictures, self._time, self._blocks is not None
        return (
            *(inputs, of_recording, state_of_torch()),
            *(tree_of(self._model, self._own), HOOKS.of(self._model)),
        )

    def _learning(self, signature: Any, leaves: Sequence[Tensor], args: Any, kwargs: Any) -> Any:
        """Run under the full watcher, and learn the plan."""
        if not may_be_learnt(self._model):
            PLANS.put(self._model, signature, None)
            return self._forward(*args, **kwargs)
        learner = Learner(self._model, leaves, self._own, traced=bool(self._pictures))
        before = self._store.made
        self._set_learner(learner)
        try:
            with learner, attention_by(learner.call):
                result = self._forward(*args, **kwargs)
        finally:
            self._set_learner(None)
        found = _tensors_of(result)
        if self._recording.unread or self._store.made - before != learner.count:
            learner.refuse("attention by other means")
        if not self._watcher.begun or self._watcher.follows(found):
            learner.refuse("a result that is an output of attention")
        positions = self._watcher.positions_of(found)
        plan = learner.plan(self._recording.operators, positions)
        PLANS.put(self._model, signature, plan)
        return result

    def _set_learner(self, learner: Learner | None) -> None:
        self._watcher.learner = self._store.learner = learner
        if self._blocks is not None:
            self._blocks.learner = learner

    def _lightly(
        self, plan: RunPlan, signature: Any, leaves: Sequence[Tensor], args: Any, kwargs: Any
    ) -> Any:
        """Run by the plan; if it does not hold, run again under the full watcher."""
        graph = self._blocks is not None and self._blocks.graph
        keep = self._store.keeps(len(plan.calls))
        watch = LightWatch(plan, keep, self._store.describe, graph=graph)
        check = PlanCheck(plan, leaves) if plan.compares() else None
        numbers, written = _RandomNumbers(leaves, plan.cards), versions_of(leaves)
        with self._unwatched():
            try:
                with watch.watching(), nullcontext() if check is None else check:
                    result = self._forward(*args, **kwargs)
            except BaseException as error:
                holds = watch.held_so_far() and (check is None or not check.deviated)
                if holds or not isinstance(error, Exception):
                    self._store.take(watch.calls)
                    raise
            else:
                holds = watch.holds() and (check is None or check.at_end())
                if holds and self._pictures:
                    found = _tensors_of(result)
                    holds = len(found) == len(plan.positions)
        if not holds:
            return self._again(signature, numbers, written == versions_of(leaves), args, kwargs)
        first = self._store.take(watch.calls)
        if self._blocks is not None:
            self._blocks.found |= {first + n: block for n, block in watch.blocks.items()}
        self._recording.operators[:] = plan.operators
        if self._pictures:
            self._watcher.put_later(found, plan.positions)
        return result

    def _again(
        self, signature: Any, numbers: "_RandomNumbers", same_inputs: bool, args: Any, kwargs: Any
    ) -> Any:
        """Run again under the full watcher, after the plan proved wrong."""
        PLANS.failed(self._model, signature)
        if not same_inputs:
            raise RecordingError(
                "the model took another way than before and changed its inputs, so that it "
                "cannot be recorded after all; run it once more"
            )
        numbers.restore()
        return self._forward(*args, **kwargs)

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        """Inside this context nothing watches PyTorch's operators."""
        self._watcher.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if self._blocks is not None:
            self._blocks.end()
        try:
            yield
        finally:
            if self._blocks is not None:
                self._blocks.begin()
            self._watcher.__enter__()  # type: ignore[no-untyped-call]


def _tensors_of(result: Any) -> list[Tensor]:
    """The tensors of a model's result."""
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


class _RandomNumbers:
    """The state of PyTorch's generators of random numbers."""

    def __init__(self, leaves: Sequence[Tensor], cards: Collection[torch.device]) -> None:
        self._cpu = torch.get_rng_state()
        used = {*cards, *(leaf.device for leaf in leaves if leaf.is_cuda)}
        self._cards = {card: torch.cuda.get_rng_state(card) for card in used}

    def restore(self) -> None:
        """Set the generators back."""
        torch.set_rng_state(self._cpu)
        for card, state in self._cards.items():
            torch.cuda.set_rng_state(state, card)
