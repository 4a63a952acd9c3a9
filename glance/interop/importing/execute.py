"""Make the run that an import decided: whole or not at all, beside nothing that was there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from glance import __version__
from glance.core.errors import RunError
from glance.core.files import beside, state_folder
from glance.core.phase import Phase
from glance.dataset.examine import Sample
from glance.dataset.stage import Stage, stage_sample
from glance.interop.importing.foreign import ForeignLora
from glance.interop.importing.request import ImportPlan, PairImport, TrainingImport
from glance.interop.importing.spelling import layer_names, respell
from glance.models.base import fingerprint, recorded_folder
from glance.models.lora.file import read_lora, write_lora
from glance.runs.final import finalise_lora
from glance.runs.folder import RunFolder, writing
from glance.runs.manifest import (
    ImportRecord,
    Manifest,
    PhaseState,
    SampleRecord,
    now,
    record_schedule,
)
from glance.runs.modelspec import find_origin, name_pair, record_lora
from glance.training.checkpoints import Sealer
from glance.training.prepare import prepare_run


def run_import(plan: ImportPlan) -> None:
    """Make the run folder.

    It appears when all of it is written; a failure leaves nothing behind. Raises RunError when
    something is there by now, SetupError where it cannot be written, SampleError or LoraError when
    one of the user's files has changed since it was read.
    """
    with _appearing(plan.run) as folder:
        match plan:
            case TrainingImport():
                training = replace(plan.training, run=folder, warnings=())
                prepare_run(training, Sealer(state_folder()))
            case PairImport():
                _write_pair(plan, folder)


@contextmanager
def _appearing(run: RunFolder) -> Iterator[RunFolder]:
    """Yield an empty run beside `run`, which becomes it at the end.

    It lies just as deep, so that paths which are relative to it stay right.
    """
    with writing(run.path), beside(run.path) as made:
        yield RunFolder(made)
        if run.path.is_dir() and not any(run.path.iterdir()):
            run.path.rmdir()
        if run.path.exists():
            raise RunError(f"{run.path} is there by now", hint="give another --run")
        made.rename(run.path)


def _write_pair(plan: PairImport, run: RunFolder) -> None:
    manifest = _manifest(plan, run)
    if plan.sample is not None:
        stage_sample(plan.sample, Stage(run.data, run.references))
    folder = recorded_folder(plan.settings.model, plan.run.path)
    known = layer_names(str(folder) if folder.is_dir() else plan.settings.model)
    for phase, lora in plan.loras.items():
        path = run.lora(phase)
        path.parent.mkdir(parents=True)
        if lora.is_final:
            shutil.copyfile(lora.path, path)
        else:
            _write_final(lora, path, known=known, manifest=manifest, phase=phase)
        record = record_lora(run, phase, rank=read_lora(path).rank)
        manifest = manifest.with_phase(phase, state=PhaseState.DONE, lora=record)
    ours = [phase for phase, lora in plan.loras.items() if not lora.is_final]
    name_pair(run, manifest, headers_of=ours).save(run)


def _write_final(
    lora: ForeignLora,
    path: Path,
    *,
    known: frozenset[str] | None,
    manifest: Manifest,
    phase: Phase,
) -> None:
    """Write it in diffusers' spelling, then finish it as glance finishes its own."""
    factors = dict(lora.factors or {})
    uniform = lora.factor
    if uniform is not None:  # finalising multiplies it in, and says so in the header
        factors = dict.fromkeys(factors, 1.0)
    write_lora(respell(lora.lora, factors, path=lora.path, known=known), path)
    rank = lora.facts.rank
    finalise_lora(
        path,
        rank=rank,
        alpha=rank * (1.0 if uniform is None else uniform),
        origin=find_origin(manifest, phase, version=__version__),
    )


def _manifest(plan: PairImport, run: RunFolder) -> Manifest:
    created = now()
    settings = plan.settings
    return Manifest(
        created=created,
        origin=Sealer(state_folder()).mark(created.isoformat()),
        sample=None if plan.sample is None else _record(plan.sample),
        settings=settings,
        base_model=fingerprint(settings.model, run=run.path, transformer=settings.transformer),
        schedule=record_schedule(plan.schedule),
        versions={},
        imported=ImportRecord(
            sources={phase: lora.path.name for phase, lora in plan.loras.items()},
            sha256={phase: lora.facts.sha256 for phase, lora in plan.loras.items()},
            folded={phase: lora.folded for phase, lora in plan.loras.items()},
            unknown=plan.unknown,
            guidance={
                phase: lora.facts.guidance
                for phase, lora in plan.loras.items()
                if lora.facts.guidance is not None
            },
        ),
    )


def _record(sample: Sample) -> SampleRecord:
    """Return the manifest's form of the pair, as it is staged."""
    return SampleRecord(
        image=f"data/{sample.name}.png",
        caption=f"data/{sample.name}.txt",
        width=sample.width,
        height=sample.height,
        sha256=sample.sha256,
        reference=f"reference/{sample.name}.png" if sample.reference else None,
    )
