"""A Ray cluster of two nodes on this machine, and batches that are sent to it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
from fakes.commands import SMALL
from fakes.trainer import FakeSimpleTuner
from PIL import Image

from benchmarks.ray_nodes import Nodes

PATIENCE = 240.0  # seconds: Ray starts many processes, and slowly where others are at work


def wait_for(happens: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


class TwoNodes:
    """A Ray cluster of two nodes with a CPU each; the second is like a machine of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.trainer = FakeSimpleTuner(folder / "trainer")
        self._folder = folder
        path = f"{self.trainer.folder}{os.pathsep}{os.environ['PATH']}"
        self._nodes = Nodes(1, {**environment, "PATH": path})
        self.address = self._nodes.address
        self.complete()

    def complete(self) -> None:
        """Start the second node, if it is not there."""
        if self._nodes.count == 1:
            self._nodes.add({"XDG_STATE_HOME": str(self._folder / "other/state")})

    def kill_node(self, *, at_work: bool = True) -> None:
        """Kill the second node: when it runs a job, or as it is."""
        if at_work:
            wait_for(self._nodes.is_at_work)
        self._nodes.kill()

    def workers(self) -> list[psutil.Process]:
        """Return the processes that run jobs."""
        return self._nodes.workers()

    def foremen(self) -> list[psutil.Process]:
        """Return the processes that own queues."""
        return self._nodes.workers("ray::Foreman")

    def close(self) -> None:
        self._nodes.close()
        for process in self.trainer.processes():
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
