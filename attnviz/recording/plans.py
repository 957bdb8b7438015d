"""The plans of each model, by signature."""

import threading
import weakref
from typing import Any

from torch import nn

from attnviz.recording.other_batches import for_any_number, plan_for
from attnviz.recording.outside import PLANS_NAME
from attnviz.recording.plan import RunPlan

_FAILURES = 3
"""After so many plans of a module that did not hold, failing ones are not made again."""
_PLANS = 16
"""For so many signatures of a module there is a plan; the oldest is dropped first."""


class _PlansOfOne:
    """The plans of one module.

    They are kept in the module itself. A plan holds much that the module's code reads, and by that
    it may hold the module; a dictionary elsewhere would keep both for ever.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = weakref.ref(module)
        self.found: dict[Any, RunPlan | None] = {}
        self.failures = 0
        self.others = True
        """Whether plans are made for other numbers of pictures than were learnt."""

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ()  # a copy of the module, or a file of it, has no plans


class Plans:
    """Plans of modules, by signature, for as long as the modules live."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @staticmethod
    def _of(module: nn.Module) -> _PlansOfOne:
        plans = module.__dict__.get(PLANS_NAME)
        if plans.__class__ is not _PlansOfOne or plans.module() is not module:
            plans = module.__dict__[PLANS_NAME] = _PlansOfOne(module)
        return plans

    def get(self, module: nn.Module, signature: Any) -> tuple[bool, RunPlan | None]:
        """Whether a signature was seen before, and its plan; None if it has none."""
        with self._lock:
            found = self._of(module).found
            return signature in found, found.get(signature)

    def get_other(self, module: nn.Module, signature: Any) -> RunPlan | None:
        """The plan of a new signature, made of one for another number of pictures, or None."""
        with self._lock:
            plans = self._of(module)
            now, rest = for_any_number(signature)
            if not (now and plans.others):
                return None
            for other, plan in plans.found.items():
                if plan is None or plan.pictures is not None:
                    continue
                before, same = for_any_number(other)
                if before and same == rest and plan.holds(module):
                    found = plan_for(plan, before, now)
                    if found is not None:
                        return found
        return None

    def put(self, module: nn.Module, signature: Any, plan: RunPlan | None) -> None:
        """Set the plan of a signature; None if it has none."""
        with self._lock:
            found = self._of(module).found
            found.pop(signature, None)
            found[signature] = plan
            if len(found) > _PLANS:
                del found[next(iter(found))]

    def failed(self, module: nn.Module, signature: Any) -> None:
        """A plan did not hold: learn it anew, or, if that happens often, no more."""
        with self._lock:
            plans = self._of(module)
            plan = plans.found.get(signature)
            if plan is None or plan.pictures is None:
                plans.failures += 1
            else:
                plans.others = False
        if plans.failures > _FAILURES:
            self.put(module, signature, None)
        else:
            self.forget(module, signature)

    def forget(self, module: nn.Module, signature: Any) -> None:
        """Learn a signature anew."""
        with self._lock:
            self._of(module).found.pop(signature, None)


PLANS = Plans()
