"""A Ray cluster of two nodes on this machine, one of which can be killed."""

from __future__ import annotations

import os
from typing import Any, Final, Self

import psutil
from ray.cluster_utils import Cluster

from benchmarks.processes import below, kill

# An encoder of two threads finds its place on the second node alone, all else on both.
SETTINGS: Final = ("ingest.encoders=1", "ingest.encoder_threads=2")
_HEAD_CPUS, _NODE_CPUS = 1, 3
_ATTEMPTS = 3
# By default Ray takes a node for lost after five checks, 15 s, which a node on busy cores may be silent for.
_FAILED_CHECKS = 10


class TwoNodes:
    def __enter__(self) -> Self:
        self._cluster = Cluster()
        patient = {"health_check_failure_threshold": _FAILED_CHECKS}
        self._started(num_cpus=_HEAD_CPUS, include_dashboard=False, _system_config=patient)
        self.add()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    @property
    def environment(self) -> dict[str, str]:
        """For processes that join."""
        return os.environ | {"RAY_ADDRESS": self._cluster.address}

    def add(self) -> None:
        """The second node, anew after `kill`."""
        self._node = self._started(num_cpus=_NODE_CPUS)

    @property
    def second(self) -> list[psutil.Process]:
        """All processes of the second node."""
        raylets = [psutil.Process(started.process.pid) for started in self._node.all_processes["raylet"]]
        return [one for raylet in raylets for one in (raylet, *below(raylet.pid))]

    def kill(self) -> None:
        """SIGKILL for the second node, as when a machine is lost."""
        kill(self.second)
        self._cluster.remove_node(self._node, allow_graceful=False)

    def _started(self, attempts: int = _ATTEMPTS, **options: Any) -> Any:
        """Ray gives a node half a minute, which is too little where every core is busy."""
        others = below(os.getpid())
        try:
            return self._cluster.add_node(**options)
        except Exception as exc:  # Ray raises no narrower one
            kill([one for one in below(os.getpid()) if one not in others])
            if "timed out" not in str(exc) or attempts == 1:
                raise
        return self._started(attempts - 1, **options)
