"""One start of SimpleTuner for one phase: run it, watch it, verify and record what it made."""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import psutil

from glance import __version__
from glance.core.device import gpu_users
from glance.core.errors import LoraError, TrainingFailed
from glance.core.events import (
    CheckpointSaved,
    Event,
    EventSink,
    MemoryUsed,
    Noted,
    PhaseFinished,
    PhaseStarted,
    StageEntered,
    StepDone,
    TrainerSaid,
    mean_of_round,
)
from glance.core.files import replacing, write_json, write_text
from glance.core.hub import find_snapshot
from glance.core.phase import Phase
from glance.models.lora.file import Lora, read_lora, write_lora
from glance.models.lora.keys import TRAINED_CONFIG
from glance.runs.checkpoints import (
    Sealer,
    checkpoint_names,
    choose_checkpoint,
    seal_new,
    step_of,
)
from glance.runs.folder import LORA_FILE, TRAINERS_PAGE, RunFolder, writing
from glance.runs.lora import finalise_lora, find_origin, is_final, name_pair, record_lora
from glance.runs.losses import LossLog
from glance.runs.manifest import Attempt, LoraRecord, Manifest, Measured, PhaseState, now
from glance.training.plan import TrainingPlan
from glance.training.simpletuner.config import (
    build_command,
    config_file,
    receipt_file,
    requests_file,
)
from glance.training.simpletuner.process import build_environment, diagnose, find_secrets, listening
from glance.training.simpletuner.runner import Job, Runner, mask

_DEBUG_LOG: Final = "debug.log"  # SimpleTuner's
_REMEMBERED_LINES: Final = 400
_EVERY_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class CheckpointSealed(Event):
    """A checkpoint of the phase is whole, and glance has put its seal on it."""

    phase: Phase
    step: int


@dataclass(frozen=True, slots=True)
class TrainerSetup:
    """What both phases are trained with."""

    program: Path
    """What the command line of the trainer begins with."""
    runner: Runner
    sealer: Sealer
    lock: int | None
    """What holds the run folder; the trainer holds it too."""
    is_offline: bool
    """Whether all that the trainer needs is on the disk, so that it need not ask the Hub."""


class RunRecord:
    """glance.json of a run that is being trained: every change is on the disk at once."""

    def __init__(self, run: RunFolder, manifest: Manifest) -> None:
        """Go on from what is recorded."""
        self.run = run
        self.manifest = manifest
        self._turn = threading.Lock()  # two phases may be trained at once

    def update(self, phase: Phase, **changes: Any) -> None:
        """Change the phase's record and save; raises OSError.

        With the second phase the pair is whole and gets its id: before that is recorded, so that
        after a crash the same call does it again.
        """
        with self._turn:
            manifest = self.manifest.with_phase(phase, **changes)
            if manifest.is_finished:
                with suppress(LoraError):  # the other file is gone: its phase is not done then
                    manifest = name_pair(self.run, manifest)
            self.manifest = manifest
            self.manifest.save(self.run)


@dataclass(frozen=True, slots=True)
class PhaseTrainer:
    """One start of SimpleTuner for one phase."""

    plan: TrainingPlan
    phase: Phase
    device: int
    """Which of the accelerators, by its number."""
    setup: TrainerSetup
    on_event: EventSink
    """Called from several threads."""
    job: str = field(default_factory=lambda: token_hex(16))
    """What its process is known by."""

    def prepare(self) -> None:
        """Start the process while another phase trains; it waits, and `train` lets it go on.

        It waits elsewhere than in the run folder, where it would empty the debug.log of the other.
        """
        self.setup.runner.prepare(self._job(webhook=""), _waiting_room(self.plan.run, self.phase))

    def dismiss(self) -> None:
        """End what still waits, and leave nothing of it."""
        self.setup.runner.dismiss()
        with suppress(OSError):
            (_waiting_room(self.plan.run, self.phase) / _DEBUG_LOG).unlink()

    def train(self, recorded: RunRecord, *, phases_after: int) -> None:
        """Bring the phase to its finished LoRA, and record how it went either way."""
        run, phase = self.plan.run, self.phase
        earlier = recorded.manifest.phases[phase].attempts
        losses = LossLog(run.losses(phase), start=len(earlier) + 1)
        timesteps = len(self.plan.schedule.phase(phase).timesteps)
        monitor = Monitor(
            run,
            phase,
            device=self.device,
            timesteps=timesteps,
            losses=losses,
            sealer=self.setup.sealer,
            receipt=self._receipt,
            sink=self.on_event,
        )
        before = recorded.manifest.phases[phase]
        # a finished run that goes on to more steps: its file must not pass for that of all
        is_shorter = before.state is PhaseState.STOPPED and before.lora is not None
        resumed = self._choose_checkpoint(recorded.manifest, is_shorter=is_shorter)
        attempt = Attempt(started=now(), resumed=resumed)
        with writing(run.path):
            if is_shorter:
                run.lora(phase).unlink(missing_ok=True)
            recorded.update(
                phase, state=PhaseState.TRAINING, attempts=(*earlier, attempt), lora=None
            )

        def record(code: int | None, **outcome: Any) -> None:
            ended = attempt.model_copy(
                update={"ended": now(), "returncode": code, "measured": monitor.measured}
            )
            recorded.update(phase, attempts=(*earlier, ended), **outcome)

        began = time.monotonic()
        code: int | None = None
        try:
            self.on_event(PhaseStarted(phase, self.plan.settings.steps, phases_after, timesteps))
            with writing(run.path):
                if is_final(run.lora(phase)):
                    pass  # ended before this could be recorded
                elif attempt.resumed >= self.plan.settings.steps:
                    self._take_last_checkpoint(attempt.resumed)
                else:
                    code = self._run_simpletuner(monitor)
                made = self._finalise(monitor, recorded.manifest)
                record(code, state=PhaseState.DONE, lora=made)
        except BaseException as exc:
            state = PhaseState.STOPPED
            if isinstance(exc, TrainingFailed):
                state, code = PhaseState.FAILED, exc.returncode
            with suppress(OSError):  # a full disk must not hide what else went wrong
                record(code, state=state)
            raise
        path = run.lora(phase).relative_to(run.path).as_posix()
        self.on_event(PhaseFinished(phase, path, time.monotonic() - began))

    def _choose_checkpoint(self, manifest: Manifest, *, is_shorter: bool) -> int:
        """Return the step to go on from; say what is set aside."""
        run, phase, sealer = self.plan.run, self.phase, self.setup.sealer
        if is_final(run.lora(phase)) and not is_shorter:
            return 0
        with writing(run.path):
            found = choose_checkpoint(
                run,
                phase,
                sealer,
                is_ours=sealer.mark(manifest.created.isoformat()) == manifest.origin,
                trust=self.plan.trust,
            )
        for name in found.set_aside:
            self.on_event(Noted(f"{phase}: {name} is damaged or half-written: set aside"))
        if found.step:
            self.on_event(Noted(f"{phase}: going on after step {found.step}"))
        return found.step

    @property
    def _receipt(self) -> Path | None:
        """What the trainer leaves once it learns from recordings; None: it learns from images."""
        is_taught = self.plan.settings.teacher is not None
        return self.plan.run.path / receipt_file(self.phase) if is_taught else None

    def _take_last_checkpoint(self, step: int) -> None:
        """Make the LoRA of the checkpoint at the last step: it holds the very weights.

        The trainer was ended between that checkpoint and its final file. Started again, SimpleTuner
        4.10 would take one step too many before it sees that all are done.
        """
        run, phase = self.plan.run, self.phase
        checkpoint = run.output(phase) / f"checkpoint-{step}"
        tensors = read_lora(checkpoint / LORA_FILE).tensors
        with replacing(run.lora(phase)) as temporary:
            write_lora(Lora(tensors, {"format": "pt"}), temporary)  # a final file's whole header

    def _run_simpletuner(self, monitor: "Monitor") -> int:
        """Start it and wait; raise TrainingFailed unless it returns 0."""
        run, phase, receipt = self.plan.run, self.phase, self._receipt
        for stale in filter(None, (run.lora(phase), receipt)):  # neither must pass for the new one
            stale.unlink(missing_ok=True)
        runner = self.setup.runner
        debug_log = _DebugLog(run, phase)

        def hear(event: Event) -> None:
            if isinstance(event, StepDone):
                debug_log.take()
            monitor.on_event(event)

        try:
            with listening(phase, hear) as webhook, open_to_requests(run, phase):
                job = self._job(webhook)
                with monitor.watching(lambda: runner.processes(job)):
                    code = runner.run(job, monitor.on_line)
        finally:
            debug_log.close()
        if code:
            found = diagnose(tuple(monitor.lines), code)
            cause = f": {found.cause}" if found.cause else ""
            raise TrainingFailed(
                f"the {phase} phase failed (SimpleTuner returned {code}){cause}",
                hint=found.remedy,
                returncode=code,
                log=run.log(phase),
                tail=found.tail,
            )
        if receipt is not None and not receipt.exists():
            run.lora(phase).unlink(missing_ok=True)
            raise TrainingFailed(
                f"the {phase} phase was trained on images, not on what was recorded",
                hint="something keeps Python from importing glance's sitecustomize in the trainer; "
                "--launcher direct starts it without what lies between",
                returncode=code,
                log=run.log(phase),
            )
        return code

    def _job(self, webhook: str) -> Job:
        plan, phase, setup = self.plan, self.phase, self.setup
        environment = build_environment(
            os.environ,
            phase=phase,
            launcher=plan.launcher,
            program=setup.program,
            device=plan.settings.device,
            number=self.device,
            model=self._find_model(),
            mixed_precision=plan.trainer_config(phase)["mixed_precision"],
            seed=plan.settings.seed,
            webhook=webhook,
            needs_hub=not setup.is_offline,
            is_taught=plan.settings.teacher is not None,
            at_once=len(plan.devices),
        )
        return Job(
            command=[str(setup.program), *build_command(phase, plan.launcher)[1:]],
            folder=plan.run.path,
            environment=environment,
            log=plan.run.log(phase),
            secrets=find_secrets(os.environ),
            held=() if setup.lock is None else (setup.lock,),
            name=self.job,
        )

    def _find_model(self) -> str | None:
        """Return where the base model is as seen from the run; None: in it, or still on the Hub."""
        plan = self.plan
        if plan.base.folder is not None or not self.setup.is_offline:
            return plan.model_elsewhere
        snapshot = find_snapshot(plan.settings.model)
        return None if snapshot is None else os.path.relpath(snapshot, plan.run.path.resolve())

    def _finalise(self, monitor: "Monitor", manifest: Manifest) -> LoraRecord:
        """Verify and finalise the file; raise TrainingFailed if it is not what it should be."""
        run, phase = self.plan.run, self.phase
        config = self.plan.trainer_config(phase)
        path = run.lora(phase)
        try:
            finalise_lora(
                path,
                rank=config["lora_rank"],
                alpha=config["lora_alpha"],
                origin=find_origin(manifest, phase, version=__version__),
            )
            rank = read_lora(path).rank
        except LoraError as exc:
            first, more = exc.problems[0], len(exc.problems) - 1
            found = diagnose(tuple(monitor.lines), 0)
            raise TrainingFailed(
                f"the {phase} phase left no sound LoRA, though SimpleTuner returned 0: "
                f"{first.message}{f' (and {more} more)' if more else ''}",
                hint=first.hint or found.remedy or "the trainer's log may say why",
                returncode=0,
                log=run.log(phase),
                tail=found.tail,
            ) from exc
        # SimpleTuner's page about the LoRA names no base model and calls it unfit for minors
        (run.output(phase) / TRAINERS_PAGE).unlink(missing_ok=True)
        self._forget_places()
        return record_lora(run, phase, rank=rank)

    def _forget_places(self) -> None:
        """Leave of the model's place its name alone in the options that SimpleTuner writes down."""
        model, is_on_the_hub = self._find_model(), self.plan.base.folder is None
        path = self.plan.run.output(self.phase) / TRAINED_CONFIG
        if model is None or not path.is_file():
            return
        name = self.plan.settings.model if is_on_the_hub else Path(model).name
        place, name = (json.dumps(text)[1:-1] for text in (model, name))
        write_text(path, path.read_text(encoding="utf-8").replace(place, name))


class Monitor:
    """Hears the trainer's lines on one thread and its events on others; measures and seals."""

    def __init__(
        self,
        run: RunFolder,
        phase: Phase,
        *,
        device: int,
        timesteps: int,
        losses: LossLog,
        sealer: Sealer,
        sink: EventSink,
        receipt: Path | None = None,
    ) -> None:
        """Stand ready for steps that take so many timesteps in turn; `sink` hears from threads.

        Without the file `receipt`, where one is due, no checkpoint is sealed: it learnt from
        something else, so nothing must go on from it.
        """
        self.lines: deque[str] = deque(maxlen=_REMEMBERED_LINES)
        self._run, self._phase, self._device = run, phase, device
        self._timesteps = timesteps
        self._log = losses
        self._sealer = sealer
        self._receipt = receipt
        self._tell = sink
        self._sealers: ThreadPoolExecutor | None = None
        self._sealing: list[Future[None]] = []
        self._losses: list[float] = []
        self._times: list[float] = []
        self._peak = 0
        self._peak_gpu: int | None = None

    @property
    def measured(self) -> Measured:
        """What the phase really took, as far as it was seen."""
        steps, losses, size = len(self._times), self._losses, self._timesteps
        pace = (self._times[-1] - self._times[0]) / (steps - 1) if steps > 1 else None
        return Measured(
            steps=steps,
            seconds_a_step=None if pace is None else round(pace, 4),
            first_loss=mean_of_round(losses[:size]) if len(losses) >= size else None,
            last_loss=mean_of_round(losses[-size:]) if len(losses) >= size else None,
            peak_bytes=self._peak or None,
            peak_gpu_bytes=self._peak_gpu,
        )

    @contextmanager
    def watching(self, processes: Callable[[], list[psutil.Process]]) -> Iterator[None]:
        """Watch while the block runs; afterwards raise what the sealing raised.

        The trainer may be ended after it has written a checkpoint, before it has told so: that one
        is sealed at the end of the block, however that comes.
        """
        self._tell(StageEntered(self._phase, "Starting SimpleTuner"))
        known = checkpoint_names(self._run, self._phase)
        try:
            with self._watching_memory(processes), ThreadPoolExecutor(1) as self._sealers:
                yield
        finally:
            if self._may_seal():
                with suppress(OSError):  # a full disk
                    seal_new(self._run, self._phase, self._sealer, known=known)
        for sealed in self._sealing:
            sealed.result()

    def on_line(self, line: str) -> None:
        """Hear a line of the trainer's output."""
        self.lines.append(line)
        self._tell(TrainerSaid(self._phase, line))

    def on_event(self, event: Event) -> None:
        """Hear an event, on any thread."""
        self._tell(event)
        if isinstance(event, StepDone):
            self._times.append(time.monotonic())
            if event.loss is not None:
                self._losses.append(event.loss)
                self._log.note(event.step, event.loss)
        elif isinstance(event, CheckpointSaved) and self._sealers is not None:
            # the trainer waits until its event is heard: so somebody else hashes a gigabyte
            with suppress(RuntimeError):  # the trainer is gone: it is sealed with what is left
                self._sealing.append(self._sealers.submit(self._seal, event))

    def _seal(self, event: CheckpointSaved) -> None:
        checkpoint = self._run.output(self._phase) / Path(event.path).name
        step = step_of(checkpoint)
        if step is None or not self._may_seal():
            return
        with suppress(OSError):  # a full disk, or SimpleTuner has replaced it already
            self._sealer.seal(checkpoint)
            self._tell(CheckpointSealed(self._phase, step))

    def _may_seal(self) -> bool:
        return self._receipt is None or self._receipt.exists()

    @contextmanager
    def _watching_memory(self, processes: Callable[[], list[psutil.Process]]) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._watch_memory, args=(over, processes), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _watch_memory(
        self, over: threading.Event, processes: Callable[[], list[psutil.Process]]
    ) -> None:
        while not over.wait(_EVERY_SECONDS):
            held: dict[int, int] = {}
            for process in processes():
                with suppress(psutil.Error):  # it has just ended
                    held[process.pid] = int(process.memory_info().rss)
            resident = sum(held.values())
            gpu = sum(size for pid, size in gpu_users(self._device) if pid in held)
            self._peak = max(self._peak, resident)
            if gpu:
                self._peak_gpu = max(self._peak_gpu or 0, gpu)
            self._tell(MemoryUsed(self._phase, resident, gpu or None))


@contextmanager
def open_to_requests(run: RunFolder, phase: Phase) -> Iterator[None]:
    """Keep the file that the trainer of `phase` reads after each step."""
    path = run.path / requests_file(phase)
    write_json(path, {})
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def request_checkpoint(run: RunFolder, phase: Phase) -> None:
    """Ask the trainer of `phase` for a checkpoint after its next step."""
    write_json(run.path / requests_file(phase), {"manual_checkpoint": 1})


def _waiting_room(run: RunFolder, phase: Phase) -> Path:
    """Where a process of `phase` is started that has to wait: nothing else uses that folder."""
    return (run.path / config_file(phase)).parent


class _DebugLog:
    """SimpleTuner's debug.log: it writes that where it is started, and empties it at each start.

    So it is taken away from there before another trainer starts beside this one, which goes on
    writing the same file under its new name.
    """

    def __init__(self, run: RunFolder, phase: Phase) -> None:
        # a process that was to wait may have ended, and another was started: its log counts
        self._new = [place / _DEBUG_LOG for place in (_waiting_room(run, phase), run.path)]
        self._kept = run.log(phase).with_suffix(f".{_DEBUG_LOG}")
        self._is_taken = False

    def take(self) -> None:
        if self._is_taken:  # once: a later one is another trainer's
            return
        for path in filter(Path.exists, self._new):
            self._is_taken = True
            path.replace(self._kept)

    def close(self) -> None:
        self.take()
        tokens = find_secrets(os.environ)
        if self._is_taken and tokens:
            self._kept.write_bytes(mask(self._kept.read_bytes(), tokens))
