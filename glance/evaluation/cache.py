"""Images that were generated before, with their final latents, in the user's cache folder.

An entry is written whole or not at all; one that is damaged counts as none. What was used longest
ago goes when the folder grows too large. A folder that cannot be written stops nothing.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zipfile import BadZipFile

import numpy as np

from glance.core.errors import reason_of
from glance.core.events import EventSink, Warned
from glance.core.files import cache_folder, replacing
from glance.evaluation.comparison import Latents
from glance.sampling.plan import GenerationPlan
from glance.sampling.provenance import Record, ScheduleUse
from glance.schedule.lists import DEFAULT_SCHEDULE, resolve_schedule

if TYPE_CHECKING:
    from PIL.Image import Image

LIMIT: Final = 2 << 30  # bytes; some six hundred images of a megapixel
_BLOCK: Final = 1 << 16  # bytes
_BLOCKS: Final = 16  # of a file
_WEIGHTS: Final = (".safetensors", ".bin")


@dataclass(frozen=True, slots=True)
class CachedImage:
    """An image, and the latents that it was decoded from."""

    image: "Image"
    latents: Latents


class ImageCache:
    """Finds and keeps images by key; the first time that it cannot write, it says so."""

    def __init__(self, on_event: EventSink = lambda _: None, *, is_used: bool = True) -> None:
        """Touch nothing. Not used, it holds nothing and keeps nothing.

        Raises SetupError where there is no home.
        """
        self.folder = cache_folder() / "compare"
        self._on_event = on_event
        self._is_used = self._is_writable = is_used

    def holds(self, key: str) -> bool:
        """Whether an image is there; whether it is sound, `find` says."""
        return self._is_used and self._path(key).is_file()

    def find(self, key: str) -> CachedImage | None:
        """Return an image; None where it is not there, or damaged."""
        from PIL import Image

        if not self.holds(key):
            return None
        try:
            with self._path(key).open("rb") as file, np.load(file) as arrays:  # by zip's CRC-32
                found = CachedImage(Image.fromarray(arrays["pixels"]), arrays["latents"])
        except (OSError, ValueError, EOFError, LookupError, TypeError, BadZipFile):
            return None
        with suppress(OSError):  # a cache that may only be read is one too
            os.utime(self._path(key))
        return found

    def keep(self, key: str, made: CachedImage) -> None:
        """Write an image for the next time."""
        if not self._is_writable:
            return
        try:
            with replacing(self._path(key)) as temporary:
                np.savez(temporary, pixels=np.asarray(made.image), latents=made.latents)
        except BrokenPipeError:  # not the folder: whoever read our output has left
            raise
        except OSError as exc:
            self._is_writable = False
            self._on_event(
                Warned(
                    f"images cannot be kept for the next time: {reason_of(exc)} at "
                    f"{exc.filename or 'the cache'}",
                    "set XDG_CACHE_HOME to a folder that you may write to and that has space left",
                )
            )

    def trim(self, limit: int = LIMIT) -> None:
        """Remove what was used longest ago until `limit` bytes are left."""
        files = []
        for path in self.folder.glob("*/*"):
            with suppress(OSError):  # somebody else trims too
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= limit:
                return
            with suppress(OSError):
                path.unlink()
            total -= size

    def _path(self, key: str) -> Path:
        return self.folder / "images" / f"{key}.npz"


def image_key(
    record: Record, changes: Mapping[str, Any], *, own_steps: int | None, weights: str
) -> str:
    """Return a hash over all that decides an image's pixels, from the record of the pair's.

    `changes` are those of its settings, `loras` among them; `own_steps` are those of the model's
    own schedule, None where the pair's is followed; `weights` is what `sample_weights` says.
    An image of the base model alone has the same key for every pair of that model; along its own
    schedule it has it whatever the pair's.
    """
    used = tuple(use for use in record.loras if use.phase in changes["loras"])
    update = {"settings": record.settings.model_copy(update=changes), "loras": used}
    if own_steps is not None:
        update["schedule"] = ScheduleUse.of(resolve_schedule(DEFAULT_SCHEDULE))
    decisive = [record.model_copy(update=update).key(), own_steps, weights]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def sample_weights(plan: GenerationPlan) -> str:
    """Return a hash over samples of the base model's weights; nothing of a Hub's model is read.

    A record tells folders apart by the names and sizes of their weights, and single files by their
    names: a model that was trained further has the same ones. So 64 KiB from each of sixteen places
    of every file count too, and when it was written.
    """
    folder, transformer = Path(plan.base.location), plan.base.transformer
    files = [] if transformer is None else [transformer]
    if folder.is_dir():
        files += sorted(path for path in folder.glob("*/*") if path.suffix in _WEIGHTS)
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        with path.open("rb") as file:
            for number in range(_BLOCKS):
                file.seek(max(0, status.st_size - _BLOCK) * number // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()
