"""What became of a batch's jobs: told while they run, kept in batch.json, summed up at the end.

The run folders are authoritative: batch.json is for people and programs to read, and nothing is
decided by it.
"""

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from glance.batch.jobs import BatchPlan
from glance.batch.worker import Executor, JobEnd, JobOver, JobStarted, JobTold, Told
from glance.core.errors import InputError, Problem, RunError, SetupError, TrainingFailed
from glance.core.events import EventSink, Noted
from glance.core.files import write_json
from glance.runs.folder import RunFolder, writing
from glance.runs.listing import clean_run, say_verdict
from glance.runs.lock import locked
from glance.runs.losses import last_loss
from glance.runs.manifest import load_manifest

RECORD: Final = "batch.json"
LOGS: Final = "logs"
SHARED_FOLDER: Final = "shared"
"""What several runs need, as long as the batch is under way."""
_SAVED_EVERY: Final = 2.0  # seconds, at most: of thousands of jobs it is megabytes


class State(StrEnum):
    """How far a job is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    """Somebody ended it; the same command goes on with it."""
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(slots=True)
class Status:
    """A job as it stands."""

    number: int
    name: str
    run: Path
    place: str
    """Where its run is kept."""
    state: State = State.WAITING
    where: str = ""
    stage: str = ""
    """What it does: `slow`, `recording`."""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    eta: float | None = None
    """Seconds that are left of the stage."""
    began: float | None = None
    seconds: float | None = None
    """What it took, of this start."""
    problems: tuple[Problem, ...] = ()
    losses: dict[str, float | None] = field(default_factory=dict)
    verdict: dict[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come of it."""
        return self.state not in (State.WAITING, State.RUNNING)

    @property
    def outcome(self) -> str:
        """What came of it, in few words."""
        if self.problems:
            return self.problems[0].message
        return say_verdict(self.verdict)

    def to_json(self) -> dict[str, Any]:
        """Return the job as batch.json holds it."""
        problems = [one.to_json() for one in self.problems]
        return {
            "number": self.number,
            "name": self.name,
            "run": self.place,
            "state": self.state.value,
            **({} if self.seconds is None else {"seconds": round(self.seconds, 1)}),
            **({"losses": self.losses} if self.losses else {}),
            **({} if self.verdict is None else {"verdict": self.verdict}),
            **({"problems": problems} if problems else {}),
        }


class Board:
    """All jobs of a batch as they stand."""

    def __init__(self, plan: BatchPlan) -> None:
        """Begin with what the plan says of them."""
        self.output = plan.place
        self._folder = plan.output
        jobs = [Status(one.number, one.name, one.run, plan.locate(one)) for one in plan.jobs]
        for one in jobs:
            if one.number in plan.done:
                one.state = State.DONE
                read_outcome(one)
                if stored := plan.stored.get(one.name):
                    one.verdict = None if stored.verdict is None else dict(stored.verdict)
        refused = [
            Status(
                *(one.number, one.name, one.run, plan.locate(one), State.REFUSED),
                problems=one.problems,
            )
            for one in plan.refused
        ]
        self._jobs = {one.number: one for one in sorted([*jobs, *refused], key=lambda s: s.number)}
        self._saved = 0.0

    @property
    def jobs(self) -> tuple[Status, ...]:
        """The jobs in their order."""
        return tuple(self._jobs.values())

    @property
    def running(self) -> Iterator[Status]:
        """Those that run."""
        return (one for one in self._jobs.values() if one.state is State.RUNNING)

    def job(self, number: int) -> Status:
        """Return a job by its number."""
        return self._jobs[number]

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are of each state that any is in."""
        found = Counter(one.state for one in self._jobs.values())
        return {state.value: found[state] for state in State if found[state]}

    def seconds_left(self) -> float | None:
        """Return how long all jobs take that are not over, at the pace of those that are.

        None until one is over that was run.
        """
        took = [one.seconds for one in self._jobs.values() if one.seconds and one.is_over]
        running = list(self.running)
        if not took or not running:
            return None
        usual, now = sum(took) / len(took), time.monotonic()
        waiting = sum(one.state is State.WAITING for one in self._jobs.values())
        rest = [max(0.0, usual - (now - (one.began or now))) for one in running]
        return (waiting * usual + sum(rest)) / len(running)

    def hear(self, told: Told) -> None:
        """Learn what was told of a job."""
        match told:
            case JobStarted(number, where):
                one = self._jobs[number]
                one.state, one.where, one.began = State.RUNNING, where, time.monotonic()
                one.stage, one.step, one.steps, one.loss, one.eta = "", 0, 0, None, None
            case JobTold(number, event):
                _learn(self._jobs[number], event)
                return
            case JobOver(number, end):
                self._note_end(self._jobs[number], end)
            case _:
                return
        self.save()

    def _note_end(self, one: Status, end: JobEnd) -> None:
        one.seconds = time.monotonic() - one.began if one.began else None
        one.problems = end.problems
        if end.is_done:
            one.state, one.problems = State.DONE, ()
            read_outcome(one)
            compared = end.result.get("comparison", end.result)
            one.verdict = one.verdict or compared.get("verdict")
            one.losses = one.losses or end.result.get("losses", {})
        elif end.is_stopped:
            one.state, one.problems = State.STOPPED, ()
        else:
            one.state = State.REFUSED if end.exit_code == InputError.exit_code else State.FAILED

    @property
    def exit_code(self) -> int:
        """What the command ends with: 0 only where all jobs are done."""
        states = {one.state for one in self._jobs.values()}
        if State.FAILED in states:
            return TrainingFailed.exit_code
        return InputError.exit_code if State.REFUSED in states else 0

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints and batch.json holds."""
        jobs = [one.to_json() for one in self._jobs.values()]
        return {"output": self.output, "counts": self.counts(), "jobs": jobs}

    def save(self, *, now: bool = False) -> None:
        """Write batch.json, unless it was written a moment ago; raise OSError."""
        if now or time.monotonic() - self._saved > _SAVED_EVERY:
            write_json(self._folder / RECORD, self.to_json())
            self._saved = time.monotonic()


def run_batch(
    plan: BatchPlan,
    executor: Executor,
    on_event: EventSink,
    *,
    board: Board,
    cleans: bool,
) -> None:
    """Run the jobs that are not done; the board keeps what becomes of all.

    With `cleans` a finished run's checkpoints and caches are removed at once. `on_event` hears when
    a job begins and ends, and what it tells. The same call again goes on. Raises RunError when
    somebody runs the batch already, SetupError where its folder cannot be written.
    """

    def tell(told: Told) -> None:
        board.hear(told)
        on_event(told)
        if cleans and isinstance(told, JobOver) and told.end.is_done:
            with suppress(RunError):  # it is kept elsewhere
                clean_run(board.job(told.job).run, only_look=False)

    with writing(plan.output), _alone(plan.output, on_event):
        board.save(now=True)
        try:
            if plan.to_do:
                executor.run(plan.to_do, tell)
                shutil.rmtree(plan.output / SHARED_FOLDER, ignore_errors=True)
        finally:
            board.save(now=True)
            if plan.storage is not None:
                with suppress(SetupError):  # it is for people, and the runs are there
                    plan.storage.keep({RECORD: plan.output / RECORD})


def gather_refusals(plan: BatchPlan) -> list[tuple[Problem, list[int]]]:
    """Return what jobs are refused for, each thing once, with the numbers of the jobs."""
    found: dict[Problem, list[int]] = {}
    for one in plan.refused:
        for problem in one.problems:
            found.setdefault(problem, []).append(one.number)
    return list(found.items())


def name_numbers(numbers: Iterable[int]) -> str:
    """Return numbers as a person writes them: 1-4, 7."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans)


def read_outcome(one: Status) -> None:
    """Take from its run folder what a job is worth; nothing where that is elsewhere."""
    run = RunFolder(one.run)
    try:
        manifest = load_manifest(run)
    except RunError:
        return
    one.losses = {phase.value: last_loss(run, manifest, phase) for phase in manifest.phases}
    one.verdict = None if manifest.verdict is None else dict(manifest.verdict)


def _learn(one: Status, event: dict[str, Any]) -> None:
    """Take from an event of its command how far a job is."""
    match event.get("event"):
        case "PhaseStarted":
            one.stage, one.step, one.steps = event["phase"], 0, event["steps"]
            one.loss = one.eta = None
        case "StepDone":
            one.stage, one.step, one.steps = event["phase"], event["step"], event["steps"]
            one.loss, one.eta = event["loss"] or one.loss, event["eta_seconds"]
        case "StageEntered" if not one.step:
            one.stage = f"{event['phase']}: {event['label']}"
        case "SamplingStep":
            one.stage, one.step, one.steps = event["task"], event["done"], event["total"]
            one.loss, one.eta = None, event["eta_seconds"]
        case _:
            pass


@contextmanager
def _alone(output: Path, on_event: EventSink) -> Iterator[None]:
    """Hold the folder of a batch; raise RunError when somebody else runs it."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(RunFolder(output), lambda text: on_event(Noted(text))))
        except RunError as exc:
            message = exc.problems[0].message.replace("run ", "batch ", 1).replace("trained", "run")
            raise RunError(message, hint="wait for it, or end it") from exc
        yield
