"""Runs one command and leaves no process of it behind. Started as a script of its own.

    python -I supervisor.py COMMAND [ARGUMENT ...]      (standard input: the lifeline)

SimpleTuner starts accelerate in a session of its own, and on SIGTERM leaves it and the trainer
running. So somebody has to end the whole tree, also when glance itself is killed:

- on Linux this process is a subreaper: orphans below it become its children, and when waiting
  says "no child left" that is the truth. Elsewhere it remembers every descendant it has seen.
- standard input is a pipe that glance holds open and never writes to. When it closes, glance is
  gone, however that came about.
- should this process be killed itself, the command is told to end (on Linux): Ray kills all
  children of a worker that it ends, and these alone.

GLANCE_GATE, if it is set, is the number of a file descriptor that the command alone is to have.

SIGTERM: ask the tree to end, kill what is left after the grace. A second SIGTERM: kill at once.
The exit code is the command's own; 127 if it cannot be started.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil

GRACE_SECONDS = 10.0
_TICK_SECONDS = 0.05
_HURRY = 2  # asked this often, there is no more grace
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_CANNOT_START = 127  # as shells say it


class _Tree:
    """All descendants of this process, seen now or before."""

    def __init__(self) -> None:
        self._seen: set[psutil.Process] = set()

    def look(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            self._seen.update(psutil.Process().children(recursive=True))
        self._seen = {process for process in self._seen if _is_alive(process)}
        return list(self._seen)

    def send(self, number: int) -> None:
        for process in self.look():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)


class _Asked:
    """How often somebody has asked for the end. Handlers only count: nothing can slip between."""

    def __init__(self) -> None:
        self.times = 0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._count)

    def _count(self, number: int, frame: object) -> None:
        self.times += 1


def main(command: list[str]) -> int:
    """Run the command to its end, or to ours."""
    asked = _Asked()
    inherits_orphans = _become_subreaper()
    gate = [int(number) for number in os.environ.get("GLANCE_GATE", "").split()]
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, pass_fds=gate, preexec_fn=_tie_to_parent()
        )
    except OSError as exc:
        sys.stderr.write(f"cannot start {command[0]}: {exc.strerror or exc}\n")
        return _CANNOT_START
    for number in gate:  # it is closed as soon as the command is gone
        os.close(number)
    threading.Thread(target=_watch_lifeline, daemon=True).start()
    tree = _Tree()
    while child.poll() is None and not asked.times:
        time.sleep(_TICK_SECONDS)
        if not inherits_orphans:  # looking reads every process of the machine
            tree.look()
    _end(tree, child, asked)
    code = 128 + signal.SIGTERM if asked.times else child.returncode
    return code if code >= 0 else 128 - code


def _end(tree: _Tree, child: "subprocess.Popen[bytes]", asked: _Asked) -> None:
    """End what is left: after a normal end that is nothing, or a forgotten worker."""
    tree.send(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while _is_left(tree, child) and time.monotonic() < deadline and asked.times < _HURRY:
        time.sleep(_TICK_SECONDS)
    while _is_left(tree, child):
        tree.send(signal.SIGKILL)
        time.sleep(_TICK_SECONDS)


def _is_left(tree: _Tree, child: "subprocess.Popen[bytes]") -> bool:
    """Reap what has ended; tell whether anything has not."""
    child.poll()  # before waitpid takes its exit code away
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return bool(tree.look())
    return True


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _watch_lifeline() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _tie_to_parent() -> Callable[[], None] | None:
    """Return what the command does first: it asks for SIGTERM when this process is gone."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def tie() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it was quicker
            os.kill(os.getpid(), signal.SIGTERM)

    return tie


def _become_subreaper() -> bool:
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
