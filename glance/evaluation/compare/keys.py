"""The name of a picture in the cache: a hash over everything that decides its pixels."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from glance.sampling.provenance.record import Record, ScheduleUse
from glance.sampling.request import GenerationPlan
from glance.schedule.lists import DEFAULT_SCHEDULE, resolve_schedule

_BLOCK: Final = 1 << 16  # bytes
_BLOCKS: Final = 16  # of a file


def picture_key(
    record: Record, changes: Mapping[str, Any], *, own_steps: int | None, weights: str
) -> str:
    """Return a picture's key, from the record of the one that both LoRAs paint.

    `changes` are those of its settings, `loras` among them; `own_steps` are those of the model's
    own schedule, None where the pair's is stepped along; `weights` is what `sample_weights` says.
    A picture of the base model alone has the same key for every pair of that model; along its own
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
    digest = hashlib.sha256()
    for path in _weight_files(plan):
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        with path.open("rb") as file:
            for number in range(_BLOCKS):
                file.seek(max(0, status.st_size - _BLOCK) * number // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def _weight_files(plan: GenerationPlan) -> Iterator[Path]:
    yield from plan.base_loras
    if plan.transformer is not None:
        yield plan.transformer
    folder = Path(plan.model)
    if folder.is_dir():
        yield from sorted(path for path in folder.glob("*/*") if path.suffix in _WEIGHTS)


_WEIGHTS: Final = (".safetensors", ".bin")
