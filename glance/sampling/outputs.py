"""Where pictures go: names of their own, and those that an earlier start has painted already."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from glance.core.errors import InputError
from glance.core.files import is_folder, require_writable
from glance.sampling.handover import latents_path, preview_path
from glance.sampling.pictures import Asked
from glance.sampling.provenance.picture import FORMATS, read_record
from glance.sampling.provenance.record import Record
from glance.sampling.request import InferRequest, PlannedPicture

MakeRecord = Callable[[Asked, Path], Record]
"""Of a picture and the folder it goes to."""


def place_pictures(
    request: InferRequest, asked: Sequence[Asked], *, images: Path, make_record: MakeRecord
) -> tuple[PlannedPicture, ...]:
    """Return the pictures with their places: the request's, else in the run's `images`.

    A single picture goes to the path that is given. Several go to a folder, or get the path's
    name with their seeds. A name of ours never takes a file away: it is numbered. A picture that
    is there and shows exactly what is asked, with all that is saved beside it, counts as done, of
    one as of several; with `restart` it is painted over. Pictures without a record are not told
    apart.

    Raises InputError for a path that is no picture's, SetupError when nothing can be written there.
    """
    given = request.output
    holds_several = given is None or is_folder(given) or not given.suffix
    folder = images if given is None else given if holds_several else given.parent
    if given is not None and not holds_several:
        _require_format(given)
        require_writable(given, "--output")
    else:
        require_writable(folder, "--output", as_folder=True)
    names = _Names(look=request.metadata)
    planned = []
    for one in asked:
        record = make_record(one, folder)
        if given is not None and not holds_several and len(asked) == 1:
            place, is_there = given, request.metadata and _key(given) == record.key()
        else:
            name = one.name or _name(one, None if holds_several else given)
            place, is_there = names.take(folder / name, record)
        is_whole = all(path.exists() for path in _beside(request, place))
        is_done = is_there and is_whole and not request.restart
        planned.append(PlannedPicture(one.settings, place, record, is_done=is_done))
    return tuple(planned)


@dataclass(slots=True)
class _Names:
    """The names x.png, x-2.png, ... of this command: each is given once."""

    look: bool
    """Whether pictures that are there already may be the ones that are asked for."""
    _taken: set[Path] = field(default_factory=set)
    _there: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)
    """By the first name: the pictures of its numbers that are there, by their records' keys."""
    _next: defaultdict[Path, int] = field(default_factory=lambda: defaultdict(lambda: 1))

    def take(self, path: Path, record: Record) -> tuple[Path, bool]:
        """Return the place that shows this very picture and True, else the first free one."""
        if path not in self._there:
            self._there[path] = self._find(path) if self.look else {}
        there = self._there[path]
        same = there.get(record.key(), []) if there else []
        place = next((one for one in same if one not in self._taken), None)
        is_there = place is not None
        while place is None:
            one = _numbered(path, self._next[path])
            self._next[path] += 1
            if one not in self._taken and not one.exists():
                place = one
        self._taken.add(place)
        return place, is_there

    def _find(self, path: Path) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        number = 1
        while (place := _numbered(path, number)).exists():
            key = _key(place)
            if key is not None:
                found.setdefault(key, []).append(place)
            number += 1
        return found


def _beside(request: InferRequest, picture: Path) -> tuple[Path, ...]:
    """Return the files that are asked for beside a picture."""
    return (
        *((latents_path(picture),) if request.save_latents else ()),
        *((preview_path(picture),) if request.save_phases else ()),
    )


def _numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def _key(path: Path) -> str | None:
    """Return what the picture's record says it shows; None where there is none."""
    with suppress(InputError):
        return read_record(path).key()
    return None


def _name(one: Asked, pattern: Path | None) -> str:
    if pattern is not None:
        return f"{pattern.stem}-{one.settings.seed}{pattern.suffix}"
    words = re.sub(r"[^\w]+", "-", one.settings.prompt.lower()).strip("-")[:40].strip("-")
    return f"{words or 'image'}-{one.settings.seed}.png"


def _require_format(path: Path) -> None:
    if path.suffix.lower() not in FORMATS:
        raise InputError(
            f"--output {path}: {path.suffix} is not a picture format",
            hint=f"use one of {', '.join(FORMATS)}",
        )
