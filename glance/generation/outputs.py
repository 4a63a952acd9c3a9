"""Where pictures go: names of their own, and those that an earlier start has painted already."""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from glance.errors import InputError
from glance.generation.pictures import Asked
from glance.generation.request import PlannedPicture
from glance.provenance import FORMATS, Record, read_record

MakeRecord = Callable[[Asked, Path], Record]
"""Of a picture and the folder it goes to."""


def place_pictures(
    asked: Sequence[Asked],
    *,
    given: Path | None,
    images: Path,
    make_record: MakeRecord,
    is_anew: bool,
) -> tuple[PlannedPicture, ...]:
    """Return the pictures with their places: `given` by the user, else in the run's `images`.

    A single picture goes to the path that is given. Several go to a folder, or get the path's
    name with their seeds. A name of ours never takes a file away: it is numbered. Only where
    several are asked for, one that shows exactly what is asked counts as done: the command was
    interrupted and is run again; not so if they are wanted `is_anew`.

    Raises InputError when nothing can be written there.
    """
    is_folder = given is None or given.is_dir() or not given.suffix
    folder = images if given is None else given if is_folder else given.parent
    _require_writable(folder)
    if given is not None and not is_folder:
        _require_format(given)
    if given is not None and not is_folder and len(asked) == 1:
        _require_writable(given)
        record = make_record(asked[0], folder)
        return (PlannedPicture(asked[0].settings, given, record, is_done=False),)
    planned: list[PlannedPicture] = []
    taken: set[Path] = set()
    for one in asked:
        record = make_record(one, folder)
        name = one.name or _name(one, given if given is not None and not is_folder else None)
        path, is_done = _find_place(
            folder / name,
            taken,
            record,
            resumes=len(asked) > 1 and not is_anew,
            replaces=is_anew and len(asked) > 1,
        )
        taken.add(path)
        planned.append(PlannedPicture(one.settings, path, record, is_done=is_done))
    return tuple(planned)


def _name(one: Asked, pattern: Path | None) -> str:
    if pattern is not None:
        return f"{pattern.stem}-{one.settings.seed}{pattern.suffix}"
    words = re.sub(r"[^\w]+", "-", one.settings.prompt.lower()).strip("-")[:40].strip("-")
    return f"{words or 'image'}-{one.settings.seed}.png"


def _find_place(
    path: Path, taken: set[Path], record: Record, *, resumes: bool, replaces: bool
) -> tuple[Path, bool]:
    """Return the first of x.png, x-2.png, ... that is free or holds this very picture."""
    for number in range(1, 1_000_000):
        place = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        if place in taken:
            continue
        if not place.exists():
            return place, False
        if (resumes or replaces) and _shows(place, record):
            return place, resumes
    raise InputError(f"there are too many pictures at {path}", hint="give another --output")


def _shows(path: Path, record: Record) -> bool:
    with suppress(InputError):
        return read_record(path).key() == record.key()
    return False


def _require_format(path: Path) -> None:
    if path.suffix.lower() not in FORMATS:
        raise InputError(
            f"--output {path}: {path.suffix} is not a picture format",
            hint=f"use one of {', '.join(FORMATS)}",
        )


def _require_writable(path: Path) -> None:
    """Raise InputError now, not after the sampling, where nothing can be written."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    folder = place if place.is_dir() else place.parent
    if (place not in (path.absolute(), folder)) or not os.access(folder, os.W_OK):
        raise InputError(f"nothing can be written at {path}", hint="give --output another path")
