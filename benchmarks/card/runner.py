"""Parts, one after another: each a process of its own that ends, tree and all, with its time.

What a part found is a file, written at once and whole. So whatever is cut off loses only the part
that ran, and a second call goes on where the first one ended. Nothing heavy is imported here.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from benchmarks.machine import Machine
from benchmarks.records import Record, write_record
from benchmarks.result import Column, Result, Row, summarise
from benchmarks.rounds import ROOT
from glance.core.files import write_json
from glance.training.machine import system_memory
from glance.training.simpletuner.runner import Job, JobEnded, ProcessRunner

_GIGA: Final = 1e9
_LONGER: Final = 1.5  # times the limit that a part did not end in
_SLACK: Final = 2.0
"""How much longer than expected a part may take, where there is time."""
_LEAST: Final = 60.0  # seconds: of what is expected to take less, too
_ENDING: Final = 5.0  # seconds that a killed part may take to be gone
_CORRECTION: Final = (0.3, 6.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something to measure, and what it is expected to take."""

    name: str
    what: str
    call: str
    """`module.function` of this package."""
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Packages besides those that sampling needs."""
    after: str | None = None
    """The part whose files it needs."""
    fixed: float = 30.0
    """Seconds that the card has nothing to do with: imports, loading, writing."""
    work: float = 0.0
    """Seconds of an H100's, besides."""
    card_gb: float = 0.0
    """At most, where the card has so much."""
    system_gb: float = 8.0
    disk_gb: float = 0.0
    is_cold: bool = False
    """It is the first of a machine, and says nothing of how long others take."""


class Outcome(StrEnum):
    """How far a part came."""

    ENDED = "ended"
    FAILED = "failed"
    STOPPED = "stopped"
    """Its time was over."""
    UNFINISHED = "unfinished"
    """It runs, or whoever ran it was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of a part."""

    part: str
    outcome: Outcome
    date: str
    seconds: float
    """On the wall, imports among them."""
    limit: float | None = None
    """The seconds that it had, where it did not end."""
    machine: Machine
    versions: Mapping[str, str]
    results: tuple[Result, ...] = ()
    reason: str | None = None
    """Why it failed."""
    is_tiny: bool = False
    """Its figures mean nothing."""

    @property
    def is_final(self) -> bool:
        """Whether there is nothing to run again."""
        return self.outcome in (Outcome.ENDED, Outcome.FAILED)


_ADAPTER: Final = TypeAdapter(Finding)


class Folder:
    """What was found so far, on the disk."""

    def __init__(self, path: Path) -> None:
        """Nothing need be there yet."""
        self.path = path.absolute()

    @property
    def work(self) -> Path:
        """What parts leave for one another: large, and of no use to anybody else."""
        return self.path / "work"

    def log(self, name: str) -> Path:
        """Return where a process's output goes."""
        return self.path / "logs" / f"{name}.log"

    def finding(self, part: str) -> Finding | None:
        """Return what became of a part; None: it has not begun."""
        with suppress(FileNotFoundError, ValidationError):  # of another version of this package
            return _ADAPTER.validate_json(self._file(part).read_bytes())
        return None

    def keep(self, finding: Finding) -> None:
        """Write it down, in place of what was there, whole or not at all."""
        document = _ADAPTER.dump_python(finding, mode="json", exclude_none=True)
        write_json(self._file(finding.part), document)

    def _file(self, part: str) -> Path:
        return self.path / "parts" / f"{part}.json"


type Start = Callable[[Sequence[Part], float], str | None]
"""Runs a process that measures these parts, for at most so many seconds.

Returns how it ended, which matters where it has left no last word; None: it was ended.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Where all is measured."""

    date: str
    machine: Machine
    versions: Mapping[str, str]
    pace: float = 1.0
    """How many seconds an H100's one takes here, as far as that is known."""


@dataclass(kw_only=True)
class Session:
    """One call: so many parts, so much time."""

    parts: Sequence[Part]
    folder: Folder
    facts: Facts
    seconds: float
    only: Sequence[str] = ()
    """Parts to run, if not all."""
    again: Sequence[str] = ()
    """Parts to run although they have ended."""
    is_tiny: bool = False
    """Whether all is small. Then parts share a process: each would spend its time on imports."""
    clock: Callable[[], float] = time.monotonic
    tell: Callable[[str], None] = lambda _: None
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin."""
        self._began = self.clock()

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (self.clock() - self._began)

    def expect(self, part: Part) -> float:
        """Return the seconds that a part should take, by what others took in this folder."""
        usual = (part.fixed + part.work * self.facts.pace) * self._correction()
        known = self.folder.finding(part.name)
        if known is not None and known.outcome is Outcome.STOPPED and known.limit is not None:
            return max(usual, _LONGER * known.limit)
        return usual

    def run(self, start: Start) -> None:
        """Run what is left to be run and fits; write the record after each."""
        groups = [self.parts] if self.is_tiny else [[part] for part in self.parts]
        for group in groups:
            chosen: list[Part] = []
            for part in group:
                hindrance = self.hindrance(
                    part, self.left - sum(self.expect(one) for one in chosen), chosen
                )
                if hindrance is None:
                    chosen.append(part)
                elif not self.only or part.name in self.only:
                    self.tell(f"{part.name}: {hindrance}")
            if chosen:
                self._run(chosen, start)
                self.write_record()

    def hindrance(self, part: Part, left: float, coming: Sequence[Part] = ()) -> str | None:
        """Say why a part is not run; None: it can be. `coming` are those that run before it."""
        if self.only and part.name not in self.only:
            return "not asked for"
        known = self.folder.finding(part.name)
        if known is not None and known.is_final and part.name not in self.again:
            why = f" ({known.reason})" if known.reason else ""
            return f"{known.outcome} already{why}"
        missing = [name for name in part.needs if find_spec(name) is None]
        if missing:
            return f"left out: it needs {', '.join(missing)}"
        if part.after is not None and part.after not in [one.name for one in coming]:
            before = self.folder.finding(part.after)
            if before is None or before.outcome is not Outcome.ENDED:
                return f"left out: it comes after {part.after}"
        if part.system_gb * _GIGA > system_memory():
            there = system_memory() / _GIGA
            return f"left out: {part.system_gb:.0f} GB of system memory, and there are {there:.0f}"
        free = shutil.disk_usage(_existing(self.folder.path)).free
        if part.disk_gb * _GIGA > free:
            return f"left out: {part.disk_gb:.0f} GB of the disk, and there are {free / _GIGA:.0f}"
        expected = self.expect(part)
        if expected + _ENDING > left:
            return f"left out: about {expected:.0f} s, and {max(0.0, left):.0f} are left"
        return None

    def write_record(self) -> Path | None:
        """Write what there is to send, from all parts that have ended; return the file."""
        record = gather(self.parts, self.folder)
        if record is None:
            return None
        kind = "tiny" if self.is_tiny else "card"  # what is tiny is no record
        path = self.folder.path / f"{kind}-{record.date}-{record.machine.kind}.json"
        for stale in self.folder.path.glob(f"{kind}-*.json"):
            if stale != path:
                stale.unlink()
        write_record(record, path)
        return path

    def _run(self, chosen: Sequence[Part], start: Start) -> None:
        expected = sum(self.expect(part) for part in chosen)
        limit = self.left - _ENDING
        if not self.is_tiny:
            limit = min(limit, max(_SLACK * expected, _LEAST))
        names = ", ".join(part.name for part in chosen)
        self.tell(f"{names}: about {expected:.0f} s, at most {limit:.0f}; {self.left:.0f} are left")
        for part in chosen:
            self.folder.keep(self._unfinished(part))
        began = self.clock()
        failure = start(chosen, limit)
        taken = self.clock() - began
        for part in chosen:
            found = self.folder.finding(part.name) or self._unfinished(part)
            is_alone = len(chosen) == 1
            if is_alone:
                found = replace(found, seconds=round(taken, 1))
            if found.outcome is Outcome.UNFINISHED and failure is None:
                own = round(limit, 1) if is_alone else None
                found = replace(found, outcome=Outcome.STOPPED, limit=own)
            elif found.outcome is Outcome.UNFINISHED:
                found = replace(found, outcome=Outcome.FAILED, reason=failure)
            self.folder.keep(found)
            why = f": {found.reason}" if found.reason else ""
            self.tell(f"{part.name}: {found.outcome}, {found.seconds:.0f} s{why}")

    def _unfinished(self, part: Part) -> Finding:
        return Finding(
            part=part.name,
            outcome=Outcome.UNFINISHED,
            date=self.facts.date,
            seconds=0.0,
            machine=self.facts.machine,
            versions=self.facts.versions,
            is_tiny=self.is_tiny,
        )

    def _correction(self) -> float:
        """Return how much longer than expected took what has ended."""
        usual = [part for part in self.parts if not part.is_cold]
        found = [(part, self.folder.finding(part.name)) for part in usual]
        ended = [(part, one) for part, one in found if one and one.outcome is Outcome.ENDED]
        expected = sum(part.fixed + part.work * self.facts.pace for part, _ in ended)
        taken = sum(one.seconds for _, one in ended)
        least, most = _CORRECTION
        return min(most, max(least, taken / expected)) if expected else 1.0


def start_process(command: Sequence[str], folder: Folder, environment: Mapping[str, str]) -> Start:
    """Return what runs `command` with the parts' names behind it; its output is in a log."""

    def start(parts: Sequence[Part], limit: float) -> str | None:
        runner, names, words = ProcessRunner(), [part.name for part in parts], [""]

        def on_line(line: str) -> None:
            words[0] = line

        job = Job(
            command=[*command, *names],
            folder=ROOT,
            environment=environment,
            log=folder.log(names[0]),
        )
        ended = threading.Event()
        watch = threading.Thread(target=_end_late, args=(runner, ended, limit), daemon=True)
        watch.start()
        try:
            code = runner.run(job, on_line)
        except JobEnded:
            return None
        finally:
            ended.set()
            watch.join()
        killed = " (for want of system memory?)" if code == 128 + 9 else ""
        return f"ended with {code}{killed}: {words[0][:200]}"

    return start


def _end_late(runner: ProcessRunner, ended: threading.Event, limit: float) -> None:
    """End the tree when the time is over; asked twice, it grants no grace."""
    if not ended.wait(limit):
        runner.end()
        if not ended.wait(_ENDING / 2):
            runner.end()


def gather(parts: Sequence[Part], folder: Folder) -> Record | None:
    """Return all results of the parts that have ended, those of one name in one table.

    Of other machines or versions than the newest's nothing is taken.
    """
    found = [one for part in parts if (one := folder.finding(part.name)) is not None]
    ended = [one for one in found if one.outcome is Outcome.ENDED]
    if not ended:
        return None
    newest = max(ended, key=lambda one: one.date)
    alike = [
        one for one in found if (one.machine, one.versions) == (newest.machine, newest.versions)
    ]
    joined: dict[str, Result] = {}
    for one in alike:
        for result in one.results if one.outcome is Outcome.ENDED else ():
            known = joined.get(result.name)
            joined[result.name] = result if known is None else _join(known, result)
    joined["card"] = _tell_parts(parts, {one.part: one for one in alike})
    return Record(
        date=newest.date,
        machine=newest.machine,
        versions=newest.versions,
        results=joined,
    )


def _join(one: Result, other: Result) -> Result:
    return replace(
        one,
        rows=(*one.rows, *other.rows),
        ratios=(*one.ratios, *other.ratios),
        notes=(*one.notes, *other.notes),
    )


def _tell_parts(parts: Sequence[Part], found: Mapping[str, Finding]) -> Result:
    """Return what became of every part, so that the next run's times are expected better."""

    def rows() -> Iterator[Row]:
        for part in parts:
            one = found.get(part.name)
            if one is None:
                continue
            figures = {"seconds": summarise([one.seconds])}
            is_there = one.outcome is Outcome.ENDED
            kind = (one.reason or "").split(":")[0]  # what follows may name places
            instead = f"{one.outcome} {kind}".strip()
            yield Row(name=part.name, figures=figures if is_there else {}, instead=instead)

    return Result(
        name="card",
        compares="The parts of `python -m benchmarks.card`, imports and loading among them.",
        rounds=1,
        columns=(Column(name="seconds", digits=0),),
        rows=tuple(rows()),
        ratios=(),
    )


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
