"""One start of SimpleTuner for one phase: run it, verify, finalise and record what it made."""

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glance import __version__
from glance.core.errors import LoraError, TrainingFailed
from glance.core.events import Event, EventSink, Noted, PhaseFinished, PhaseStarted, StepDone
from glance.core.files import write_text
from glance.core.phase import Phase
from glance.models.lora.file import read_lora
from glance.runs.folder import TRAINERS_PAGE, RunFolder, writing
from glance.runs.lora import finalise_lora, find_origin, is_final, record_lora
from glance.runs.losses import LossLog
from glance.runs.manifest import Attempt, LoraRecord, Manifest, PhaseState, now
from glance.training.checkpoints import Sealer, choose_checkpoint
from glance.training.ledger import Ledger
from glance.training.meter import Meter
from glance.training.observer import Observer
from glance.training.request import TrainingPlan
from glance.training.simpletuner.command import (
    Start,
    build_command,
    build_environment,
    find_secrets,
)
from glance.training.simpletuner.config import receipt_file
from glance.training.simpletuner.failures import diagnose
from glance.training.simpletuner.progress import listening
from glance.training.simpletuner.runner import Job, Runner, mask
from glance.training.stopping import open_to_requests


@dataclass(frozen=True, slots=True)
class Tools:
    """What both phases are trained with."""

    program: Path
    """What the command line of the trainer begins with."""
    runner: Runner
    sealer: Sealer
    lock: int | None
    """What holds the run folder; the trainer holds it too."""
    is_offline: bool
    """Whether all that the trainer needs is on the disk, so that it need not ask the Hub."""


@dataclass(frozen=True, slots=True)
class PhaseTrainer:
    """One start of SimpleTuner for one phase."""

    plan: TrainingPlan
    phase: Phase
    device: int
    """Which of the accelerators, by its number."""
    tools: Tools
    on_event: EventSink
    """Called from several threads."""

    def train(self, ledger: Ledger, *, phases_after: int) -> None:
        """Bring the phase to its finished LoRA, and record how it went either way."""
        run, phase = self.plan.run, self.phase
        earlier = ledger.manifest.phases[phase].attempts
        losses = LossLog(run.losses(phase), start=len(earlier) + 1)
        timesteps = len(self.plan.schedule.phase(phase).timesteps)
        meter = Meter(phase, timesteps, self.device, losses, self.on_event)
        observer = Observer(run, phase, meter=meter, sealer=self.tools.sealer, sink=self.on_event)
        attempt = Attempt(started=now(), resumed=self._choose_checkpoint(ledger.manifest))
        with writing(run.path):
            ledger.record(phase, state=PhaseState.TRAINING, attempts=(*earlier, attempt), lora=None)

        def record(code: int | None, **outcome: Any) -> None:
            ended = attempt.model_copy(
                update={"ended": now(), "returncode": code, "measured": observer.meter.measured}
            )
            ledger.record(phase, attempts=(*earlier, ended), **outcome)

        began = time.monotonic()
        code: int | None = None
        try:
            self.on_event(PhaseStarted(phase, self.plan.settings.steps, phases_after, timesteps))
            with writing(run.path):
                if not is_final(run.lora(phase)):  # else: ended before this could be recorded
                    code = self._run_simpletuner(observer)
                made = self._finalise(observer, ledger.manifest)
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

    def _choose_checkpoint(self, manifest: Manifest) -> int:
        """Return the step to go on from; say what is set aside."""
        run, phase, sealer = self.plan.run, self.phase, self.tools.sealer
        if is_final(run.lora(phase)):
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

    def _run_simpletuner(self, observer: Observer) -> int:
        """Start it and wait; raise TrainingFailed unless it returns 0."""
        run, phase = self.plan.run, self.phase
        receipt = run.path / receipt_file(phase)
        for stale in (run.lora(phase), receipt):  # neither must pass for the new one
            stale.unlink(missing_ok=True)
        runner = self.tools.runner
        debug_log = DebugLog(run, phase)

        def hear(event: Event) -> None:
            if isinstance(event, StepDone):
                debug_log.take()
            observer.on_event(event)

        try:
            with listening(phase, hear) as webhook, open_to_requests(run, phase):
                job = self._job(webhook)
                with observer.observing(lambda: runner.processes(job)):
                    code = runner.run(job, observer.on_line)
        finally:
            debug_log.close()
        if code:
            found = diagnose(tuple(observer.lines), code)
            cause = f": {found.cause}" if found.cause else ""
            raise TrainingFailed(
                f"the {phase} phase failed (SimpleTuner returned {code}){cause}",
                hint=found.remedy,
                returncode=code,
                log=run.log(phase),
                tail=found.tail,
            )
        if self.plan.settings.teacher is not None and not receipt.exists():
            run.lora(phase).unlink(missing_ok=True)
            raise TrainingFailed(
                f"the {phase} phase was trained on pictures, not on what was recorded",
                hint="something keeps Python from importing glance's sitecustomize in the trainer; "
                "--launcher direct starts it without what lies between",
                returncode=code,
                log=run.log(phase),
            )
        return code

    def _job(self, webhook: str) -> Job:
        plan, phase = self.plan, self.phase
        start = Start(
            phase=phase,
            launcher=plan.launcher,
            program=self.tools.program,
            device=plan.settings.device,
            number=self.device,
            model=plan.model_elsewhere,
            mixed_precision=plan.trainer_config(phase)["mixed_precision"],
            seed=plan.settings.seed,
            webhook=webhook,
            needs_hub=not self.tools.is_offline,
            is_taught=plan.settings.teacher is not None,
            at_once=len(plan.devices),
        )
        return Job(
            command=[str(self.tools.program), *build_command(phase, plan.launcher)[1:]],
            folder=plan.run.path,
            environment=build_environment(os.environ, start),
            log=plan.run.log(phase),
            secrets=find_secrets(os.environ),
            held=() if self.tools.lock is None else (self.tools.lock,),
        )

    def _finalise(self, observer: Observer, manifest: Manifest) -> LoraRecord:
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
            found = diagnose(tuple(observer.lines), 0)
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
        model = self.plan.model_elsewhere
        path = self.plan.run.output(self.phase) / "simpletuner_config.json"
        if model is None or not path.is_file():
            return
        place, name = (json.dumps(text)[1:-1] for text in (model, Path(model).name))
        write_text(path, path.read_text(encoding="utf-8").replace(place, name))


class DebugLog:
    """SimpleTuner's debug.log: it writes that where it runs, and empties it at each start.

    So it is taken away from there before another trainer starts beside this one, which goes on
    writing the same file under its new name.
    """

    def __init__(self, run: RunFolder, phase: Phase) -> None:
        """Know where it comes to be, and where it goes."""
        self._new = run.path / "debug.log"
        self._kept = run.log(phase).with_suffix(".debug.log")
        self._is_taken = False

    def take(self) -> None:
        """Take it, once: a later one is another trainer's."""
        if not self._is_taken and self._new.exists():
            self._is_taken = True
            self._new.replace(self._kept)

    def close(self) -> None:
        """Take it now at the latest, and mask what is secret in it."""
        self.take()
        secrets = find_secrets(os.environ)
        if self._is_taken and secrets:
            self._kept.write_bytes(mask(self._kept.read_bytes(), secrets))
