"""Many prompts, many runs, many seeds: which images, in which part, and how they are made.

Images lie in the order base model, run, prompt, seed, whatever is there already: so a part of them
is the same wherever it is made, and meets few models and runs. Within a part a base model is loaded
once, and the LoRAs of one run give way to those of the next. An image that is there is made by
nobody else, so the same command goes on where it stopped.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from glance.batch.board import LOGS
from glance.batch.local import LocalQueue
from glance.batch.request import BatchInferRequest, show_devices, show_part
from glance.batch.worker import Job, JobOver, JobTold
from glance.core.device import Device, cuda_device_count, require_device
from glance.core.errors import (
    DeviceUnavailable,
    GlanceError,
    InferenceFailed,
    InputError,
    ModelNotFound,
    Problem,
    RunError,
    SettingsError,
    UsageError,
    quoted,
    reason_of,
)
from glance.core.events import (
    Event,
    EventSink,
    ModelFetched,
    Noted,
    PictureDone,
    SamplingStep,
    Warned,
)
from glance.core.files import (
    find_place,
    is_folder,
    is_there,
    remove_leftovers,
    require_writable,
)
from glance.core.options import command_line
from glance.core.phase import Phase
from glance.core.tables import name_some
from glance.evaluation.report import MOST_ROWS, SHEET, draw_grid
from glance.runs.folder import RUNS, RunFolder
from glance.runs.manifest import Manifest, load_manifest, require_finished
from glance.sampling.generate import KeptModel, run_generation, with_time_left
from glance.sampling.images import count_images
from glance.sampling.plan import GenerationPlan, plan_generation

_MOST: Final = 100_000
"""Images of one command: their plan is in memory."""
_MOST_COLUMNS: Final = 24  # of the sheet
_NAMED: Final = 3  # of many runs with the same note


@dataclass(frozen=True, slots=True)
class RefusedRun:
    """A run of which no image is made, or not all, and why."""

    run: Path
    problems: tuple[Problem, ...]
    exit_code: int

    @property
    def reasons(self) -> Iterator[Problem]:
        """Why, each with the run's name."""
        return (_named(self.run, one) for one in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` says of it."""
        problems = [one.to_json() for one in self.problems]
        return {"run": str(self.run), "exit_code": self.exit_code, "problems": problems}


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run and those of its images that are in this part."""

    run: Path
    name: str
    """Of the folder of its images."""
    generation: GenerationPlan

    @property
    def steps(self) -> int:
        """Forward passes that are to be made."""
        missing = sum(not one.is_done for one in self.generation.images)
        return missing * len(self.generation.schedule.sigmas)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInferPlan:
    """Everything decided: which images of which runs, in the order in which they are made."""

    request: BatchInferRequest
    runs: tuple[PlannedRun, ...]
    refused: tuple[RefusedRun, ...]
    left_out: Mapping[Path, str]
    """Runs of the folder that are not finished, and how far they are."""
    each: int
    """Images of a run, in all parts."""
    folders: tuple[Path, ...]
    """Of the images of all runs that are to have some, in all parts."""

    @property
    def images(self) -> int:
        """How many images are in this part."""
        return sum(len(one.generation.images) for one in self.runs)

    @property
    def done(self) -> int:
        """How many of them are there already."""
        return sum(image.is_done for one in self.runs for image in one.generation.images)

    @property
    def notes(self) -> Iterator[str]:
        """What is worth knowing, each once; what holds for some runs alone, with their names."""
        owners: defaultdict[str, list[str]] = defaultdict(list)
        for one in self.runs:
            for note in one.generation.notes:
                owners[note].append(one.name)
        for note, names in owners.items():
            whose = "" if len(names) == len(self.runs) else f"{name_some(names, _NAMED)}: "
            yield f"{whose}{note}"

    def to_json(self) -> dict[str, Any]:
        """Return what `glance batch infer --dry-run --json` prints."""
        part = self.request.part
        return {
            "output": str(self.request.output),
            "part": None if part is None else show_part(part),
            "images": self.images,
            "done": self.done,
            "runs": [{"run": str(one.run), **one.generation.to_json()} for one in self.runs],
            "refused": [one.to_json() for one in self.refused],
            "left_out": {str(run): reason for run, reason in self.left_out.items()},
        }


@dataclass(slots=True)
class RunImages:
    """What there is of a run now."""

    run: Path
    images: list[Path] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)
    """What making them took now."""

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` says of it."""
        return {
            "run": str(self.run),
            "images": [str(path) for path in self.images],
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


@dataclass(frozen=True, slots=True)
class BatchInferResult:
    """The images that are there, run by run; what was refused; and what it took."""

    runs: tuple[RunImages, ...]
    refused: tuple[RefusedRun, ...]
    left_out: Mapping[Path, str]
    sheet: Path | None
    """None: images are missing, which another part or another start makes."""
    took: float
    """Seconds, by the clock."""

    @property
    def images(self) -> list[Path]:
        """Where all images are."""
        return [path for one in self.runs for path in one.images]

    @property
    def exit_code(self) -> int:
        """0, or the largest exit code of those that were refused."""
        return max((one.exit_code for one in self.refused), default=0)

    def to_json(self) -> dict[str, Any]:
        """Return what `glance batch infer --json` prints."""
        seconds = sum((one.seconds for one in self.runs), Counter[str]())
        rounded = {name: round(value, 3) for name, value in seconds.items()}
        return {
            "images": [str(path) for path in self.images],
            "runs": [one.to_json() for one in self.runs],
            "refused": [one.to_json() for one in self.refused],
            "left_out": {str(run): reason for run, reason in self.left_out.items()},
            "sheet": None if self.sheet is None else str(self.sheet),
            "seconds": {**rounded, "all": round(self.took, 3)},
        }


# --- what is made ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A run that is asked for, fit or not."""

    path: Path
    base: tuple[str, ...]
    """What tells its base model from others."""
    unfinished: str | None
    """How far it is."""
    is_named: bool

    @property
    def left_out(self) -> str | None:
        """Why nothing is said of it but that; one that is named is planned, and refused."""
        return None if self.is_named else self.unfinished

    @property
    def is_fit(self) -> bool:
        """Whether its images are to be expected, as far as is seen without reading LoRAs."""
        loras = (RunFolder(self.path).lora(phase) for phase in Phase)
        return self.unfinished is None and all(path.is_file() for path in loras)

    @property
    def name(self) -> str:
        return Path(os.path.abspath(self.path)).name  # noqa: PTH100 - a link keeps its own name


def plan_batch_infer(request: BatchInferRequest) -> BatchInferPlan:
    """Check the request and every run, and decide the rest. Reads LoRAs, writes nothing.

    A run that cannot be sampled is refused alone; in a folder of runs, those that are not finished
    are left out. Raises what plan_generation raises where it holds for all runs, RunError where
    there is none, SettingsError for runs of one name, and for more images than a plan can hold.
    """
    each = count_images(request.images)
    candidates = _find_candidates(request)
    _require_names(candidates, request.output)
    require_writable(request.output, "--output", as_folder=True)
    _require_devices(request)
    number, parts = request.part or (1, 1)
    total = each * len(candidates)
    first, last = total * (number - 1) // parts, total * number // parts
    if last - first > _MOST:
        fitting = -(-total // _MOST)
        raise SettingsError(
            f"{last - first:,} images, and one command makes at most {_MOST:,}",
            hint=f"make them in parts: --part 1/{fitting} to --part {fitting}/{fitting}",
        )
    planned, refusals = list[PlannedRun](), dict[Path, GlanceError]()
    for index, one in enumerate(candidates):
        begin, end = max(first - index * each, 0), min(last - index * each, each)
        if begin >= end or one.left_out is not None:
            continue
        try:
            generation = plan_generation(
                replace(request.images, run=one.path),
                needs_device=not request.devices,
                folder=request.output / one.name,
            )
        except (InputError, ModelNotFound) as exc:
            refusals[one.path] = exc
        else:
            part = replace(generation, images=generation.images[begin:end])
            planned.append(PlannedRun(one.path, one.name, part))
    if refusals and not planned:
        raise _join(refusals)
    return BatchInferPlan(
        request=request,
        runs=tuple(planned),
        refused=tuple(_refuse(run, exc) for run, exc in refusals.items()),
        left_out={one.path: one.left_out for one in candidates if one.left_out is not None},
        each=each,
        folders=tuple(request.output / one.name for one in candidates if one.is_fit),
    )


def _find_candidates(request: BatchInferRequest) -> list[_Candidate]:
    """Return the runs, those of one base model together, the models as they are met."""
    folder = request.folder or (None if request.runs else RUNS)
    given = {run.resolve(): run for run in request.runs}
    found = [_look_at(run) for run in given.values()]
    if folder is not None:
        if not is_folder(folder):
            what = "it is not a folder" if is_there(folder) else "there is no such folder"
            hint = f"name the folder that holds runs, such as {RUNS}, or each with --run"
            raise RunError(f"--runs {folder}: {what}", hint=hint)
        below = sorted(path.parent for path in folder.glob("*/glance.json"))
        found += [_look_at(run, is_named=False) for run in below if run.resolve() not in given]
    if all(one.left_out is not None for one in found):
        hint = "train one: glance train --image x.png --caption ..."
        reasons = (Problem(f"{one.path} is left out: {one.unfinished}") for one in found)
        raise RunError([Problem(f"there is no finished run in {folder}", hint), *reasons])
    order = list(dict.fromkeys(one.base for one in found if one.base))
    places = {base: number for number, base in enumerate(order)}
    return sorted(found, key=lambda one: places.get(one.base, len(order)))


def _look_at(path: Path, *, is_named: bool = True) -> _Candidate:
    """Return a run that is asked for, by its name or with all of a folder."""
    run = RunFolder(path)
    base: tuple[str, ...] = ()
    unfinished = None
    try:
        manifest = load_manifest(run)
        base = _base_of(run, manifest)
        require_finished(run, manifest)
    except RunError as exc:
        unfinished = exc.problems[0].message.removeprefix(f"run {path} is ")
    return _Candidate(path, base, unfinished, is_named)


def _base_of(run: RunFolder, manifest: Manifest) -> tuple[str, ...]:
    settings = manifest.settings
    recorded = [name for name in (settings.model, settings.transformer) if name is not None]
    places = ((name, find_place(name, run.path)) for name in recorded)
    return (settings.family, *(str(path) if is_there(path) else name for name, path in places))


def _require_names(candidates: Sequence[_Candidate], output: Path) -> None:
    """Raise SettingsError for runs whose images would come into one folder."""
    owners: defaultdict[str, list[Path]] = defaultdict(list)
    for one in candidates:
        owners[one.name.casefold()].append(one.path)  # one folder on macOS and Windows
    problems = [
        Problem(
            f"the images of {' and '.join(map(str, paths))} would come into one folder, "
            f"{output / paths[0].name}",
            f"rename one: glance runs rename {quoted(paths[-1])} NAME",
        )
        for paths in owners.values()
        if len(paths) > 1
    ]
    if problems:
        raise SettingsError(problems)


def _require_devices(request: BatchInferRequest) -> None:
    if not request.devices:
        return
    if request.images.device in (Device.CPU, Device.MPS):
        raise UsageError(
            f"--devices names GPUs, and --device {request.images.device} takes none",
            hint="drop one of them",
        )
    require_device(Device.CUDA, request.devices)
    count = cuda_device_count()
    if max(request.devices) >= count:
        raise DeviceUnavailable(
            f"--devices {show_devices(request.devices)}: there are {count} GPUs here, from 0 on",
            hint=f"--devices {show_devices(range(count))}",
        )


def _refuse(run: Path, exc: GlanceError) -> RefusedRun:
    return RefusedRun(run, exc.problems, exc.exit_code)


def _join(refusals: Mapping[Path, GlanceError]) -> GlanceError:
    """Return what is wrong with all runs as one: what all have in common, once."""
    problems: defaultdict[Problem, list[Path]] = defaultdict(list)
    for run, exc in refusals.items():
        for problem in exc.problems:
            problems[problem].append(run)
    kinds = {type(exc) for exc in refusals.values()}
    kind = kinds.pop() if len(kinds) == 1 else InputError
    return kind(
        problem if len(runs) == len(refusals) else _named(runs[0], problem)
        for problem, runs in problems.items()
    )


def _named(run: Path, problem: Problem) -> Problem:
    """Return a problem that says which run has it."""
    if str(run) in problem.message:
        return problem
    return Problem(f"{run}: {problem.message}", problem.hint)


# --- how it is made -------------------------------------------------------------------------------


def run_batch_infer(plan: BatchInferPlan, on_event: EventSink) -> BatchInferResult:
    """Make the images that are not there yet, and a sheet when all are.

    With several devices, in a process for each. A run that fails stops no other. Raises SetupError
    where images cannot be written, InferenceFailed for a process that ended before its time.
    """
    began = time.monotonic()
    for run, reason in plan.left_out.items():
        on_event(Noted(f"{run} is left out: {reason}"))
    if not plan.images:
        on_event(Noted("there are no images in this part"))
    devices = plan.request.devices
    makes = _Parts(plan, on_event) if devices and plan.done < plan.images else _Here(plan, on_event)
    makes.run()
    for one in plan.runs:
        remove_leftovers(plan.request.output / one.name)
    runs = tuple(RunImages(one.run, *makes.of(one)) for one in plan.runs)
    return BatchInferResult(
        runs=runs,
        refused=(*plan.refused, *makes.refused),
        left_out=plan.left_out,
        sheet=_draw_sheet(plan, makes.refused, on_event),
        took=time.monotonic() - began,
    )


class _Images:
    """What has become of the images, told as one course."""

    def __init__(self, plan: BatchInferPlan, on_event: EventSink) -> None:
        self.plan = plan
        self.refused: list[RefusedRun] = []
        self.seconds: defaultdict[Path, Counter[str]] = defaultdict(Counter)
        self._sink = with_time_left(on_event)
        self._there: set[str] = set()
        self._steps = sum(one.steps for one in plan.runs)

    def of(self, one: PlannedRun) -> tuple[list[Path], Counter[str]]:
        """Return a run's images that are there, and what they took."""
        outputs = (image.output for image in one.generation.images)
        return [path for path in outputs if str(path) in self._there], self.seconds[one.run]

    def tell(self, event: Event, *, steps_before: int = 0) -> None:
        """Pass on what one of many tells, with the numbers of all."""
        match event:
            case PictureDone():
                self._there.add(event.path)
                number = len(self._there)
                self._sink(replace(event, number=number, total=self.plan.images))
            case SamplingStep():
                done = min(self._steps, steps_before + event.done)
                self._sink(replace(event, done=done, total=max(1, self._steps)))
            case _:
                self._sink(event)

    def refuse(self, refused: RefusedRun) -> None:
        """Note a run that failed; the others go on."""
        self.refused.append(refused)
        for problem in refused.reasons:
            self._sink(Warned(problem.message, problem.hint))


class _Here(_Images):
    """Makes all images in this process, run by run."""

    def run(self) -> None:
        for note in self.plan.notes:
            self.tell(Noted(note))
        missing = [one.generation for one in self.plan.runs if one.steps]
        model, steps_before = KeptModel(missing), 0
        for one in self.plan.runs:
            if len(self.plan.runs) > 1 and one.steps:
                self.tell(Noted(f"{one.name}: {len(one.generation.images):,} images"))
            try:
                tell = partial(self.tell, steps_before=steps_before)
                result = run_generation(self._now(one), tell, kept=model)
            except (InputError, ModelNotFound, InferenceFailed) as exc:
                self.refuse(_refuse(one.run, exc))
            else:
                self.seconds[one.run].update(result.seconds)
            steps_before += one.steps
        model.drop()

    def _now(self, one: PlannedRun) -> GenerationPlan:
        """Return the plan of a run as it is when its turn comes: somebody else may be at work."""
        images = one.generation.images
        if not self.plan.request.images.restart:
            images = tuple(replace(image, is_done=image.is_there) for image in images)
        return replace(one.generation, images=images, notes=())


_TOLD: Final = {
    kind.__name__: kind for kind in (Noted, Warned, ModelFetched, PictureDone, SamplingStep)
}


class _Parts(_Images):
    """Makes a part of the images in a process for each GPU."""

    def __init__(self, plan: BatchInferPlan, on_event: EventSink) -> None:
        super().__init__(plan, on_event)
        self._steps_done: Counter[int] = Counter()
        self._said: set[Event] = set()
        self._failed: list[Problem] = []

    def run(self) -> None:
        request, devices = self.plan.request, self.plan.request.devices
        number, parts = request.part or (1, 1)
        device = self.plan.runs[0].generation.device.value
        whole = replace(request, images=replace(request.images, device=device))
        if request.part is None:  # even parts, whatever is left out
            whole = replace(whole, runs=tuple(one.run for one in self.plan.runs), folder=None)
        share = parts * len(devices)
        jobs = []
        for index in range(len(devices)):
            part = ((number - 1) * len(devices) + index + 1, share)
            words = command_line(replace(whole, devices=(), part=part))
            jobs.append(
                Job(
                    number=index + 1,
                    name=f"images-{part[0]}-of-{share}",
                    command=("batch", "infer", *words),
                    run=request.output,
                    folder=Path.cwd(),
                )
            )
        LocalQueue(devices, request.output / LOGS).run(jobs, self._hear)
        if self._failed:
            raise InferenceFailed(self._failed)

    def _hear(self, event: Event) -> None:
        match event:
            case JobTold(number, told):
                kind = _TOLD.get(told.get("event", ""))
                if kind is not None:
                    self._pass_on(number, kind, told)
            case JobOver(number, end):
                self._take(number, end.result, end.problems)
            case _:
                pass

    def _pass_on(self, number: int, kind: Any, told: Mapping[str, Any]) -> None:
        said = {name: told[name] for name in kind.__dataclass_fields__ if name in told}
        event: Event = kind(**said)
        if isinstance(event, SamplingStep):
            self._steps_done[number] = event.done
            phase = None if event.phase is None else Phase(event.phase)
            event = replace(event, phase=phase, done=self._steps_done.total())
        if isinstance(event, Noted | Warned):  # all say the same
            if event in self._said:
                return
            self._said.add(event)
        self.tell(event)

    def _take(self, number: int, result: Mapping[str, Any], problems: Sequence[Problem]) -> None:
        """Note what a part came to."""
        if "runs" not in result:
            hint = "what was made stays: the same command goes on"
            self._failed += [
                Problem(f"worker {number}: {one.message}", one.hint or hint) for one in problems
            ]
        for one in result.get("runs", ()):
            self.seconds[Path(one["run"])].update(one["seconds"])
        known = {one.run for one in self.refused}
        for one in result.get("refused", ()):
            if Path(one["run"]) not in known:
                found = tuple(Problem(it["message"], it["hint"]) for it in one["problems"])
                self.refused.append(RefusedRun(Path(one["run"]), found, one["exit_code"]))


# --- all of them on one sheet ---------------------------------------------------------------------


def _draw_sheet(
    plan: BatchInferPlan, failed: Sequence[RefusedRun], on_event: EventSink
) -> Path | None:
    """Draw a row for each prompt and seed, a column for each run; None while images are missing."""
    whole = plan
    if plan.request.part is not None:
        if any(_count_images(folder) < plan.each for folder in plan.folders):
            return None
        whole = plan_batch_infer(replace(plan.request, part=None))
        if whole.done < whole.images:
            return None
    lost = {one.run for one in failed}
    shown = [one for one in whole.runs if one.run not in lost]
    if not shown:
        return None
    images = [one.settings for one in shown[0].generation.images[:MOST_ROWS]]
    titles = [f"{one.prompt}  (seed {one.seed})" if one.seed else one.prompt for one in images]
    columns = {
        one.name: [image.output for image in one.generation.images[:MOST_ROWS]]
        for one in shown[:_MOST_COLUMNS]
    }
    sheet = whole.request.output / SHEET
    try:
        draw_grid(titles, columns, sheet)
    except OSError as exc:
        on_event(Warned(f"no {sheet}: {reason_of(exc)}"))
        return None
    if len(shown) > _MOST_COLUMNS or plan.each > MOST_ROWS:
        many = f"{len(columns)} of {len(shown):,} runs, {len(titles)} of {plan.each:,} images each"
        on_event(Noted(f"{sheet} shows {many}"))
    return sheet


def _count_images(folder: Path) -> int:
    with suppress(OSError):
        return sum(1 for path in folder.iterdir() if not path.name.startswith("."))
    return 0
