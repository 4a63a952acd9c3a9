"""Results on the disk: one file a day and kind of machine, in which benchmarks join one another.

`card-*.json` are what benchmarks.card found on somebody's card, put there by hand.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from benchmarks.machine import Machine
from benchmarks.result import Result
from glance.core.files import write_json

FOLDER: Final = Path(__file__).parent / "results"
_NAME: Final = re.compile(r"(?:card-)?(\d{4}-\d\d-\d\d)-[a-z0-9-]+(?:\.(\d+))?\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was measured on one day with one machine and one set of versions."""

    date: str
    """YYYY-MM-DD."""
    machine: Machine
    versions: Mapping[str, str]
    results: Mapping[str, Result]
    """By the benchmark's name."""

    def is_of(self, other: "Record") -> bool:
        """Whether both are of the same day, machine and versions."""
        ours, theirs = (replace(one, results={}) for one in (self, other))
        return ours == theirs


_ADAPTER: Final = TypeAdapter(Record)


def load_record(path: Path) -> Record:
    """Return what a file holds; raises pydantic's ValidationError for one of another making."""
    return _ADAPTER.validate_json(path.read_bytes())


def load_records(folder: Path = FOLDER) -> list[Record]:
    """Return all records, the newest first."""

    def age(path: Path) -> tuple[str, int]:
        named = _NAME.fullmatch(path.name)
        if named is None:
            raise ValueError(f"{path.name}: not the name of a record")
        return named[1], int(named[2] or 1)

    return [load_record(path) for path in sorted(folder.glob("*.json"), key=age, reverse=True)]


def keep(record: Record, folder: Path = FOLDER) -> Path:
    """Write the record, or put its results into that of the same day, machine and versions.

    A result of the same name is replaced. One day's second machine of a kind, or second set of
    versions, gets a file of its own: `2026-11-25-cpu.2.json`. Returns the file.
    """
    number, name = 1, f"{record.date}-{record.machine.kind}"
    while (path := folder / (f"{name}.{number}.json" if number > 1 else f"{name}.json")).exists():
        known = load_record(path)
        if record.is_of(known):
            record = replace(record, results={**known.results, **record.results})
            break
        number += 1
    write_record(record, path)
    return path


def write_record(record: Record, path: Path) -> None:
    """Write the record to this very file."""
    write_json(path, _ADAPTER.dump_python(record, mode="json", exclude_none=True))
