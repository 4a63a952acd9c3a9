"""A training's run folder: may it be used, what differs from what is asked, fill it, tidy it."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, count, zip_longest
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from glance.core.device import Device
from glance.core.errors import Problem, RunError, as_typed, quoted, shown
from glance.core.files import find_place, record_place, write_json, write_text
from glance.core.phase import Phase
from glance.core.pictures import DECODER_ERRORS, open_picture, to_rgb
from glance.models.base import shown_model
from glance.runs.checkpoints import Sealer, checkpoint_names, is_whole, remove_set_aside
from glance.runs.folder import LORA_FILE, TRAINERS_PAGE, RunFolder, writing
from glance.runs.manifest import (
    Manifest,
    PhaseRecord,
    PhaseState,
    SampleRecord,
    load_manifest,
    now,
    record_schedule,
)
from glance.runs.sample import Sample, stage_sample
from glance.training.simpletuner.config import PICTURES_FOLDER, REFERENCE_FOLDER, warm_up_steps

if TYPE_CHECKING:
    from glance.training.plan import TrainingPlan

_BEFORE: Final = 20  # characters of a text, before what differs
_SHOWN: Final = 80
_SAID: Final = {"overrides": "--set", "also_resolutions": "further --resolution", "crops": "--crop"}
"""How the user says a setting, where its name is not that."""
_STATES = "output/*/checkpoint-*/training_state-*.json"
# In a checkpoint's state, with the run folder in front: that may hold folders of these names too.
_A_PICTURE = re.compile(
    r'"(/[^"]*?)/(?:data|reference|cache/(?:pictures|reference))/(?:[^"/]*/)?[^"/]*"'
)
_PACKAGES = ("simpletuner", "torch", "diffusers", "transformers", "peft", "accelerate")


def choose_folder(plan: "TrainingPlan") -> "TrainingPlan":
    """Return the plan in that folder of its name, or `x-2` and so on, that holds this experiment.

    Else in one that holds a shorter one of it; where others alone are there, in a new one. Raises
    RunError for a run that cannot be read, and where --restart does not say which of several it
    means.
    """
    manifests, unread = _look_around(plan.run)
    placed = {number: _place(plan, number) for number in manifests}
    others = {number: _differ(manifests[number], one) for number, one in placed.items()}
    for number, differences in others.items():
        if not differences:
            return placed[number]
    for number, exc in unread.items():
        if _place(plan, number).run.manifest.exists():  # it may be this experiment's
            raise exc
    shorter = [number for number, one in placed.items() if _is_longer(manifests[number], one)]
    if shorter:
        return placed[max(shorter, key=lambda number: manifests[number].settings.steps)]
    if plan.restart and len(placed) == 1:
        return next(iter(placed.values()))
    names = [str(one.run.path) for one in placed.values()]
    if plan.restart and names:
        raise RunError(
            f"--restart: none of {', '.join(names)} holds this experiment",
            hint=f"say which one is to be discarded: --run {quoted(Path(names[-1]))}",
        )
    fresh = _place(plan, next(one for one in count(1) if one not in (*manifests, *unread)))
    if not (manifests or unread):
        return fresh
    why = "; ".join(map(str, unread.values()))
    if others:
        nearest = min(others, key=lambda number: len(others[number]))
        why = f"another experiment than {placed[nearest].run.path} ({', '.join(others[nearest])})"
    return replace(fresh, notes=(*fresh.notes, f"{why}: this one is {fresh.run.path}"))


def check_run(plan: "TrainingPlan") -> tuple[str, ...]:
    """Return what is to be said of a run that is trained on; none of a new one.

    Raises RunError when the run folder holds something that `plan` must not touch. That is a folder
    which is no run, or a run of another sample, schedule or other settings, unless all its trained
    phases are to be restarted; more steps continue it, where a checkpoint is left of each phase.
    """
    with writing(plan.run.path):
        manifest = find_manifest(plan.run)
    return () if manifest is None else check_manifest(manifest, plan)


def check_manifest(manifest: Manifest, plan: "TrainingPlan") -> tuple[str, ...]:
    """Do the same for a run of which this is the manifest, wherever it lies."""
    if manifest.imported is not None:
        raise RunError(
            f"run {plan.run.path} holds a pair that was imported: there is nothing to train in it",
            hint="give another --run",
        )
    if _is_longer(manifest, plan):
        return tuple(_describe_longer(manifest, plan))
    differences = _find_differences(manifest, plan)
    kept = _kept_phases(manifest, plan)
    if differences and (kept or not plan.restart):
        *others, last = (
            f"run {plan.run.path} was trained with other settings: {item}" for item in differences
        )
        hint = _advise(manifest, plan, differences)
        raise RunError([*map(Problem, others), Problem(last, hint)])
    if plan.restart and not kept and manifest.settings.teacher is not None:
        _require_lasting(plan)
    return ()


def prepare_run(plan: "TrainingPlan", sealer: Sealer) -> Manifest:
    """Make or continue the run folder and return its manifest. Safe to repeat.

    Raises SetupError when the folder cannot be written, RunError for a finished run that cannot go
    on to more steps: nothing is changed then.
    """
    with writing(plan.run.path):
        for path in _half_written(plan.run):
            path.unlink(missing_ok=True)
        manifest = _open_manifest(plan, sealer)
        manifest.save(plan.run)
        for folder in (PICTURES_FOLDER, REFERENCE_FOLDER):  # the trainer takes all that it finds
            shutil.rmtree(plan.run.path / folder, ignore_errors=True)
        for sample in plan.samples:
            stage_sample(sample, plan.stage(sample))
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


def _look_around(run: RunFolder) -> tuple[dict[int, Manifest], dict[int, RunError]]:
    """Return the runs that are called `x` (1), `x-2` (2) and so on, and what is no run of ours."""
    numbered = re.compile(re.escape(run.path.name) + r"(?:-([2-9]|[1-9]\d{1,5}))?")
    manifests, unread = dict[int, Manifest](), dict[int, RunError]()
    with writing(run.path):
        beside = list(run.path.parent.iterdir()) if run.path.parent.is_dir() else []
        named = ((numbered.fullmatch(path.name), path) for path in beside)
        found = sorted((int(match[1] or 1), path) for match, path in named if match)
        for number, path in found:
            try:
                manifest = find_manifest(RunFolder(path))
            except RunError as exc:
                unread[number] = exc
                continue
            if manifest is not None:
                manifests[number] = manifest
    return manifests, unread


def _place(plan: "TrainingPlan", number: int) -> "TrainingPlan":
    """Return the plan in the run folder of that number, from where the same files are seen."""
    if number == 1:
        return plan
    run = RunFolder(plan.run.path.with_name(f"{plan.run.path.name}-{number}"))
    model, transformer = plan.base.record(run.path)
    settings = plan.settings.model_copy(update={"model": model, "transformer": transformer})
    if settings.teacher is not None:
        places = {
            sha256: record_place(path, run.path)
            if (path := find_place(place, plan.run.path)).exists()
            else place  # on the Hub
            for sha256, place in settings.teacher.places.items()
        }
        teacher = settings.teacher.model_copy(update={"places": places})
        settings = settings.model_copy(update={"teacher": teacher})
    return replace(plan, run=run, settings=settings)


def _differ(manifest: Manifest, plan: "TrainingPlan") -> list[str]:
    """Return what keeps a plan from going on in a run: none where it is the very experiment."""
    imported = [] if manifest.imported is None else ["imported"]
    return [*imported, *_find_differences(manifest, plan)]


def _advise(manifest: Manifest, plan: "TrainingPlan", differences: Sequence[str]) -> str:
    """Say what to do about a run that is not what is asked for."""
    before, after = manifest.settings.steps, plan.settings.steps
    kept = _kept_phases(manifest, plan)
    if plan.restart:
        return f"give another --run; --phase both would discard the {kept[0]} phase as well"
    if differences[0].startswith("sample:") and any(_is_staged(plan, one) for one in plan.samples):
        return "give the image and its caption as they were: --image x.png"
    if len(differences) == 1 and after < before:
        return f"--steps {before} continues it; to train fewer, give another --run"
    if len(differences) == 1 and after > before:
        if kept:
            return "both LoRAs go on to more steps together: leave out --phase"
        return f"its checkpoints are gone: give another --run; --restart trains all {after} steps"
    return "give another --run; --restart would discard what this one has trained"


def _is_staged(plan: "TrainingPlan", sample: Sample) -> bool:
    return sample.image.resolve().is_relative_to(plan.run.data.resolve())


def _require_way_on(plan: "TrainingPlan", found: Manifest, sealer: Sealer) -> None:
    """Refuse to go on from phases that are done and of which no checkpoint can be used."""
    run, is_ours = plan.run, sealer.mark(found.created.isoformat()) == found.origin
    for phase in (one for one in Phase if found.phases[one].state is PhaseState.DONE):
        checkpoints = [run.output(phase) / name for name in checkpoint_names(run, phase)]
        if any(sealer.is_sealed(one) or (plan.trust and is_whole(one)) for one in checkpoints):
            continue
        if not is_ours and not plan.trust:
            raise RunError(
                f"run {run.path} was not begun here, and the checkpoints of its {phase} phase are "
                "pickles: whoever made them could run anything on this machine",
                hint="continue it with --trust if you know where it comes from, or train in "
                "another --run",
            )
        raise RunError(
            f"run {run.path}: no checkpoint of its {phase} phase is whole, to go on from",
            hint=f"give another --run, or --restart trains all {plan.settings.steps} steps",
        )


def _require_lasting(plan: "TrainingPlan") -> None:
    """Refuse a pair that lies among the pictures of the base model: a restart removes those."""
    folder = plan.run.data.resolve()
    given = [(one.image, one.caption_file, one.reference) for one in plan.samples]
    for path in filter(None, chain.from_iterable(given)):
        if path.resolve().is_relative_to(folder):
            raise RunError(
                f"{path} lies among the recorded images of {plan.run.path}, which --restart "
                "removes",
                hint="copy it to another place first, or give another --run",
            )


def _is_longer(manifest: Manifest, plan: "TrainingPlan") -> bool:
    """Whether the plan is that of the run, but for more steps, and the run can go on to them."""
    if plan.settings.steps <= manifest.settings.steps or plan.restart:
        return False
    if manifest.imported is not None or _kept_phases(manifest, plan):
        return False
    as_it_was = plan.settings.model_copy(update={"steps": manifest.settings.steps})
    if _find_differences(manifest, replace(plan, settings=as_it_was)):
        return False
    done = (one for one in Phase if manifest.phases[one].state is PhaseState.DONE)
    return all(checkpoint_names(plan.run, phase) for phase in done)


def _describe_longer(manifest: Manifest, plan: "TrainingPlan") -> Iterator[str]:
    before, after = manifest.settings.steps, plan.settings.steps
    yield f"{plan.run.path} was trained for {before} steps, and goes on to {after}"
    if manifest.is_finished:
        yield f"until then there is no pair in it; to keep that of {before} steps, copy the folder"
    if plan.settings.learning_rate_schedule == "linear":
        yield (
            f"its learning rate has fallen for an end at step {before}: {after} steps at once give "
            "another pair"
        )
    elif warm_up_steps(before) != warm_up_steps(after):
        yield f"it warmed up for {warm_up_steps(before)} steps: {after} at once give another pair"


def _kept_phases(manifest: Manifest, plan: "TrainingPlan") -> list[Phase]:
    # those that have been trained, and that `plan` leaves alone
    return [
        phase for phase in Phase if phase not in plan.phases and manifest.phases[phase].attempts
    ]


def _open_manifest(plan: "TrainingPlan", sealer: Sealer) -> Manifest:
    created, samples = now(), tuple(map(SampleRecord.of, plan.samples))
    fresh = Manifest(
        created=created,
        origin=sealer.mark(created.isoformat()),
        sample=next(iter(samples), None),
        also_samples=samples[1:],
        previews=plan.previews,
        settings=plan.settings,
        base_model=plan.base.fingerprint,
        schedule=record_schedule(plan.schedule),
        versions=_versions(),
    )
    if not plan.run.manifest.exists():
        return fresh
    found = load_manifest(plan.run)
    if not plan.restart:
        # the pictures may have other names, the model another place
        names = ("sample", "also_samples", "settings", "previews")
        changes: dict[str, Any] = {name: getattr(fresh, name) for name in names}
        if plan.settings.steps > found.settings.steps:  # each phase goes on, from its checkpoint
            _require_way_on(plan, found, sealer)
            changes |= {"phases": _reopen(found.phases), "pair_id": None, "verdict": None}
        return found.model_copy(update=changes)
    for phase in plan.phases:
        shutil.rmtree(plan.run.output(phase), ignore_errors=True)
        plan.run.losses(phase).unlink(missing_ok=True)
    shutil.rmtree(plan.run.previews, ignore_errors=True)
    kept = _kept_phases(found, plan)
    if kept:
        phases = {one: found.phases[one] if one in kept else PhaseRecord() for one in Phase}
        begun = {"created": found.created, "origin": found.origin}
        return fresh.model_copy(update={"phases": phases, **begun})
    for folder in ("cache", "config", "transformer"):
        shutil.rmtree(plan.run.path / folder, ignore_errors=True)
    if found.settings.teacher is not None:  # its pictures; a pair's may be the user's own
        shutil.rmtree(plan.run.data, ignore_errors=True)
    return fresh


def _reopen(phases: Mapping[Phase, PhaseRecord]) -> dict[Phase, PhaseRecord]:
    """Return phases of which none is done any more; what is there of them stays recorded."""
    return {
        phase: record.model_copy(update={"state": PhaseState.STOPPED})
        if record.state is PhaseState.DONE
        else record
        for phase, record in phases.items()
    }


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


# --- what a run was trained on and with, against what is asked of it now ---


def _find_differences(manifest: Manifest, plan: "TrainingPlan") -> list[str]:
    """Return what of the recorded run is not what is asked now, value by value."""
    there: dict[str, Any] = {
        "schedule": manifest.resolve_schedule().to_json(),
        **manifest.settings.spread(),
    }
    asked: dict[str, Any] = {"schedule": plan.schedule.to_json(), **plan.settings.spread()}
    if ("noises" in there) != ("noises" in asked):  # the rest follows from it
        ways = ("one image", "the base model's own paths")
        return [f"trained on: {ways['noises' in there]} there, {ways['noises' in asked]} asked"]
    if there["device"] == asked["device"] != Device.CUDA:
        there["preset"] = asked["preset"]  # it decides nothing
    if "quantize" in there and there["quantize"] is None:
        there["quantize"] = asked["quantize"]  # nobody knows
    for values in (there, asked):
        for name in ("model", "transformer"):
            values[name] = values[name] and shown_model(values[name], run=plan.run.path)
    if manifest.base_model == plan.base.fingerprint:
        # the same one, wherever it or the run is now
        there |= {name: asked[name] for name in ("model", "transformer", "weights")}
    elif there["model"] == asked["model"]:
        there["model"] += " as it was"
    return [
        *_of_pairs(plan.run, manifest.samples, plan.samples),
        *(_difference(one, there[one], asked[one]) for one in asked if there[one] != asked[one]),
    ]


def _of_pairs(
    run: RunFolder, recorded: Sequence[SampleRecord], samples: Sequence[Sample]
) -> list[str]:
    """Return what differs of the pairs, whatever their order and their files' names."""
    there, asked = {one.sha256 for one in recorded}, {one.sha256 for one in samples}
    gone = [one for one in recorded if one.sha256 not in asked]
    new = [one for one in samples if one.sha256 not in there]
    if len(gone) == len(new) == 1:
        return _of_pair(run, gone[0], new[0])
    return [
        *(f"sample: {one.image} there, not asked" for one in gone),
        *(f"sample: {shown(one.image)} asked, not there" for one in new),
    ]


def _of_pair(run: RunFolder, recorded: SampleRecord, sample: Sample) -> list[str]:
    """Return what differs of the pair; that it does, where its copy in the run says no more."""
    try:
        found = list(_of_copy(run, recorded, sample))
    except DECODER_ERRORS:
        found = []
    if not found and sample.image.resolve() == (run.path / recorded.image).resolve():
        return [f"sample: {recorded.image} or its caption is not what it was"]
    return found or [f"sample: {recorded.sha256[:12]} there, {sample.sha256[:12]} asked"]


def _of_copy(run: RunFolder, recorded: SampleRecord, sample: Sample) -> Iterator[str]:
    caption = (run.path / recorded.caption).read_text(encoding="utf-8").strip()
    if caption != sample.caption:
        there, asked = _where_they_differ(caption, sample.caption)
        yield f"caption: {there} there, {asked} asked"
    for word, copy, path in (
        ("image", recorded.image, sample.image),
        ("reference", recorded.reference, sample.reference),
    ):
        if copy is None or path is None:
            continue
        old, new = _read(run.path / copy), _read(path)
        if old.size != new.size:
            sizes = (f"{width}x{height}" for width, height in (old.size, new.size))
            yield "{}: {} there, {} asked".format(word, *sizes)
        elif old.tobytes() != new.tobytes():
            yield f"{word}: other pixels there than in {shown(path)}"


def _read(path: Path) -> Image.Image:
    with open_picture(path) as picture:
        return to_rgb(picture)[0]


def _where_they_differ(one: str, other: str) -> Iterator[str]:
    """Yield both texts, quoted; of long ones, the part where they begin to differ."""
    alike = next((n for n, two in enumerate(zip_longest(one, other)) if two[0] != two[1]), 0)
    start = max(0, alike - _BEFORE) if max(len(one), len(other)) > _SHOWN else 0
    for text in (one, other):
        end = start + _SHOWN
        part = ("..." if start else "") + text[start:end] + ("..." if text[end:] else "")
        yield shown(repr(part))


def _difference(name: str, there: Any, asked: Any) -> str:
    if name != "prompts":
        said = _SAID.get(name, name)
        return f"{said}: {_shown(name, there)} there, {_shown(name, asked)} asked"
    differing = (two for two in enumerate(zip_longest(there, asked), 1) if two[1][0] != two[1][1])
    first, pair = next(differing)
    one, other = ("none" if prompt is None else repr(prompt) for prompt in pair)
    return (
        f"prompts: {len(there)} there, {len(asked)} asked; number {first} is {one} there, {other} "
        "asked"
    )


def _shown(name: str, value: Any) -> str:
    match name:
        case "schedule":
            return " | ".join(",".join(map(str, part["timesteps"])) for part in value.values())
        case "sizes":
            return ", ".join(f"{width}x{height}" for width, height in value)
        case "loras":
            return ", ".join(f"{lora} ({sha256[:12]})" for lora, sha256 in value.items()) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_shown('', one)}" for key, one in value.items()) or "none"
    if isinstance(value, list):
        return ",".join(_shown("", one) for one in value) or "none"
    return "none" if value is None else as_typed(value)
