"""Options that choose where a batch runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from attnviz.cli.options.groups import option
from attnviz.cli.options.panels import MACHINE
from attnviz.errors import UsageError

if TYPE_CHECKING:
    from attnviz.batch.cluster import Cluster


@dataclass(frozen=True, repr=False, eq=False)
class EngineOptions:
    """The options of the machines that do the work."""

    engine: Annotated[
        Literal["local", "ray"],
        option(
            "--engine", panel=MACHINE, help="Run on this machine, or on a Ray cluster (extra: ray)."
        ),
    ] = "local"
    ray_address: Annotated[
        str | None,
        option(
            "--ray-address",
            panel=MACHINE,
            help="Running cluster: HOST:PORT or auto.  [default: start one here]",
            metavar="ADDRESS",
        ),
    ] = None
    workers: Annotated[
        int | None,
        option(
            "--workers",
            panel=MACHINE,
            help="Processes, each with its own model.  [default: one per GPU, else per machine]",
            min=1,
            max=65536,
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.engine == "local":
            for name, value in (("--ray-address", self.ray_address), ("--workers", self.workers)):
                if value is not None:
                    raise UsageError(f"{name} needs a cluster; add --engine ray")
        if (self.ray_address or "").startswith("ray://"):
            raise UsageError(
                f"--ray-address {self.ray_address}: batch writes files, so it runs on a node of "
                "the cluster; give HOST:6379, or submit it with `ray job submit`"
            )

    def cluster(self) -> Cluster | None:
        """The cluster to run on, after a check that Ray is installed; None for this machine.

        Raises:
            MissingExtraError: Ray is not installed.
        """
        if self.engine == "local":
            return None
        from attnviz.batch.cluster import (  # noqa: PLC0415 — torch, once the options are checked
            Cluster,
        )
        from attnviz.batch.connection import library  # noqa: PLC0415

        library()
        return Cluster(self.ray_address, self.workers)
