"""A Ray cluster on this machine; all of its nodes but the head's may be killed."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import psutil

_STORE_BYTES: Final = 80_000_000  # the least that Ray takes
_HEALTH: Final = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}
"""A node that is lost is found out in two seconds, not in a quarter of a minute."""
_JOB: Final = "ray::glance "


class Nodes:
    """A cluster; the nodes see `environment`, in place of what is here by the same names."""

    def __init__(self, cpus: int, environment: Mapping[str, str]) -> None:
        """Start the head's node."""
        from ray.cluster_utils import Cluster

        self._environment = {
            **environment,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # else a training on Ray would be compared at nice 15
        }
        self._size = {"num_cpus": cpus, "object_store_memory": _STORE_BYTES}
        head = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
        with _surrounded(self._environment):
            self._cluster = Cluster(
                initialize_head=True,
                head_node_args={**head, **self._size, "_system_config": _HEALTH},
            )
        self.address: str = self._cluster.address
        self._others: list[Any] = []
        self._orphans: list[psutil.Process] = []

    @property
    def count(self) -> int:
        """How many nodes there are."""
        return 1 + len(self._others)

    def add(self, environment: Mapping[str, str]) -> None:
        """Start another node, that sees these variables as well."""
        with _surrounded({**self._environment, **environment}):
            self._others.append(self._cluster.add_node(include_log_monitor=False, **self._size))

    def is_at_work(self) -> bool:
        """Whether the node runs a job that was started last."""
        raylet = _raylet(self._others[-1]).pid
        return any(one.ppid() == raylet for one in self.workers())

    def list_processes(self) -> list[psutil.Process]:
        """Return all processes of the node that was started last, those of jobs too."""
        return list(_raylet(self._others[-1]).children(recursive=True))

    def kill(self) -> None:
        """Kill the node that was started last, at once."""
        node = self._others.pop()
        self._orphans += _raylet(node).children()
        self._cluster.remove_node(node, allow_graceful=False)

    def workers(self, name: str = _JOB) -> list[psutil.Process]:
        """Return Ray's processes that run jobs, or are called so, those of dead nodes too."""
        processes = [*self._orphans]
        for node in (self._cluster.head_node, *self._others):
            processes += _raylet(node).children()
        return [one for one in processes if _is_called(one, name)]

    def close(self) -> None:
        """End the cluster, and whatever processes of it are left."""
        left = [*self.workers("ray::")]
        self._cluster.shutdown()
        for process in left:
            with suppress(psutil.Error):
                process.kill()


def _raylet(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def _is_called(process: psutil.Process, name: str) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return bool(command) and str(command[0]).startswith(name)


@contextmanager
def _surrounded(environment: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
