"""Train the phases of a plan that are not done, on a machine that can."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from glance.core.errors import LoraError
from glance.core.events import EventSink, Noted, PhaseSkipped, Warned
from glance.core.files import state_folder
from glance.core.hub import fetch_telling
from glance.core.phase import Phase
from glance.models.base import recorded_model, recorded_transformer
from glance.models.checkpoint import read_checkpoint
from glance.models.families import find_family
from glance.models.lora.file import hash_data, hash_file, read_header
from glance.runs.folder import RunFolder, writing
from glance.runs.lock import locked
from glance.runs.manifest import Manifest, PhaseState, load_manifest
from glance.sampling.pipeline.quiet import hush
from glance.training.checkpoints import Sealer
from glance.training.crew import Crew
from glance.training.ledger import Ledger
from glance.training.phase import Tools
from glance.training.preflight import Job, require
from glance.training.prepare import check_run, prepare_run, tidy_run
from glance.training.request import TrainingPlan
from glance.training.simpletuner.command import find_program
from glance.training.simpletuner.runner import ProcessRunner, Runner
from glance.training.summary import summarise


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
        return {"run": str(self.run.path), "phases": phases}

    def summarise(self) -> tuple[str, ...]:
        """Return what was made and what it took, a line each."""
        return summarise(self.run, self.manifest)


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
    is_complete = not plan.hub_models
    if _is_anything_to_do(plan):
        where = (plan.launcher, plan.hub_models, plan.devices)
        job = Job(plan.settings, plan.run, *where, recorded_bytes=recorded_bytes)
        for warning in require(job):
            on_event(Warned(warning.message, warning.hint))
        fetched = [fetch_telling(model, on_event) for model in plan.hub_models]
        is_complete = all(fetched)
    sealer, program = Sealer(state_folder()), find_program(plan.launcher)
    with locked(plan.run, lambda text: on_event(Noted(text))) as lock:
        check_run(plan)  # again: somebody else may have trained here until now
        tools = Tools(program, runner or ProcessRunner(), sealer, lock, is_complete)
        manifest = _train_phases(plan, tools, on_event, make_ready)
    return TrainingResult(plan.run, manifest)


def _train_phases(
    plan: TrainingPlan,
    tools: Tools,
    on_event: EventSink,
    make_ready: Callable[[], None] | None,
) -> Manifest:
    is_anything_to_do = _is_anything_to_do(plan)
    manifest = prepare_run(plan, tools.sealer)
    for warning in plan.warnings:
        on_event(Warned(warning.message, warning.hint))
    for line in plan.told if is_anything_to_do else ():
        on_event(Noted(line))
    if is_anything_to_do and plan.settings.transformer is not None:
        _make_transformer(plan, on_event)
    if is_anything_to_do and make_ready is not None:
        make_ready()
    ledger = Ledger(plan.run, manifest)
    done = [phase for phase in plan.phases if _is_done(plan.run, manifest, phase)]
    for phase in done:
        on_event(PhaseSkipped(phase))
    Crew(plan, tools, ledger, on_event).train([one for one in plan.phases if one not in done])
    if ledger.manifest.is_finished:
        with writing(plan.run.path):
            tidy_run(plan.run)
    return ledger.manifest


def _make_transformer(plan: TrainingPlan, on_event: EventSink) -> None:
    """Bring the single file into the layout that SimpleTuner loads; it reads no file as it is."""
    run, settings = plan.run, plan.settings
    path = recorded_transformer(settings.transformer, run=run.path)
    if path is None or run.transformer.exists():
        return
    model = recorded_model(settings.model, family=find_family(settings.family), run=run.path)
    on_event(Noted(f"the transformer is that of {path}, everything else that of {model}"))
    hush()
    from glance.sampling.pipeline.load import write_transformer

    with writing(run.path):
        write_transformer(read_checkpoint(path), model, run.transformer)


def _is_anything_to_do(plan: TrainingPlan) -> bool:
    if plan.restart or not plan.run.manifest.exists():
        return True
    manifest = load_manifest(plan.run)
    return not all(_is_done(plan.run, manifest, phase) for phase in plan.phases)


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
