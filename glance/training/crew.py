"""The phases of one training, one after the other or at once: one thread starts and hears all."""

import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

from glance.core.errors import GlanceError
from glance.core.events import Event, EventSink, Noted, StepDone, Warned
from glance.core.phase import Phase
from glance.training.ledger import Ledger
from glance.training.observer import CheckpointSealed
from glance.training.phase import PhaseTrainer, Tools
from glance.training.request import TrainingPlan
from glance.training.stopping import Stopping, first_interrupt

_TICK_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class _Interrupted(Event):
    """A first Ctrl-C."""


@dataclass(frozen=True, slots=True)
class _Ended(Event):
    """A phase's thread is through: with its LoRA, or with `error`."""

    phase: Phase
    device: int
    error: BaseException | None


class Crew:
    """Trains phases, each on a thread of its own; all that they tell is heard on the caller's.

    With one device the phases follow each other. With two, the second begins when the first has
    taken a step: by then all that both need is in the caches. One that fails then does not stop
    the other.
    """

    def __init__(
        self, plan: TrainingPlan, tools: Tools, ledger: Ledger, on_event: EventSink
    ) -> None:
        """Stand ready; `on_event` is called on the thread that calls `train`."""
        self._plan = plan
        self._tools = tools
        self._ledger = ledger
        self._sink = on_event
        self._news: SimpleQueue[Event] = SimpleQueue()
        self._devices = deque(plan.devices)
        self._running: dict[Phase, threading.Thread] = {}
        self._steps: dict[Phase, int] = {}
        self._failures: dict[Phase, BaseException] = {}
        self._stopping = Stopping(plan.run, seconds=plan.stop_within)

    def train(self, phases: list[Phase]) -> None:
        """Train `phases`; raise what went wrong, when nothing runs any more.

        Whatever the listener raises, a signal or a second Ctrl-C ends all trainers first. After
        a first Ctrl-C KeyboardInterrupt is raised as soon as there are checkpoints.
        """
        waiting = deque(phases)
        tell = self._news.put
        try:
            with first_interrupt(lambda: tell(_Interrupted()), seconds=self._plan.stop_within):
                while self._running or self._may_start(waiting):
                    while self._may_start(waiting):
                        self._start(waiting.popleft(), len(waiting))
                    self._hear(self._next())
        except BaseException:
            self._end()
            raise
        for phase in sorted(self._failures, key=list(Phase).index):
            raise self._failures[phase]
        if self._stopping.is_asked:
            raise KeyboardInterrupt

    def _may_start(self, waiting: deque[Phase]) -> bool:
        if not waiting or not self._devices or self._stopping.is_asked:
            return False
        if self._failures and len(self._plan.devices) == 1:
            return False
        return self._running.keys() <= self._steps.keys()

    def _start(self, phase: Phase, waiting: int) -> None:
        device = self._devices.popleft()
        trainer = PhaseTrainer(self._plan, phase, device, self._tools, self._news.put)
        after = waiting if len(self._plan.devices) == 1 else 0

        def work() -> None:
            error: BaseException | None = None
            try:
                trainer.train(self._ledger, phases_after=after)
            except BaseException as exc:  # noqa: BLE001 - raised on the caller's thread
                error = exc
            self._news.put(_Ended(phase, device, error))

        self._running[phase] = threading.Thread(target=work, name=str(phase))
        self._running[phase].start()

    def _next(self) -> Event:
        """Wait for news; raise KeyboardInterrupt when a first Ctrl-C has been waited for enough."""
        left = self._stopping.seconds_left()
        if left == 0:  # whatever else is told meanwhile
            raise KeyboardInterrupt
        try:
            return self._news.get(timeout=left)
        except Empty:
            raise KeyboardInterrupt from None

    def _hear(self, event: Event) -> None:
        match event:
            case _Ended(phase, device, error):
                self._note_end(phase, device, error)
            case _Interrupted():
                self._ask_for_checkpoints()
            case CheckpointSealed(phase, step):
                self._stopping.note_saved(phase, step)
            case _:
                if isinstance(event, StepDone):
                    self._steps[event.phase] = event.step
                self._sink(event)

    def _note_end(self, phase: Phase, device: int, error: BaseException | None) -> None:
        self._running.pop(phase).join()
        self._devices.append(device)
        self._stopping.note_end(phase)
        if error is None:
            return
        self._failures[phase] = error
        if self._running and isinstance(error, GlanceError):
            others = ", ".join(self._running)
            self._sink(Warned(str(error), f"the {others} phase goes on; nothing of it is lost"))

    def _ask_for_checkpoints(self) -> None:
        savable = {phase: self._steps[phase] for phase in self._running if phase in self._steps}
        if not savable:  # there is nothing to wait for
            raise KeyboardInterrupt
        self._stopping.ask(savable)
        seconds = self._plan.stop_within
        self._sink(
            Noted(f"stopping at the next checkpoint, within {seconds:g} s; Ctrl-C again: at once")
        )

    def _end(self) -> None:
        """End all trainers and wait until that is recorded; another signal hurries them."""
        is_over = False
        while not is_over:
            try:
                self._tools.runner.end()
                # not all that are noted were started: the signal may have come in between
                while any(thread.ident is not None for thread in self._running.values()):
                    self._forget_ended()
                is_over = True
            except BaseException:  # noqa: BLE001 - whatever it is, the trainers must be gone first
                continue

    def _forget_ended(self) -> None:
        # Thread.join would do, but on Python 3.12 an interrupted one takes the thread for ended
        with suppress(Empty):
            event = self._news.get(timeout=_TICK_SECONDS)
            if isinstance(event, _Ended):
                self._running.pop(event.phase, None)
