"""The fake `simpletuner` from a test's side: what shall happen, what did, and what still runs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

PATIENCE = 30.0  # seconds until a test that waits for something fails
# SimpleTuner's script, which imports what plays it; below it there is only as much of torch
PACKAGE = {
    "package/simpletuner/__init__.py": "import sys\nsys.path.insert(0, {folder!r} + '/stubs')\n",
    "package/simpletuner/train.py": """
import os, sys
from importlib.machinery import SourceFileLoader
open("debug.log", "w").close()
played = SourceFileLoader("played", {folder!r} + "/simpletuner").load_module()
import simpletuner.helpers.training.trainer
sys.argv = [played.__file__, "train", "--env", os.environ["ENV"]]
played.main()
""",
    "package/simpletuner/helpers/training/trainer.py": """
import os, torch
open({folder!r} + "/waits", "w").close()
if os.path.exists({folder!r} + "/hasty-" + os.environ["ENV"]):
    torch._C._cuda_init()
""",
    "stubs/torch/__init__.py": """
from types import SimpleNamespace
accelerator = SimpleNamespace(is_available=lambda: True)
_C = SimpleNamespace(_cuda_init=lambda: open({folder!r} + "/cuda", "w").close())
""",
}


class FakeSimpleTuner:
    """A folder that holds the executable, its orders and its records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        source = Path(__file__).with_name("simpletuner.py").read_text(encoding="utf-8")
        program = folder / "simpletuner"
        program.write_text(f"#!{sys.executable} -S\n{source}", encoding="utf-8")
        program.chmod(0o755)
        self.behave()

    def lay_out_script(self) -> Path:
        """Make what `python -m simpletuner.train` is to find; return the folder for PYTHONPATH."""
        for name, text in PACKAGE.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.format(folder=str(self.folder)), encoding="utf-8")
        return self.folder / "package"

    def behave(self, **behaviours: str) -> None:
        """Say what happens in the phases `slow` and `fast`; else all goes well."""
        (self.folder / "behaviour.json").write_text(json.dumps(behaviours), encoding="utf-8")

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Every start so far: phase, argv, cwd, environment, config, data, resumed."""
        record = self.folder / "starts.jsonl"
        lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def phases(self) -> list[str]:
        return [start["phase"] for start in self.starts]

    def wait_until_ready(self) -> None:
        wait_for(lambda: (self.folder / "ready").exists())

    def processes(self) -> list[psutil.Process]:
        """Supervisor, trainer and workers that are alive: all have the folder in their argv."""
        return find_processes(str(self.folder))


def find_processes(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(marker in argument for argument in process.cmdline()):
                found.append(process)
    return found


def wait_for(happens: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class RunningGlance:
    """A `glance` that is at work."""

    def __init__(self, arguments: tuple[object, ...]) -> None:
        # Where the tests run in the background SIGINT is ignored, and children inherit that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "glance", *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ.copy(),
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop_reading(self, *, after: str) -> None:
        """Read its stdout up to a line with this word, then close it."""
        assert self._process.stdout is not None
        while after not in (line := self._process.stdout.readline()):
            assert line, f"it never said {after}"
        self._process.stdout.close()
        self._process.stdout = None

    def finish(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and stderr."""
        _, err = self._process.communicate(timeout=PATIENCE)
        assert "Traceback" not in err, err
        return self._process.returncode, err

    def discard(self) -> None:
        with self._process:  # it is waited for, and its pipes are closed
            self._process.kill()
