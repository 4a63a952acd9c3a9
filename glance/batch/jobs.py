"""What is asked of a batch, made into jobs: a folder of pairs, or a file with an entry each.

A file is a list of jobs, or `jobs:` and `defaults:` of all of them; a .jsonl file has a job a line.
A job holds the options of its command by their names, as `--config` does. Several values of an
option that holds one are so many jobs, and several such options all combinations.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

from glance.batch.request import BatchTrainRequest
from glance.batch.storage import Storage, is_address
from glance.batch.worker import Job
from glance.core.documents import Said, read_list
from glance.core.errors import GlanceError, InputError, Problem, SettingsError, shown
from glance.core.files import is_folder
from glance.core.options import (
    Field,
    command_line,
    declared,
    from_document,
    match_keys,
    place,
    to_document,
)
from glance.runs.folder import RUNS
from glance.runs.manifest import Manifest, PhaseState, load_manifest, parse_manifest
from glance.runs.sample import find_images, name_safely
from glance.training.distillation import plan_distillation
from glance.training.folder import check_manifest
from glance.training.machine import Job as Training
from glance.training.machine import estimate, free_gigabytes
from glance.training.plan import TrainingPlan, plan_training
from glance.training.request import DistillRequest, TrainRequest

_KINDS: Final[Mapping[str, type[TrainRequest] | type[DistillRequest]]] = {
    "train": TrainRequest,
    "distill": DistillRequest,
}
_TRAIN: Final = "train"
_COMMAND: Final = "command"
_NAME: Final = "name"
_EACH: Final = "each"
_OWN: Final = (_COMMAND, _NAME, _EACH)
"""What a job holds beside the options of its command."""
NOT_OF_JOBS: Final[Mapping[str, str]] = {
    "resume": "name its run: a job goes on with what is there",
    "restart": "to train it anew, give the job another name",
    "gpu-ids": "the batch gives each job its device: --devices",
}
"""Options that a job has not, and what there is instead."""
_ALL: Final = ("defaults", "jobs")
_LONGEST_VALUE: Final = 24  # characters, in the name of a run
_EXAMPLE: Final = "write a list of jobs, such as - image: a.png"
_SOURCE_HINT: Final = "give a folder of images and captions, or a .yaml or .jsonl file of jobs"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A job that cannot be run, and why."""

    number: int
    name: str
    run: Path
    problems: tuple[Problem, ...]
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """The jobs of a batch, in their order: those to be run, and those that cannot be."""

    output: Path
    jobs: tuple[Job, ...]
    done: frozenset[int]
    """The numbers of the jobs whose runs are finished already."""
    refused: tuple[Refusal, ...]
    trainings: tuple[Training, ...]
    """One of each kind that is to be done: what the machine must be fit for."""
    gigabytes: float
    """What all runs that are to be made take on the disk until they are cleaned, estimated."""
    storage: Storage | None = None
    """Where the runs are moved to when they are done; `output` holds them until then."""
    stored: Mapping[str, Manifest] = field(default_factory=dict)
    """The manifests of the runs that are there, by the names of their jobs."""

    @property
    def place(self) -> str:
        """Where the runs are kept, as a person is told."""
        return str(self.output) if self.storage is None else self.storage.address

    def warn(self, *, cleans: bool) -> Iterator[Problem]:
        """Yield what may go wrong with all jobs together; `cleans`: runs keep no checkpoints."""
        if cleans or self.storage is not None:
            return
        free = free_gigabytes(self.output)
        if self.gigabytes > free:
            yield Problem(
                f"the runs take about {self.gigabytes:,.0f} GB in all, and there are {free:,.0f} "
                f"free at {shown(self.output)}",
                "--clean keeps no checkpoints; or give --output a place on another disk",
            )

    def locate(self, job: "Job | Refusal") -> str:
        """Return where a job's run is kept."""
        return str(job.run) if self.storage is None else self.storage.locate(job.name)

    @property
    def total(self) -> int:
        """How many jobs there are in all."""
        return len(self.jobs) + len(self.refused)

    @property
    def to_do(self) -> tuple[Job, ...]:
        """The jobs that are to be run."""
        return tuple(job for job in self.jobs if job.number not in self.done)

    def to_json(self) -> dict[str, Any]:
        """Return what `--dry-run --json` prints."""
        jobs = {
            job.number: {
                "number": job.number,
                "name": job.name,
                "run": self.locate(job),
                "state": "done" if job.number in self.done else "waiting",
                "command": ["glance", *job.command],
            }
            for job in self.jobs
        }
        refused = {one.number: describe_refusal(one) for one in self.refused}
        return {
            "output": self.place,
            "jobs": [one for _, one in sorted({**jobs, **refused}.items())],
        }


def describe_refusal(refusal: Refusal) -> dict[str, Any]:
    """Return a refused job as JSON."""
    problems = [one.to_json() for one in refusal.problems]
    return {
        "number": refusal.number,
        "name": refusal.name,
        "run": str(refusal.run),
        "state": "refused",
        "problems": problems,
    }


@dataclass(frozen=True, slots=True)
class _Asked:
    """One job as it is asked for."""

    number: int
    place: str
    """Where it is asked for, to be written before what is wrong with it."""
    command: str
    name: str
    run: Path
    request: TrainRequest | DistillRequest
    clash: "_Asked | None" = None
    """An earlier job that has the same run folder."""


def plan_batch(request: BatchTrainRequest) -> BatchPlan:
    """Read the jobs and check each; writes nothing.

    Raises SettingsError with all that is wrong with the file as such, and with options of all jobs;
    SampleError for a folder without an image. A job that its command would refuse is refused alone.
    """
    storage, output = None, RUNS / name_safely(request.source.absolute().stem)
    if request.output is not None:
        storage = Storage(request.output) if is_address(request.output) else None
        output = Path(request.output) if storage is None else storage.scratch
    entries = list(_read(request))
    asked = _ask(entries, request, output)
    jobs, done, refused = list[Job](), set[int](), list[Refusal]()
    machine, gigabytes = dict[tuple[Any, ...], Training](), 0.0
    there = {} if storage is None else storage.find(one.name for one in asked)
    stored = dict[str, Manifest]()
    for one in asked:
        try:
            plan = _plan(one)
            if storage is None:
                is_done = _is_there(plan, compared=one.request.compares)
            elif one.run != output / one.name:
                raise SettingsError(
                    f"{one.place}run {one.run}: all runs are kept at {storage.address}",
                    hint=f"leave it out, and name the job: {_NAME}: NAME",
                )
            elif is_done := one.name in there:
                place = f"{storage.locate(one.name)}/{plan.run.manifest.name}"
                manifest = stored[one.name] = parse_manifest(there[one.name], place)
                is_done = _is_all(manifest, plan, compared=one.request.compares)
        except GlanceError as exc:
            problems = tuple(map(_of_a_job, exc.problems))
            refused.append(Refusal(one.number, one.name, one.run, problems, exc.exit_code))
            continue
        words = [one.command, *command_line(one.request)]
        jobs.append(
            Job(
                number=one.number,
                name=one.name,
                command=tuple(words),
                run=one.run,
                folder=Path.cwd(),
            )
        )
        if is_done:
            done.add(one.number)
        else:
            settings, models = plan.settings, plan.base.hub_models
            alike = (settings.family, settings.model, settings.device, settings.preset)
            training = Training(settings, plan.run, plan.launcher, models)
            machine.setdefault((*alike, settings.resolution, plan.launcher), training)
            gigabytes += estimate(settings).disk
    return BatchPlan(
        output=output,
        jobs=tuple(jobs),
        done=frozenset(done),
        refused=tuple(refused),
        trainings=tuple(machine.values()),
        gigabytes=gigabytes,
        storage=storage,
        stored=stored,
    )


def _of_a_job(problem: Problem) -> Problem:
    """Return what is wrong without a remedy that a command line alone has."""
    hint = problem.hint and problem.hint.replace(', or pass --caption "..."', "")
    return replace(problem, hint=hint)


def _is_there(plan: TrainingPlan, *, compared: bool) -> bool:
    """Whether all that is asked for is there: LoRAs of their recorded size, the verdict if wanted.

    What they hold is not read again: that would take longer than all else, of thousands of runs.
    """
    run = plan.run
    if not run.manifest.exists():
        return False
    manifest = load_manifest(run)
    sizes = {phase: one.lora and one.lora.bytes for phase, one in manifest.phases.items()}
    loras = {phase: run.lora(phase) for phase in plan.phases}
    is_whole = all(one.is_file() and one.stat().st_size == sizes[it] for it, one in loras.items())
    return is_whole and _is_whole(manifest, plan, compared=compared)


def _is_all(manifest: Manifest, plan: TrainingPlan, *, compared: bool) -> bool:
    """Whether a run that is kept elsewhere is all that is asked for; raises RunError where it is
    another experiment's.
    """
    if not _is_whole(manifest, plan, compared=compared):
        return False
    check_manifest(manifest, plan)
    return True


def _is_whole(manifest: Manifest, plan: TrainingPlan, *, compared: bool) -> bool:
    """Whether a run is done as its manifest says, with as many steps as are asked for."""
    if plan.settings.steps > manifest.settings.steps:  # its command goes on with it
        return False
    if any(manifest.phases[phase].state is not PhaseState.DONE for phase in plan.phases):
        return False
    return not (compared and manifest.is_finished and manifest.verdict is None)


def _plan(asked: _Asked) -> TrainingPlan:
    if asked.clash is not None:
        raise SettingsError([_tell_clash(asked)])
    if isinstance(asked.request, DistillRequest):
        return plan_distillation(asked.request).training
    return plan_training(asked.request)


# --- what a file says -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a file, or an image of a folder: a job, or some that differ in few options."""

    place: str
    """Where it is, to be written before what is wrong with it; empty for a folder's."""
    said: Mapping[str, Any]
    defaults: Mapping[str, Any]
    """What the file says of all jobs."""


def _read(request: BatchTrainRequest) -> Iterator[_Entry]:
    source = request.source
    if is_folder(source):
        yield from (_Entry("", {"image": str(one)}, {}) for one in find_images([source]))
        return
    content = read_list(source, "", hint=_SOURCE_HINT)
    defaults: Mapping[str, Any] = {}
    if isinstance(content, Said):
        defaults, content = _split(content)
    if not isinstance(content, list) or not content:
        raise SettingsError(f"{shown(source)} holds no list of jobs", hint=_EXAMPLE)
    problems = list[Problem]()
    for number, one in enumerate(content, 1):
        if isinstance(one, Said):
            where = "" if one.line is None else f", line {one.line}"
            yield _Entry(f"{shown(source)}{where}: ", one, defaults)
        else:
            message = f"{shown(source)}: entry {number} holds no options by their names"
            problems.append(Problem(message, _EXAMPLE))
    if problems:
        raise SettingsError(problems)


def _split(content: Said) -> tuple[Said, Any]:
    """Return what a mapping says of all jobs, and its jobs."""
    problems = [
        Problem(f"{content.place(key)}{shown(key)} is none of {', '.join(_ALL)}", _EXAMPLE)
        for key in content
        if key not in _ALL
    ]
    defaults = content.get("defaults") or Said(content.path)
    if not isinstance(defaults, Said):
        message = f"{content.place('defaults')}defaults hold no options by their names"
        problems.append(Problem(message, "write them below it, such as rank: 16"))
    if problems:
        raise SettingsError(problems)
    return defaults, content.get("jobs")


def _ask(entries: Iterable[_Entry], request: BatchTrainRequest, output: Path) -> list[_Asked]:
    """Return all jobs; raise SettingsError with all that is wrong with what is asked."""
    asked, problems = list[_Asked](), list[Problem]()
    flags = to_document(request.common)
    taken = dict[Path, _Asked]()
    for entry in entries:
        try:
            for said, varied in _expand(entry, flags):
                one = _make(len(asked) + 1, entry, said, varied, output)
                first = taken.setdefault(one.run.absolute(), one)
                asked.append(one if first is one else replace(one, clash=first))
        except InputError as exc:
            for problem in exc.problems:  # most say their line
                is_placed = problem.message.startswith(entry.place.split(",")[0])
                message = problem.message if is_placed else entry.place + problem.message
                problems.append(replace(problem, message=message))
    if not is_folder(request.source):
        problems += (_tell_clash(one) for one in asked if one.clash is not None)
    if problems:
        raise SettingsError(dict.fromkeys(problems))
    return asked


def _tell_clash(one: _Asked) -> Problem:
    assert one.clash is not None
    message = f"{one.place}jobs {one.clash.number} and {one.number} have one run folder, {one.run}"
    return Problem(message, "give one of them another name")


def _expand(entry: _Entry, flags: Mapping[str, Any]) -> Iterator[tuple[Said, Mapping[str, Any]]]:
    """Yield what each job of an entry says, and of that what differs among them."""
    command = entry.said.get(_COMMAND, entry.defaults.get(_COMMAND, _TRAIN))
    if not isinstance(command, str) or command not in _KINDS:
        said = entry.said if _COMMAND in entry.said else entry.defaults
        message = f"{place(said, _COMMAND)}{_COMMAND} {shown(command)}: a job is none of glance's"
        raise SettingsError(message, hint=f"{_COMMAND}: {' or '.join(_KINDS)}")
    said = _join(
        _spell(entry.defaults, command, of_all=True),
        _spell(entry.said, command),
        _spell(flags, command, of_all=True),
    )
    said[_COMMAND] = command
    each = said.pop(_EACH, None)
    images: list[str | None] = [None]
    if each is not None:
        if not isinstance(each, str) or not is_folder(Path(each)):
            message = f"{said.place(_EACH)}{_EACH} {shown(each)}: it is not a folder"
            raise SettingsError(message, hint=f"{_EACH}: a folder of images, a job for each")
        images = [*map(str, find_images([Path(each)]))]
    axes = _find_axes(said, _fields(command))
    for image, *values in product(images, *axes.values()):
        varied = dict(zip(axes, values, strict=True))
        yield _join(said, varied, {} if image is None else {"image": image}), varied


def _fields(command: str) -> dict[str, Field]:
    """Return what a command's options are called, all their names."""
    kind = _KINDS[command]
    return {name.lstrip("-"): one for one in declared(kind) for name in one.names}


def _spell(said: Mapping[str, Any], command: str, *, of_all: bool = False) -> Said:
    """Return options under their first names; raise SettingsError for those that are none.

    What is said `of_all` jobs may be of another command's.
    """
    known: dict[str, Field | str] = {**dict(zip(_OWN, _OWN, strict=True)), **_fields(command)}
    ours = said
    if of_all:
        others = {name for one in _KINDS for name in _fields(one)} - known.keys()
        ours = _join(said)
        for key in [key for key in ours if key.replace("_", "-") in others]:
            del ours[key]
    found, problems = match_keys(ours, known, owner=f"glance {command}")
    for key, one in found.items():
        name = one if isinstance(one, str) else one.key
        if name in NOT_OF_JOBS:
            problems.append(
                Problem(f"{place(said, key)}{key} is no option of a job", NOT_OF_JOBS[name])
            )
    if problems:
        raise SettingsError(problems)
    spelt = Said(said.path if isinstance(said, Said) else Path())
    for key, one in found.items():
        name = one if isinstance(one, str) else one.key
        spelt[name] = said[key]
        if isinstance(said, Said) and key in said.lines:
            spelt.lines[name] = said.lines[key]
    return spelt


def _join(*said: Mapping[str, Any]) -> Said:
    """Return what all say, a later one in place of an earlier; a key knows its line."""
    whole = Said(next((one.path for one in said if isinstance(one, Said) and one.lines), Path()))
    for one in said:
        lines = (
            one.lines if isinstance(one, Said) else whole.lines
        )  # one value of several: as these
        for key, value in one.items():
            whole[key] = value
            if key in lines:
                whole.lines[key] = lines[key]
            else:
                whole.lines.pop(key, None)  # a flag says it
    return whole


def _find_axes(said: Said, fields: Mapping[str, Field]) -> dict[str, list[Any]]:
    """Return the options that are given several values where they hold one."""
    axes = dict[str, list[Any]]()
    for key, value in said.items():
        field = fields.get(key)
        if not isinstance(value, list) or field is None:
            continue
        if field.is_several and not any(isinstance(one, list | Mapping) for one in value):
            continue
        if not value:
            message = f"{said.place(key)}{key} is an empty list"
            raise SettingsError(message, hint="give values, or leave it out")
        if field.path == ("run",):
            message = f"{said.place(key)}{key} holds one value, not a list"
            raise SettingsError(message, hint=f"leave it out, and name the job: {_NAME}: NAME")
        axes[key] = value
    return axes


def _make(
    number: int, entry: _Entry, said: Said, varied: Mapping[str, Any], output: Path
) -> _Asked:
    """Return one job of what it says; raise SettingsError."""
    command, name = said.pop(_COMMAND), said.pop(_NAME, None)
    if name is not None and (not isinstance(name, str) or name_safely(name) != name):
        message = f"{said.place(_NAME)}{_NAME} {shown(name)}: it is no name of a folder"
        raise SettingsError(message, hint="letters, digits, dots and dashes")
    request = from_document(_KINDS[command], said, owner=f"glance {command}")
    if isinstance(request, TrainRequest) and not request.image:
        raise SettingsError(
            f"{entry.place}image is missing", hint=f"image: a.png, or {_EACH}: a folder of images"
        )
    given = name or (name_safely(request.run.name) if request.run else _name(request))
    values = (f"{key}-{_shorten(value)}" for key, value in varied.items())
    name = "-".join([given, *values])
    run = request.run or output / name
    return _Asked(number, entry.place, command, name, run, replace(request, run=run))


def _name(request: TrainRequest | DistillRequest) -> str:
    """Return what a job is called: after its image, or after the model that it teaches."""
    if isinstance(request, TrainRequest):
        return name_safely(request.image[0].absolute().stem) if request.image else "pair"
    model = request.model or request.family or "base"
    return f"{name_safely(Path(model).name.removesuffix('.safetensors'))}-distilled"


def _shorten(value: Any) -> str:
    """Return a value as it stands in a run's name."""
    text = ",".join(map(str, value)) if isinstance(value, list | Mapping) else str(value)
    text = Path(text).name.removesuffix(".safetensors") if "/" in text else text
    return name_safely(text)[:_LONGEST_VALUE].rstrip("-.")
