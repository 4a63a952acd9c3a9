"""A Ray cluster of two nodes on this machine, and batches that are sent to it."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes.commands import SMALL
from fakes.trainer import FakeSimpleTuner, wait_for
from PIL import Image

PATIENCE = 240.0  # seconds
HEALTH = {"initial_delay_ms": 0, "period_ms": 500, "failure_threshold": 4}
SIZE = {"num_cpus": 1, "object_store_memory": 80_000_000}


@contextmanager
def surrounded(environment: Mapping[str, str]) -> Iterator[None]:
    """Have these variables in the environment while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


class TwoNodes:
    """A Ray cluster of two nodes with a CPU each; the second is like a machine of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        from ray.cluster_utils import Cluster

        self.trainer = FakeSimpleTuner(folder / "trainer")
        self._folder = folder
        self._environment = {
            **environment,
            "PATH": f"{self.trainer.folder}{os.pathsep}{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }
        # a node that is lost is found out in a second, not in a quarter of a minute
        health = {f"health_check_{name}": value for name, value in HEALTH.items()}
        head = {"include_dashboard": False, "_system_config": health, **SIZE}
        with surrounded(self._environment):
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = self._cluster.address
        self._other: Any = None
        self.add_node()

    def add_node(self) -> None:
        if self._other is None:
            state = {"XDG_STATE_HOME": str(self._folder / "other/state")}
            with surrounded({**self._environment, **state}):
                self._other = self._cluster.add_node(**SIZE)

    def kill_node(self, *, at_work: bool = True) -> None:
        """Kill the second node: when it runs a job, or as it is."""
        raylet = self._other.all_processes["raylet"][0].process.pid
        if at_work:
            wait_for(lambda: any(one.ppid() == raylet for one in self.workers()))
        self._cluster.remove_node(self._other, allow_graceful=False)
        self._other = None

    def workers(self, name: str = "ray::glance ") -> list[psutil.Process]:
        """Return the processes of Ray's that run jobs; or others by their name."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cmdline()[:1] and process.cmdline()[0].startswith(name):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        self._cluster.shutdown()
        for process in [*self.trainer.processes(), *self.workers("ray::")]:
            process.kill()


class Running:
    """A `glance batch train` that is at work."""

    def __init__(self, arguments: list[str]) -> None:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        command = [sys.executable, "-m", "glance", "batch", "train", "pics", *SMALL, *arguments]
        try:
            self.process = subprocess.Popen(
                [*command, "--device", "cpu"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


def write_pairs(count: int) -> list[str]:
    """Make a folder of small pairs; return their names."""
    shutil.rmtree("pics", ignore_errors=True)
    Path("pics").mkdir()
    names = [f"p{number:02}" for number in range(count)]
    for number, name in enumerate(names):
        image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
        image.putpixel((0, 0), (number, 0, 0))
        image.save(f"pics/{name}.png")
        Path(f"pics/{name}.txt").write_text(f"a gradient, the {number}th\n")
    return names
