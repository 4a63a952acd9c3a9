"""What pages show of a run: read anew from its folder each time, and from what its job tells."""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from PIL import Image

from glance.core.errors import GlanceError, InputError
from glance.core.files import read_text
from glance.core.options import to_document
from glance.core.phase import Phase
from glance.core.pictures import DECODER_ERRORS, open_picture, to_rgb
from glance.evaluation.report import SHEET, find_picture
from glance.evaluation.request import Variant
from glance.interop.export import open_source
from glance.runs.folder import RUNS, RunFolder
from glance.runs.listing import list_runs
from glance.runs.lock import who_trains
from glance.runs.losses import Course, read_course
from glance.runs.manifest import Manifest, PhaseState, load_manifest, require_finished
from glance.sampling.provenance import FORMATS, Record, base_path, preview_path
from glance.sampling.request import InferRequest
from glance.web.jobs import Job, Jobs, shown_command

TRAININGS: Final = ("train", "distill")
_POINTS: Final = 400  # of a chart
_LISTED: Final = 60  # images of a run, the newest
_THUMBNAIL: Final = 320  # pixels
_COMPARED: Final = Path("images", "compare")


def all_runs(jobs: Jobs, folder: Path = RUNS) -> list[dict[str, Any]]:
    """Return every run in a folder with a thumbnail; in runs/ those that just begin as well."""
    running = {job.run: job for job in jobs.running() if job.command in TRAININGS}
    found = [
        {
            **item,
            "thumbnail": thumbnail(RunFolder(Path(item["run"]))),
            "is_finished": all(state == PhaseState.DONE for state in item["states"].values()),
            "is_running": item["run"] in running or who_trains(RunFolder(Path(item["run"]))),
        }
        for item in list_runs(folder)
    ]
    known = {item["run"] for item in found}
    beginning = [
        {"run": job.run, "command": job.command}
        for job in running.values()
        if job.run not in known and folder == RUNS
    ]
    return [*beginning, *found]


def batches() -> list[str]:
    """Return the folders in runs/ that `glance batch` has filled with runs."""
    return [path.parent.as_posix() for path in sorted(RUNS.glob("*/batch.json"))]


def thumbnail(run: RunFolder) -> str | None:
    """Return the image that stands for a run: its sample, else its last preview or image."""
    for folder in (run.data, run.previews, run.images, run.path / _COMPARED):
        found = sorted(_images_in(folder), key=lambda path: path.stat().st_mtime)
        if found:
            return found[-1].as_posix()
    return None


def finished_runs(chosen: Path | None = None) -> list[str]:
    """Return the runs of runs/ whose pair can be sampled with, the newest first.

    A `chosen` one comes before them, wherever it lies; raises RunError where it is none.
    """
    found = [
        item["run"]
        for item in list_runs(RUNS)
        if all(state == PhaseState.DONE for state in item["states"].values())
    ]
    if chosen is None:
        return found
    run = RunFolder(chosen)
    require_finished(run, load_manifest(run))
    return list(dict.fromkeys([chosen.as_posix(), *found]))


def describe_run(jobs: Jobs, path: Path) -> dict[str, Any]:
    """Return all that a run's page shows; raises RunError where there is neither run nor job."""
    run, job = RunFolder(path), jobs.of_run(path.as_posix(), TRAININGS)
    # a job that is beginning, or that did not get that far, has no run yet
    is_early = job is not None and not run.manifest.exists() and not _is_done(jobs, job)
    manifest = None if is_early else load_manifest(run)
    progress = None if job is None else jobs.progress(job)
    is_running = job is not None and jobs.runs(job)
    others = None if is_running else who_trains(run)
    document: dict[str, Any] = {
        "run": path.as_posix(),
        "is_running": is_running,
        "trained_by": others,
        "job": None if job is None else describe_job(jobs, job),
        "phases": {},
        "is_finished": False,
        "can_continue": not is_running and others is None,
        "previews": [] if progress is None else [_local(one) for one in progress.previews],
    }
    if manifest is None:
        return document
    previews = sorted(_images_in(run.previews), key=lambda one: one.stat().st_mtime)
    return {
        **document,
        "phases": {phase.value: _describe_phase(run, manifest, phase) for phase in Phase},
        "is_finished": manifest.is_finished,
        "can_continue": document["can_continue"] and _can_continue(manifest),
        "previews": [one.as_posix() for one in previews][-_LISTED:],
        "verdict": manifest.verdict,
    }


def describe_job(jobs: Jobs, job: Job) -> dict[str, Any]:
    """Return what a page shows of a job."""
    ending, progress = jobs.ending(job), jobs.progress(job)
    told = asdict(progress)
    del told["offset"]
    return {
        "id": job.id,
        "command": shown_command(job.words),
        "name": job.command,
        "run": job.run,
        "state": "running" if ending is None else ending.state,
        "problems": [] if ending is None else [one.to_json() for one in ending.problems],
        "said": jobs.said(job, lines=30),
        **told,
        "images": [_local(one) for one in dict.fromkeys(progress.images)],
    }


def run_images(path: Path) -> list[dict[str, Any]]:
    """Return the images that were generated with a run, the newest first, with their twins."""
    found = sorted(
        _images_in(RunFolder(path).images), key=lambda one: one.stat().st_mtime, reverse=True
    )
    there, places = set(found), {"base": base_path, "slow": preview_path}
    twins = {place(one) for one in found for place in places.values()}
    return [
        {
            "image": one.as_posix(),
            **{
                name: place(one).as_posix() if place(one) in there else None
                for name, place in places.items()
            },
        }
        for one in found
        if one not in twins and one.name != SHEET
    ][:_LISTED]


def comparison(path: Path) -> dict[str, Any] | None:
    """Return what the last comparison of a run says, its images and its intervals; None: none."""
    folder = path / _COMPARED
    try:
        document = json.loads(read_text(folder / "compare.json"))
        return {
            "sentence": document["sentence"],
            "verdict": document["verdict"],
            "sheet": (folder / SHEET).as_posix(),
            "intervals": list(_intervals(document["verdict"])),
            "table": list(_table(document)),
            "rows": [
                {
                    "prompt": row["prompt"],
                    "seed": row["seed"],
                    "images": {
                        name: find_picture(folder, number, Variant(name)).as_posix()
                        for name in row["variants"]
                    },
                    "labels": {
                        name: Variant(name).label(cell["steps"])
                        for name, cell in row["variants"].items()
                    },
                }
                for number, row in enumerate(document["rows"], 1)
            ],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # there is none, or it is another glance's


def _intervals(verdict: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a paired difference a figure, as shares of the base's: below 0 the pair is nearer."""
    names = {"distance": "latents", "perceptual": (verdict.get("perceptual") or {}).get("metric")}
    for key, name in names.items():
        found = verdict.get(key)
        if found and found.get("interval") and found["base"]:
            low, high = (one / found["base"] for one in found["interval"])
            middle = found["difference"] / found["base"]
            yield {"name": name, "low": low, "middle": middle, "high": high}


def _table(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    labels = document["rows"][0]["variants"]
    for name, means in document["means"].items():
        figures = {
            metric: None
            if one is None
            else f"{one['mean']:.4g} ({one['low']:.4g} to {one['high']:.4g})"
            if one["low"] is not None
            else f"{one['mean']:.4g}"
            for metric, one in means.items()
        }
        yield {"name": Variant(name).label(labels[name]["steps"]), "figures": figures}


def asked_by(record: Record, *, run: str | None) -> dict[str, Any]:
    """Return what a form for sampling has to say to make an image again, but for its paths.

    Anybody may have written a record: what it names as model and LoRAs is not taken, the run only
    where it is one of ours.
    """
    settings, schedule = record.settings, record.schedule
    scales = {use.phase: use.scale for use in record.loras}
    request = InferRequest(
        prompts=(settings.prompt,),
        negative_prompt=settings.negative_prompt or None,
        seeds=(settings.seed,),
        run=None if run is None else Path(run),
        size=(settings.width, settings.height),
        guidance=(settings.slow_guidance, settings.fast_guidance),
        true_cfg=settings.true_cfg,
        slow_scale=scales.get(Phase.SLOW),
        fast_scale=scales.get(Phase.FAST),
    )
    document = to_document(request, only_changed=False)
    lists = {"slow-timesteps": schedule.slow.timesteps, "fast-timesteps": schedule.fast.timesteps}
    known = None if run is None else load_manifest(RunFolder(Path(run))).schedule
    same = known is not None and all(
        getattr(known, phase)["timesteps"] == getattr(schedule, phase).timesteps for phase in Phase
    )
    if not same:
        document |= {name: ",".join(f"{one:.10g}" for one in lists[name]) for name in lists}
    return {key: value for key, value in document.items() if key not in ("width", "height")}


def exported(path: Path, kind: str) -> tuple[str, bytes]:
    """Return an export of a finished run as a zip file, and its name."""
    source = open_source(path)
    name = f"{source.name}-{kind}"
    with TemporaryDirectory(prefix="glance-") as temporary:
        folder = Path(temporary, name)
        if kind == "comfyui":
            from glance.interop.comfyui import export_comfyui, plan_comfyui

            export_comfyui(plan_comfyui(source), folder)
        elif kind == "diffusers":
            from glance.interop.diffusers import export_diffusers

            export_diffusers(source, folder)
        else:
            raise InputError(f"{kind[:40]} is no export", hint="comfyui or diffusers")
        packed = BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:  # LoRAs do not get smaller
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.write(file, Path(name, file.relative_to(folder)))
    return f"{name}.zip", packed.getvalue()


def workflow(path: Path) -> tuple[str, bytes]:
    """Return ComfyUI's page workflow of a finished run, and the file's name."""
    from glance.interop.comfyui import plan_comfyui, render_comfyui

    planned = plan_comfyui(open_source(path))
    return f"{planned.source.name}.json", render_comfyui(planned)["workflow.json"]


def shrink(path: Path) -> bytes:
    """Return a small WebP of an image; raises InputError for what is none."""
    try:
        with open_picture(path) as picture:
            pixels, _ = to_rgb(picture)
    except DECODER_ERRORS as exc:
        raise InputError(f"{path} cannot be shown as an image") from exc
    made = BytesIO()
    scale = _THUMBNAIL / max(pixels.size)
    width, height = (max(1, round(side * scale)) for side in pixels.size)
    pixels.resize((width, height), Image.Resampling.BICUBIC).save(made, "WEBP", quality=85)
    return made.getvalue()


def _is_done(jobs: Jobs, job: Job) -> bool:
    ending = jobs.ending(job)
    return ending is not None and ending.state == "done"


def _describe_phase(run: RunFolder, manifest: Manifest, phase: Phase) -> dict[str, Any]:
    record = manifest.phases[phase]
    course = _course(run, manifest, phase)
    done = course.losses[-1].step if course and course.losses else record.steps
    return {
        "state": record.state.value,
        "step": done,
        "steps": manifest.settings.steps,
        "loss": None if course is None else course.last,
        "losses": [] if course is None else _thin([(one.step, one.loss) for one in course.losses]),
        "trend": [] if course is None else _thin(course.trend),
        "lora": None if record.lora is None else (run.path / record.lora.path).as_posix(),
        "bytes": None if record.lora is None else record.lora.bytes,
    }


def _course(run: RunFolder, manifest: Manifest, phase: Phase) -> Course | None:
    try:
        return read_course(run, manifest, phase)
    except GlanceError:
        return None


def _can_continue(manifest: Manifest) -> bool:
    return manifest.imported is None and not manifest.is_finished


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return so many of the points as a chart can show, the last one among them."""
    every = max(1, -(-len(points) // _POINTS))
    return [*points[:-1][::every], *points[-1:]]


def _images_in(folder: Path) -> list[Path]:
    with suppress(OSError):
        return [one for one in folder.iterdir() if one.suffix.lower() in FORMATS and one.is_file()]
    return []


def _local(path: str) -> str:
    """Return a path that a command told, as pages name it."""
    return os.path.relpath(path) if Path(path).is_absolute() else path
