"""The run folder before and after training: may it be used, fill it, tidy it."""

import json
import re
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from glance.core.errors import Problem, RunError
from glance.core.files import write_json, write_text
from glance.core.phase import Phase
from glance.dataset.sample import Sample, stage_sample
from glance.models.base import fingerprint
from glance.runs.folder import LORA_FILE, TRAINERS_PAGE, RunFolder, writing
from glance.runs.manifest import (
    Manifest,
    PhaseRecord,
    SampleRecord,
    load_manifest,
    now,
    record_schedule,
)
from glance.training.checkpoints import Sealer, remove_set_aside
from glance.training.differences import find_differences
from glance.training.request import TrainingPlan

_STATES = "output/*/checkpoint-*/training_state-*.json"
# In a checkpoint's state, with the run folder in front: that may hold folders of these names too.
_A_PICTURE = re.compile(
    r'"(/[^"]*?)/(?:data|reference|cache/(?:pictures|reference))/(?:[^"/]*/)?[^"/]*"'
)
_PACKAGES = ("simpletuner", "torch", "diffusers", "transformers", "peft", "accelerate")


def check_run(plan: TrainingPlan) -> None:
    """Raise RunError when the run folder holds something that `plan` must not touch.

    That is a folder which is no run, or a run of another sample, schedule or other settings,
    unless all its trained phases are to be restarted.
    """
    with writing(plan.run.path):
        manifest = find_manifest(plan.run)
    if manifest is None:
        return
    if manifest.imported is not None:
        raise RunError(
            f"run {plan.run.path} holds a pair that was imported: there is nothing to train in it",
            hint="give another --run",
        )
    differences = find_differences(manifest, plan, base_model=_fingerprint(plan))
    kept = _kept_phases(manifest, plan)
    if differences and (kept or not plan.restart):
        *others, last = (
            f"run {plan.run.path} was trained with other settings: {item}" for item in differences
        )
        hint = "give another --run; --restart would discard what this one has trained"
        if plan.restart:
            hint = f"give another --run; --phase both would discard the {kept[0]} phase as well"
        raise RunError([*map(Problem, others), Problem(last, hint)])
    if plan.restart and not kept and manifest.settings.teacher is not None:
        _require_lasting(plan)


def prepare_run(plan: TrainingPlan, sealer: Sealer) -> Manifest:
    """Make or continue the run folder and return its manifest. Safe to repeat.

    Raises SetupError when the folder cannot be written.
    """
    with writing(plan.run.path):
        for path in _half_written(plan.run):
            path.unlink(missing_ok=True)
        manifest = _open_manifest(plan, sealer)
        manifest.save(plan.run)
        if plan.sample is not None:
            stage_sample(plan.sample, plan.stage)
        for name, content in plan.files.items():
            write_json(plan.run.path / name, content)
        _forget_old_place(plan.run)
    return manifest


def tidy_run(run: RunFolder) -> None:
    """Remove SimpleTuner's bookkeeping of a finished run: it holds absolute paths."""
    for path in _bookkeeping(run):
        path.unlink(missing_ok=True)
    for cache in run.path.glob("cache/vae*"):
        shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(run.transformer, ignore_errors=True)
    for phase in Phase:  # a run that an older glance has trained has one still
        (run.output(phase) / TRAINERS_PAGE).unlink(missing_ok=True)
    remove_set_aside(run)


def find_manifest(run: RunFolder) -> Manifest | None:
    """Return the manifest, None where a run may begin; raise RunError for a stranger's folder."""
    if not run.path.exists():
        return None
    if not run.path.is_dir():
        raise RunError(f"{run.path} is not a folder", hint="give --run another path")
    if run.manifest.exists():
        return load_manifest(run)
    ours = {run.model.name, run.unfinished_model.name, run.lock.name}
    half_written = {path.name for path in _half_written(run)}
    found = {path.name for path in run.path.iterdir()}
    strangers = sorted(found - ours - half_written)
    if not strangers:
        return None
    raise RunError(
        f"{run.path} is no run folder: it holds {', '.join(strangers[:3])}, no glance.json",
        hint="give --run another path",
    )


def _require_lasting(plan: TrainingPlan) -> None:
    """Refuse a pair that lies among the pictures of the base model: a restart removes those."""
    sample, folder = plan.sample, plan.run.data.resolve()
    if sample is None:
        return
    for path in filter(None, (sample.image, sample.caption_file, sample.reference)):
        if path.resolve().is_relative_to(folder):
            raise RunError(
                f"{path} lies among the recorded pictures of {plan.run.path}, which --restart "
                "removes",
                hint="copy it to another place first, or give another --run",
            )


def _kept_phases(manifest: Manifest, plan: TrainingPlan) -> list[Phase]:
    """Return the phases that have been trained, and that `plan` leaves alone."""
    return [
        phase for phase in Phase if phase not in plan.phases and manifest.phases[phase].attempts
    ]


def _open_manifest(plan: TrainingPlan, sealer: Sealer) -> Manifest:
    created = now()
    fresh = Manifest(
        created=created,
        origin=sealer.mark(created.isoformat()),
        sample=_record_sample(plan.sample),
        settings=plan.settings,
        base_model=_fingerprint(plan),
        schedule=record_schedule(plan.schedule),
        versions=_versions(),
    )
    if not plan.run.manifest.exists():
        return fresh
    found = load_manifest(plan.run)
    if not plan.restart:
        # the picture may have another name, the model another place
        return found.model_copy(update={"sample": fresh.sample, "settings": fresh.settings})
    for phase in plan.phases:
        shutil.rmtree(plan.run.output(phase), ignore_errors=True)
        plan.run.losses(phase).unlink(missing_ok=True)
    kept_phases = _kept_phases(found, plan)
    if not kept_phases:
        for folder in ("cache", "config", "transformer"):
            shutil.rmtree(plan.run.path / folder, ignore_errors=True)
        if found.settings.teacher is not None:  # its pictures; a pair's may be the user's own
            shutil.rmtree(plan.run.data, ignore_errors=True)
    kept = {
        phase: PhaseRecord() if phase in plan.phases else found.phases[phase] for phase in Phase
    }
    if not kept_phases:
        return fresh.model_copy(update={"phases": kept})
    begun = {"created": found.created, "origin": found.origin}
    return fresh.model_copy(update={"phases": kept, **begun})


def _record_sample(sample: Sample | None) -> SampleRecord | None:
    if sample is None:
        return None
    return SampleRecord(
        image=f"data/{sample.name}.png",
        caption=f"data/{sample.name}.txt",
        width=sample.width,
        height=sample.height,
        sha256=sample.sha256,
        reference=f"reference/{sample.name}.png" if sample.reference else None,
    )


def _fingerprint(plan: TrainingPlan) -> str:
    settings = plan.settings
    return fingerprint(settings.model, run=plan.run.path, transformer=settings.transformer)


def _forget_old_place(run: RunFolder) -> None:
    """Drop bookkeeping that a move made wrong; SimpleTuner rebuilds it in no time.

    What a checkpoint says of the pictures that it has seen is kept: without it a training that
    goes on would take them in another order than one that was not interrupted. The latents' cache
    repeats the run's absolute path below itself: a moved run's is stale.
    """
    states = set(run.path.glob(_STATES))
    for path in _bookkeeping(run):
        if path not in states or not _name_new_place(path, run):
            path.unlink(missing_ok=True)
    for cache in run.path.glob("cache/vae*"):
        if not (cache / run.path.resolve().relative_to("/")).exists():
            shutil.rmtree(cache, ignore_errors=True)


def _name_new_place(state: Path, run: RunFolder) -> bool:
    """Let a checkpoint's state name the run folder where it is now; whether that can be done."""
    try:
        text = state.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    if (named := _A_PICTURE.search(text)) is None:
        return False
    here = json.dumps(str(run.path.resolve()))[1:-1]
    if named[1] != here:
        write_text(state, text.replace(f'"{named[1]}/', f'"{here}/'))
    return True


def _half_written(run: RunFolder) -> list[Path]:
    """Return what a glance that was killed has left beside files that it was writing."""
    patterns = (
        f".{run.manifest.name}.*",
        "config/.*.json.*",
        "config/*/.*.json.*",
        f"output/*/.{LORA_FILE}.*",
    )
    return [path for pattern in patterns for path in run.path.glob(pattern)]


def _bookkeeping(run: RunFolder) -> list[Path]:
    patterns = (
        "data/aspect_ratio_bucket_*.json",
        "data/*/aspect_ratio_bucket_*.json",
        "reference/aspect_ratio_bucket_*.json",
        "cache/reference/aspect_ratio_bucket_*.json",
        "cache/pictures/*/aspect_ratio_bucket_*.json",
        "output/*/all_*_files*.json",
        "output/*/aspect_resolution_map*.json",
        _STATES,
        "config/*/requests.json",
        "config/*/targets-in-use.txt",
    )
    return [path for pattern in patterns for path in run.path.glob(pattern)]


def _versions() -> dict[str, str]:
    found = {"python": python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
