"""This machine's queue: a job for each device at a time, the next one when a device is free."""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from glance.batch.board import LOGS, SHARED_FOLDER
from glance.batch.jobs import BatchPlan
from glance.batch.request import BatchTrainRequest
from glance.batch.storage import StoringWorker
from glance.batch.worker import (
    Executor,
    Job,
    JobOver,
    JobStarted,
    JobTold,
    Told,
    Worker,
)
from glance.core.device import (
    Device,
    cuda_device_count,
    pin_device,
    require_device,
    resolve_device,
)
from glance.core.errors import Problem, SetupError
from glance.core.events import Noted
from glance.training.machine import require
from glance.training.shared import SHARED

_TICK_SECONDS: Final = 0.2


class LocalQueue:
    """Runs jobs on the devices of this machine: an `Executor`."""

    def __init__(
        self, devices: Sequence[int | None], logs: Path, worker: Worker | None = None
    ) -> None:
        """Run a job on each of the `devices` at a time: GPUs by their numbers; None: what is there.

        What jobs say is kept in the folder `logs`.
        """
        self._devices = tuple(devices)
        self._logs = logs
        self._worker = worker or Worker()
        self._waiting: deque[Job] = deque()
        self._news: SimpleQueue[Told] = SimpleQueue()
        self._is_stopping = False

    def run(self, jobs: Sequence[Job], tell: Callable[[Told], None]) -> None:
        """See Executor."""
        self._waiting.extend(jobs)
        threads = [threading.Thread(target=self._work, args=(one,)) for one in self._devices]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads) or not self._news.empty():
                self._hear(tell)
        except BaseException:
            self._waiting.clear()
            self._worker.end()
            for thread in threads:
                thread.join()
            raise
        if self._is_stopping:
            raise KeyboardInterrupt

    def _work(self, device: int | None) -> None:
        shared = str((self._logs.parent / SHARED_FOLDER).absolute())
        environment = {**pin_device(os.environ, device), SHARED: shared}
        while True:
            try:
                job = self._waiting.popleft()
            except IndexError:
                return
            self._news.put(JobStarted(job.number, "here" if device is None else f"GPU {device}"))
            end = self._worker.run(
                job,
                environment=environment,
                log=self._logs / f"{job.name}.log",
                on_event=partial(self._pass_on, job.number),
            )
            self._news.put(JobOver(job.number, end))

    def _pass_on(self, number: int, event: dict[str, Any]) -> None:
        self._news.put(JobTold(number, event))

    def _hear(self, tell: Callable[[Told], None]) -> None:
        try:
            tell(self._news.get(timeout=_TICK_SECONDS))
        except Empty:
            pass
        except KeyboardInterrupt:
            self._waiting.clear()
            if self._is_stopping:
                self._worker.end()
                return
            self._is_stopping = True
            self._worker.interrupt()
            tell(Noted("stopping at the next checkpoints; Ctrl-C again: at once"))


def choose_queue(request: BatchTrainRequest, plan: BatchPlan) -> Executor:
    """Return who runs the jobs: this machine's queue over the devices asked for, or Ray.

    Raises DeviceUnavailable, and SetupError where Ray is missing or the runs cannot be kept.
    """
    logs, storage = plan.output / LOGS, plan.storage
    if storage is not None:
        storage.require_writable()
    if request.ray is not None:
        from glance.batch.on_ray import OnRay

        kept = None if storage is None else storage.address
        return OnRay(request.ray, plan.output, storage=kept, cleans=request.cleans)
    devices: Sequence[int | None] = request.devices
    if devices:
        require_device(Device.CUDA, request.devices)
    elif resolve_device(request.common.device) is Device.CUDA:
        devices = range(cuda_device_count())
    _require_machine(plan, devices or (0,))
    worker = None if storage is None else StoringWorker(storage, cleans=request.cleans)
    return LocalQueue(devices or (None,), logs, worker)


def _require_machine(plan: BatchPlan, devices: Sequence[int | None]) -> None:
    """Raise SetupError with all that this machine lacks for any of the jobs."""
    problems, kinds = list[Problem](), set[type[SetupError]]()
    for training in plan.trainings:
        try:
            require(replace(training, devices=tuple(one or 0 for one in devices[:1])))
        except SetupError as exc:
            problems += exc.problems
            kinds.add(type(exc))
    if problems:
        kind = kinds.pop() if len(kinds) == 1 else SetupError
        raise kind(list(dict.fromkeys(problems)))
