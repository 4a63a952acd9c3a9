"""What runs of one batch need alike is made once: a single file's transformer, encoded captions.

GLANCE_SHARED names the folder that holds it as long as the batch is under way. Runs get hard links:
their files are their own, and take no room a second time. Without the variable nothing is shared.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from glance.training.plan import TrainingPlan
from glance.training.simpletuner.config import TEXT_CACHE

SHARED: Final = "GLANCE_SHARED"


def make_transformer(plan: TrainingPlan, make: Callable[[Path], None]) -> None:
    """Put the transformer of a single file into the run; `make` makes it at a path, once for all.

    Raises OSError, and what `make` raises.
    """
    shared = _folder()
    if shared is None:
        make(plan.run.transformer)
        return
    source = shared / f"transformer-{_key(plan.base.fingerprint)}"
    with _alone(shared):
        if not source.exists():
            make(source)
        _link(source, plan.run.transformer)


def take_texts(plan: TrainingPlan) -> None:
    """Give the run the captions that another one has had encoded by the same encoders."""
    shared = _folder()
    if shared is not None:
        _link(shared / _texts(plan), plan.run.path / TEXT_CACHE)


def give_texts(plan: TrainingPlan) -> None:
    """Keep what this run has had encoded for those to come."""
    shared = _folder()
    if shared is not None:
        with _alone(shared):
            _link(plan.run.path / TEXT_CACHE, shared / _texts(plan))


def _folder() -> Path | None:
    named = os.environ.get(SHARED)
    return Path(named) if named else None


def _texts(plan: TrainingPlan) -> str:
    """Return the name for what one set of text encoders, held in one way, makes of captions."""
    settings = plan.settings
    held = {"device": settings.device, "preset": settings.preset, "options": settings.overrides}
    return f"texts-{_key(plan.base.fingerprint + json.dumps(held, sort_keys=True, default=str))}"


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _link(source: Path, target: Path) -> None:
    """Give `target` those files of `source` that it has not, each whole or not at all."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if not path.is_file() or place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            place.hardlink_to(path)
        except FileExistsError:  # another run was first
            continue
        except OSError:  # another disk, or one without links
            part = place.with_name(f"{place.name}.part")
            shutil.copyfile(path, part)
            part.replace(place)


@contextmanager
def _alone(shared: Path) -> Iterator[None]:
    """Let one run at a time make what is shared."""
    import fcntl  # where there is none, training is refused before this

    shared.mkdir(parents=True, exist_ok=True)
    with (shared / "lock").open("w") as lock:
        with suppress(OSError):  # a file system without locks: it may be made twice, and is whole
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
