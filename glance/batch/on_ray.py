"""A batch's jobs on a Ray cluster, from the side of whoever begins it.

A foreman, one detached actor for each batch, owns the queue: see foreman.py. Whoever begins a batch
starts it, or finds it at work, and asks it for news until all jobs are over. It may be killed and
restarted at any time. This file and foreman.py alone import ray, and only for a batch that is sent
there.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib.util import find_spec
from itertools import batched
from pathlib import Path
from typing import Any, Final

from glance import __version__
from glance.batch.board import LOGS, SHARED_FOLDER
from glance.batch.foreman import (
    AT_ONCE,
    KEPT,
    ON_EVERY_NODE,
    TICK_SECONDS,
    Begun,
    Foreman,
    News,
    Order,
    Taken,
    Terms,
    What,
    say,
)
from glance.batch.worker import Job, JobEnd, JobOver, JobStarted, JobTold, Told
from glance.core.device import Device
from glance.core.errors import (
    InputError,
    Problem,
    SetupError,
    Stopped,
    UsageError,
    reason_of,
    shown,
)
from glance.core.events import Noted
from glance.core.files import state_folder
from glance.core.install import how_to_install
from glance.runs.checkpoints import KEY, Sealer

_NAMESPACE: Final = "glance"
_ANSWER_SECONDS: Final = 60.0
_REACHED_SECONDS: Final = 5.0
_SLOW_START_SECONDS: Final = 30.0  # after which it is said that no job has begun
_TRIES: Final = 30  # to reach the foreman, in a row
_TAKEN_AT_ONCE: Final = 2000  # jobs
_LARGEST_SCHEDULE: Final = 1_000_000  # bytes
_START: Final = "start one with `ray start --head`, or name it: --ray HOST:PORT"
_OTHERS: Final = JobEnd(
    InputError.exit_code,
    (Problem("it is under way with other options", "wait for it, or end it first: Ctrl-C"),),
)


class OnRay:
    """Runs jobs on a Ray cluster: an `Executor`.

    SIGTERM and SIGHUP end this process alone: the batch goes on, and the same call follows it.
    """

    def __init__(
        self, address: str, folder: Path, *, storage: str | None = None, cleans: bool = False
    ) -> None:
        """Run the jobs of a batch, which is known by the place of its runs, on the cluster there.

        `address` is "auto", the cluster that this machine belongs to, or HOST:PORT of its head.
        The runs are made in `folder`, and what the jobs say is kept there; if an address is given
        as `storage`, each run is moved to it, and with `cleans` without what a finished run has no
        need of. Nothing is asked of the cluster yet. Raises SetupError where Ray is not installed,
        UsageError for an address that is none.
        """
        if find_spec("ray") is None:
            raise SetupError("--ray: the package ray is missing", hint=how_to_install("ray"))
        self._address = _parse_address(address)
        place = storage or str(folder.absolute())
        self._name = f"batch-{sha256(place.encode()).hexdigest()[:16]}"
        self._folder = folder.absolute()
        self._storage = storage
        self._cleans = cleans

    def run(self, jobs: Sequence[Job], tell: Callable[[Told], None]) -> None:
        """See Executor. Raises SetupError where the cluster cannot be reached."""
        terms = Terms(
            version=__version__,
            logs=self._folder / LOGS,
            # what lies on the nodes' own disks nobody would remove
            shared=None if self._storage else self._folder / SHARED_FOLDER,
            storage=self._storage,
            cleans=self._cleans,
            state=_gather_state(),
        )
        with _connected(self._address):
            try:
                is_stopped = _Driver(self._name, terms, jobs, tell).follow()
            except Stopped:
                tell(
                    Noted("the batch goes on, on Ray: the same command follows it, Ctrl-C ends it")
                )
                raise
        if is_stopped:
            raise KeyboardInterrupt


class _Driver:
    """Follows the foreman of a batch until its jobs are over."""

    def __init__(
        self, name: str, terms: Terms, jobs: Sequence[Job], tell: Callable[[Told], None]
    ) -> None:
        self._name = name
        self._terms = terms
        self._jobs = {job.name: job for job in jobs}
        self._tell = tell
        self._left = set(self._jobs)
        self._life = ""
        self._version = 0
        self._interrupts = 0
        self._since = time.monotonic()
        self._begun = set[str]()
        self._is_waited_for = True

    def follow(self) -> bool:
        """Return when all jobs are over, and whether that was asked for by Ctrl-C.

        Raises SetupError where no foreman can be had.
        """
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        tries = 0
        while self._left:
            try:
                foreman = _hire(self._name)
                while self._left:
                    self._hear(foreman)
                    tries = 0
            except KeyboardInterrupt:
                self._interrupts += 1
                if self._interrupts == 1:
                    self._tell(Noted("stopping at the next checkpoints; Ctrl-C again: at once"))
            except (RayActorError, GetTimeoutError) as exc:  # it is being restarted
                tries += 1
                if tries > _TRIES:
                    raise SetupError(f"--ray: {say(exc)}", hint=ON_EVERY_NODE) from exc
                time.sleep(TICK_SECONDS)
        with suppress(RayActorError, GetTimeoutError):
            foreman = _hire(self._name)
            if ray.get(foreman.dismiss.remote(self._version), timeout=_ANSWER_SECONDS):
                ray.kill(foreman)
        return self._interrupts > 0

    def _hear(self, foreman: Any) -> None:
        import ray

        def ask(asking: Any) -> Any:
            return ray.get(asking, timeout=_ANSWER_SECONDS)

        if self._interrupts:
            order = Order.SAVE if self._interrupts == 1 else Order.END
            ask(foreman.stop.remote(order))
        patience = TICK_SECONDS if self._life else 0.0
        news: News = ask(foreman.tell_news.remote(self._version, patience))
        if news.life != self._life:
            if self._interrupts or self._bring(foreman):
                self._life, self._version = news.life, 0
            return
        for name, what in news.items:
            if name in self._left:
                self._pass_on(name, what)
        self._version = news.version
        if self._interrupts and news.is_over:  # the others wait for another start
            self._left.clear()
        is_slow = not self._begun and time.monotonic() - self._since > _SLOW_START_SECONDS
        if is_slow and self._is_waited_for:
            self._is_waited_for = False
            self._tell(Noted("no job has begun yet: the cluster has no GPU, or no CPUs, to spare"))

    def _bring(self, foreman: Any) -> bool:
        """Bring the jobs that are not over to a foreman who may not know them; was there time?"""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        left = [job for name, job in self._jobs.items() if name in self._left]
        for jobs in batched(left, _TAKEN_AT_ONCE):
            taking = foreman.take.remote(self._terms, [(job, _needs(job, nodes)) for job in jobs])
            taken: Taken = ray.get(taking, timeout=_ANSWER_SECONDS)
            if taken.is_busy:
                return False
            for name in taken.others:
                self._pass_on(name, _OTHERS)
        return True

    def _pass_on(self, name: str, what: What) -> None:
        number = self._jobs[name].number
        match what:
            case Begun(where, lost):
                self._begun.add(name)
                if lost:
                    message = f"job {number} ({name}): its worker was lost; it continues, {where}"
                    self._tell(Noted(message))
                self._tell(JobStarted(number, where))
            case JobEnd():
                self._left.discard(name)
                if name in self._begun or not what.is_stopped:  # else it waits as before
                    self._tell(JobOver(number, what))
            case _:
                self._tell(JobTold(number, what))


def _hire(name: str) -> Any:
    """Return the foreman of a batch; a new one where there is none.

    It is put on the head's node, if it has room: without that there is no cluster.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    heads = [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and "node:__internal_head__" in node["Resources"]
    ]
    place = NodeAffinitySchedulingStrategy(heads[0], soft=True) if heads else "DEFAULT"
    return (
        ray.remote(Foreman)
        .options(
            name=name,
            namespace=_NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=4 * AT_ONCE,
            scheduling_strategy=place,
        )
        .remote()
    )


def _needs(job: Job, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return what of a node a job takes: a GPU and its share of the CPUs, or all CPUs.

    All means those of the smallest node: on each there is room for one job.
    """
    device = dict(zip(job.command, job.command[1:], strict=False)).get("--device")
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if device == Device.CUDA or (with_gpus and device != Device.CPU):
        shares = [node.get("CPU", 0) // node["GPU"] for node in with_gpus]
        return {"num_gpus": 1, "num_cpus": min(shares, default=1)}
    return {
        "num_gpus": 0,
        "num_cpus": min((one["CPU"] for one in nodes if "CPU" in one), default=1),
    }


def _parse_address(text: str) -> str:
    """Return where the cluster is; raise UsageError."""
    address = text
    if text == "auto":
        address = os.environ.get("RAY_ADDRESS") or text
    host, _, port = address.rpartition(":")
    if address == "auto" or (host and "/" not in host and port.isdecimal()):
        return address
    raise UsageError(
        f"--ray {shown(text)}: {shown(address)} is neither auto nor the HOST:PORT of a cluster",
        hint="run glance on a node of the cluster, with --ray auto",
    )


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Be a driver of the cluster while the block runs; raise SetupError where there is none.

    Ray's own talk is kept from the terminal: some of it goes to stdout.
    """
    if address != "auto":  # Ray itself would try for more than a minute, and say so at length
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACHED_SECONDS).close()
        except OSError as exc:
            raise SetupError(
                f"--ray {address}: no Ray answers there ({reason_of(exc)})", hint=_START
            ) from exc
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # beneath `uv run` it would send this folder to all nodes, and make an environment on each
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    import ray
    import ray._private.worker as worker

    worker.print_to_stdstream = lambda *_, **__: None
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address,
            namespace=_NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            logging_level="CRITICAL",
        )
    except (ConnectionError, RuntimeError, ValueError) as exc:
        words = " ".join(str(exc).split())
        raise SetupError(f"--ray {address}: {shown(words)}", hint=_START) from exc
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # ray.init puts its own there
    try:
        yield
    finally:
        ray.shutdown()


def _gather_state() -> dict[str, bytes]:
    """Return what this machine keeps for itself and its jobs need elsewhere.

    That is the key that its checkpoints are sealed with, and the schedules that were optimised.
    """
    folder = state_folder()
    Sealer(folder)  # makes the key, where there is none
    found = {KEY: (folder / KEY).read_bytes()}
    for path in sorted((folder / KEPT).glob("*.json")):
        with suppress(OSError):
            if path.stat().st_size <= _LARGEST_SCHEDULE:
                found[f"{KEPT}/{path.name}"] = path.read_bytes()
    return found
