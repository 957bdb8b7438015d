"""Everything that can be wrong with another person's package."""

from typing import Any, NoReturn

from attnviz.batch.finalizers import Finalizer
from attnviz.evaluation import Metric
from attnviz.methods import Method
from attnviz.registry import Option, TableEntry
from attnviz.statistics import MapNumber, Statistic


def fail(*_: Any, **__: Any) -> NoReturn:
    raise KeyError("no such\nthing")


def one(*_: Any) -> list[float]:
    return [1.0]


def nothing(*_: Any) -> None:
    return None


WHERE = "attnviz_broken:fail", "what fails", "nowhere"
METHOD = Method(*WHERE)
CLASHES = Method(*WHERE, options=(Option("layers", int, 0, "The same as another option."),))
NOT_AN_ENTRY = "attnviz_broken:fail"
STATISTIC = Statistic(*WHERE)
MISSHAPEN = Statistic("attnviz_broken:one", "one number", "nowhere")
MAP_NUMBER = MapNumber(*WHERE)
FORMAT = TableEntry("attnviz_broken:nothing", "no bytes", "nowhere")
METRIC = Metric(*WHERE)
FINALIZER = Finalizer(*WHERE, always=True)
