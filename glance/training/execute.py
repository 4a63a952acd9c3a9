"""Train the phases of a plan that are not done: one after the other or at once, on a fit machine.

A first Ctrl-C lets the trainers save what they have, then ends them. At the end stands a summary of
what was made and what it took.
"""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Final

from glance.core.errors import GlanceError, LoraError, RunError
from glance.core.events import Event, EventSink, Noted, PhaseSkipped, StepDone, Warned
from glance.core.files import state_folder
from glance.core.hub import fetch_model
from glance.core.phase import Phase
from glance.models.checkpoint import read_checkpoint
from glance.models.lora.file import hash_data, hash_file, read_header
from glance.runs.checkpoints import Sealer
from glance.runs.folder import RunFolder, writing
from glance.runs.lock import locked
from glance.runs.losses import Course, describe_course, last_loss, read_course
from glance.runs.manifest import Manifest, PhaseRecord, PhaseState, iterate_runs, load_manifest
from glance.sampling.pipeline import hush
from glance.training.folder import check_run, prepare_run, tidy_run
from glance.training.machine import Job, find_program, has_room_to_wait, require
from glance.training.plan import TrainingPlan
from glance.training.previews import STRIP, PreviewEnded, Previews
from glance.training.request import Launcher
from glance.training.shared import give_texts, make_transformer, take_texts
from glance.training.simpletuner.runner import ProcessRunner, Runner
from glance.training.trainer import (
    CheckpointSealed,
    PhaseTrainer,
    RunRecord,
    TrainerSetup,
    request_checkpoint,
)

_TICK_SECONDS: Final = 0.1
_NEIGHBOURS: Final = 100  # runs whose losses are looked at: there may be thousands
_WORSE: Final = 2.0  # a loss that many times its beginning is no noise any more
# what two trainings may differ in whose losses are comparable
_ASIDE: Final = {
    *("model", "transformer", "weights", "device", "preset"),
    *("seed", "sample_every", "sample_prompt"),
}


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A run after training."""

    run: RunFolder
    manifest: Manifest

    def to_json(self) -> dict[str, Any]:
        """Return what `glance train --json` prints."""
        phases = {
            phase.value: {
                **record.model_dump(mode="json", include={"state", "lora"}),
                "steps": record.steps,
                "measured": record.measured.model_dump(mode="json"),
            }
            for phase, record in self.manifest.phases.items()
        }
        previews = {} if self.previews is None else {"previews": str(self.previews)}
        return {"run": str(self.run.path), "phases": phases, **previews}

    @property
    def previews(self) -> Path | None:
        """The strip of the previews, if there were any."""
        strip = self.run.previews / STRIP
        return strip if self.manifest.previews is not None and strip.exists() else None

    def summarise(self) -> tuple[str, ...]:
        """Return what was made and what it took: figures, losses and the file of each phase."""
        return tuple(line for phase in Phase for line in _summarise(self, phase))


def run_training(
    plan: TrainingPlan,
    on_event: EventSink,
    *,
    runner: Runner | None = None,
    make_ready: Callable[[], None] | None = None,
    recorded_bytes: int = 0,
) -> TrainingResult:
    """Train those phases of `plan` that are not done.

    `make_ready` is called when the run folder is there and locked, before the first trainer starts:
    what it leaves in the folder is trained on, and takes about `recorded_bytes` of the disk. It is
    not called where nothing is to be trained.

    Raises SetupError, before anything is written, when the machine lacks something, and
    TrainingFailed when a phase ends without its LoRA. Whatever interrupts it, the manifest says
    how far it came, and the same call continues.
    """
    models = plan.base.hub_models
    is_complete = not models
    if _is_anything_to_do(plan):
        where = (plan.launcher, models, plan.devices)
        job = Job(plan.settings, plan.run, *where, recorded_bytes=recorded_bytes)
        for warning in require(job):
            on_event(Warned(warning.message, warning.hint))
        fetched = [fetch_model(model, on_event) for model in models]
        is_complete = all(fetched)
    sealer, program = Sealer(state_folder()), find_program(plan.launcher)
    with locked(plan.run, lambda text: on_event(Noted(text))) as lock:
        check_run(plan)  # again: somebody else may have trained here until now
        setup = TrainerSetup(program, runner or ProcessRunner(), sealer, lock, is_complete)
        manifest = _train_phases(plan, setup, on_event, make_ready)
    return TrainingResult(plan.run, manifest)


def _train_phases(
    plan: TrainingPlan,
    setup: TrainerSetup,
    on_event: EventSink,
    make_ready: Callable[[], None] | None,
) -> Manifest:
    is_anything_to_do = _is_anything_to_do(plan)
    manifest = prepare_run(plan, setup.sealer)
    for warning in plan.warnings:
        on_event(Warned(warning.message, warning.hint))
    for line in plan.told if is_anything_to_do else ():
        on_event(Noted(line))
    if is_anything_to_do:
        _make_transformer(plan, on_event)
        with writing(plan.run.path):
            take_texts(plan)
        if make_ready is not None:
            make_ready()
    recorded = RunRecord(plan.run, manifest)
    done = [phase for phase in plan.phases if _is_done(plan.run, manifest, phase)]
    for phase in done:
        on_event(PhaseSkipped(phase))
    phases = [phase for phase in plan.phases if phase not in done]
    _PhaseThreads(plan, setup, recorded, on_event).train(phases)
    with writing(plan.run.path):
        give_texts(plan)
        if recorded.manifest.is_finished:
            tidy_run(plan.run)
    return recorded.manifest


def _make_transformer(plan: TrainingPlan, on_event: EventSink) -> None:
    """Bring the single file into the layout that SimpleTuner loads; it reads no file as it is."""
    run, base = plan.run, plan.base
    if base.transformer is None or run.transformer.exists():
        return
    whole = f"everything else that of {base.location}"
    on_event(Noted(f"the transformer is that of {base.transformer}, {whole}"))
    hush()
    from glance.sampling.pipeline.load import write_transformer

    checkpoint = read_checkpoint(base.transformer)
    with writing(run.path):
        make_transformer(plan, lambda path: write_transformer(checkpoint, base.location, path))


def _is_anything_to_do(plan: TrainingPlan) -> bool:
    if plan.restart or not plan.run.manifest.exists():
        return True
    manifest = load_manifest(plan.run)
    is_longer = plan.settings.steps > manifest.settings.steps
    return is_longer or not all(_is_done(plan.run, manifest, phase) for phase in plan.phases)


def _is_done(run: RunFolder, manifest: Manifest, phase: Phase) -> bool:
    """Whether the phase is recorded as done and its file is still the one it was.

    Only its header may be another: that was written before a crash, and the record was not.
    """
    record = manifest.phases[phase]
    path = run.lora(phase)
    if record.state is not PhaseState.DONE or record.lora is None or not path.is_file():
        return False
    if hash_file(path) == record.lora.sha256:
        return True
    try:
        return record.lora.data_sha256 == hash_data(read_header(path))
    except LoraError:
        return False


# --- phases on their threads ---


@dataclass(frozen=True, slots=True)
class _Interrupted(Event):
    """A first Ctrl-C."""


@dataclass(frozen=True, slots=True)
class _Ended(Event):
    """A phase's thread is through: with its LoRA, or with `error`."""

    phase: Phase
    device: int
    error: BaseException | None


class _PhaseThreads:
    """Trains phases, each on a thread of its own; all that they tell is heard on the caller's.

    With one device the phases follow each other; the second one's process may be started with the
    first, and waits. With two devices the second begins when the first has taken a step: by then
    all that both need is in the caches. One that fails then does not stop the other.
    """

    def __init__(
        self, plan: TrainingPlan, setup: TrainerSetup, recorded: RunRecord, on_event: EventSink
    ) -> None:
        self._plan = plan
        self._setup = setup
        self._recorded = recorded
        self._sink = on_event  # called on the thread that calls `train`
        self._news: SimpleQueue[Event] = SimpleQueue()
        self._devices = deque(plan.devices)
        self._running: dict[Phase, threading.Thread] = {}
        self._prepared: PhaseTrainer | None = None
        self._steps: dict[Phase, int] = {}
        self._failures: dict[Phase, BaseException] = {}
        self._stopping = Stopping(plan.run, seconds=plan.stop_within)
        tell = self._news.put
        self._previews = Previews(plan, setup, recorded, tell=tell, on_event=on_event)

    def train(self, phases: list[Phase]) -> None:
        """Train `phases`; raise what went wrong, when nothing runs any more.

        Whatever the listener raises, a signal or a second Ctrl-C ends all trainers first. After
        a first Ctrl-C KeyboardInterrupt is raised as soon as there are checkpoints.
        """
        waiting = deque(phases)
        tell = self._news.put
        try:
            with first_interrupt(lambda: tell(_Interrupted()), seconds=self._plan.stop_within):
                while self._running or self._may_start(waiting) or self._may_preview():
                    while self._may_start(waiting):
                        self._start(waiting.popleft(), len(waiting))
                        self._prepare(waiting)
                    self._hear(self._next())
        except BaseException:
            self._end()
            raise
        finally:
            self._dismiss()
        if self._previews.is_sampling:  # nobody waits for it after a failure, or a first Ctrl-C
            self._end()
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

    def _may_preview(self) -> bool:
        return not self._failures and not self._stopping.is_asked and self._previews.go_on()

    def _start(self, phase: Phase, waiting: int) -> None:
        device = self._devices.popleft()
        trainer = self._prepared
        if trainer is None or trainer.phase is not phase:
            trainer = self._make_trainer(phase, device)
        after = waiting if len(self._plan.devices) == 1 else 0

        def work() -> None:
            error: BaseException | None = None
            try:
                trainer.train(self._recorded, phases_after=after)
            except BaseException as exc:  # noqa: BLE001 - raised on the caller's thread
                error = exc
            self._news.put(_Ended(phase, device, error))

        self._running[phase] = threading.Thread(target=work, name=str(phase))
        self._running[phase].start()

    def _make_trainer(self, phase: Phase, device: int) -> PhaseTrainer:
        return PhaseTrainer(self._plan, phase, device, self._setup, self._news.put)

    def _prepare(self, waiting: deque[Phase]) -> None:
        """Start the process of the next phase, where it would take nothing from the one at work."""
        plan = self._plan
        is_next = waiting and len(plan.devices) == 1 and plan.launcher is Launcher.DIRECT
        if is_next and has_room_to_wait(plan.settings):
            self._prepared = self._make_trainer(waiting[0], plan.devices[0])
            self._prepared.prepare()

    def _dismiss(self) -> None:
        """End what waits in vain; another signal hurries it."""
        while self._prepared is not None:
            try:
                self._prepared.dismiss()
                self._prepared = None
            except BaseException:  # noqa: BLE001 - whatever it is, no process may be left
                continue

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
                self._previews.take(phase, step)
            case PreviewEnded():
                self._previews.note_end(event)
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
        """End all processes and wait until that is recorded; another signal hurries them."""
        is_over = False
        while not is_over:
            try:
                self._setup.runner.end()
                # not all that are noted were started: the signal may have come in between
                while self._previews.is_sampling or any(
                    thread.ident is not None for thread in self._running.values()
                ):
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


class Stopping:
    """What was asked of which trainer, and how long it is waited for."""

    def __init__(self, run: RunFolder, *, seconds: float) -> None:
        """Ask for nothing yet."""
        self._run = run
        self._seconds = seconds
        self._deadline: float | None = None
        self._unsaved: dict[Phase, int] = {}

    @property
    def is_asked(self) -> bool:
        """Whether a first Ctrl-C has come."""
        return self._deadline is not None

    def ask(self, steps: Mapping[Phase, int]) -> None:
        """Ask the trainers of these phases for a checkpoint; `steps` they have done."""
        self._deadline = time.monotonic() + self._seconds
        self._unsaved = dict(steps)
        for phase in steps:
            request_checkpoint(self._run, phase)

    def note_saved(self, phase: Phase, step: int) -> None:
        """Learn that a checkpoint is saved and sealed; one from before the asking is not enough."""
        if step >= self._unsaved.get(phase, 0):
            self.note_end(phase)

    def note_end(self, phase: Phase) -> None:
        """Learn that nothing more is to come of the phase."""
        self._unsaved.pop(phase, None)

    def seconds_left(self) -> float | None:
        """Return how long to wait for the next news, None: for ever; 0: it is time to end."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic()) if self._unsaved else 0.0


@contextmanager
def first_interrupt(tell: Callable[[], None], *, seconds: float) -> Iterator[None]:
    """Let the first Ctrl-C do no more than `tell`; a second one is what it always is.

    So is the first when `seconds` is 0, and elsewhere than in the main thread.
    """
    catches = (
        seconds > 0
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not catches:
        yield
        return

    def on_interrupt(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tell()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# --- what was made and what it took ---


def usual_losses(run: RunFolder, manifest: Manifest, phase: Phase) -> tuple[float, ...]:
    """Return the last losses of that phase in the runs beside this one that are comparable.

    A loss says something only beside others of the same model, noise levels and settings: the slow
    phase's are all near pure noise, the fast phase's are not.
    """
    found = []
    for other, theirs in iterate_runs(run.path.absolute().parent, newest=_NEIGHBOURS):
        is_comparable = (
            other.path.resolve() != run.path.resolve()
            and theirs.phases[phase].state is PhaseState.DONE
            and _comparable(theirs) == _comparable(manifest)
        )
        last = last_loss(other, theirs, phase) if is_comparable else None
        if last is not None:
            found.append(last)
    return tuple(sorted(found))


def _comparable(manifest: Manifest) -> tuple[Any, ...]:
    settings = manifest.settings.model_dump(exclude=_ASIDE)
    return manifest.base_model, manifest.schedule, settings, manifest.imported is None


def _summarise(result: TrainingResult, phase: Phase) -> Iterator[str]:
    run, manifest = result.run, result.manifest
    record = manifest.phases[phase]
    if record.lora is None:
        return
    file = record.lora
    yield f"{phase}: {', '.join(_figures(record))}"
    with suppress(RunError):  # its losses cannot be read: that takes nothing from the LoRA
        yield from _judge(read_course(run, manifest, phase), usual_losses(run, manifest, phase))
    yield f"{phase}: {file.path}, {file.bytes / 1e6:.1f} MB, sha256 {file.sha256[:12]}"


def _figures(record: PhaseRecord) -> Iterator[str]:
    took = record.measured
    part = f", {took.steps} of them by the last start" if took.steps < record.steps else ""
    yield f"{record.steps} steps{part}"
    if took.seconds_a_step is not None:
        yield f"{took.seconds_a_step:.2f} s a step"
    if took.peak_gpu_bytes is not None:
        yield f"{took.peak_gpu_bytes / 1e9:.1f} GB of the card"
    if took.peak_bytes is not None:
        yield f"{took.peak_bytes / 1e9:.1f} GB of memory"


def _judge(course: Course, usual: tuple[float, ...]) -> Iterator[str]:
    if course.last is None:
        return
    line = f"{course.phase}: {describe_course(course)}"
    if usual:
        runs = f"{len(usual)} runs like it end" if len(usual) > 1 else "one run like it ends"
        line += f"; {runs} at {_spread(usual)}"
    yield line
    if course.last > _WORSE * course.trend[0][1]:
        yield f"{course.phase}: that is far above its beginning: try a lower --learning-rate"


def _spread(values: tuple[float, ...]) -> str:
    low, high = f"{values[0]:.4g}", f"{values[-1]:.4g}"
    return low if low == high else f"{low} to {high}"
