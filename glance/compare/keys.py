"""The name of a picture in the cache: a hash over everything that decides its pixels."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from glance.compare.request import Variant
from glance.generation.request import GenerationPlan
from glance.provenance import Record, ScheduleUse
from glance.schedule import resolve_schedule
from glance.settings import DEFAULT_SCHEDULE

_BLOCK: Final = 1 << 16  # bytes
_BLOCKS: Final = 16  # of a file


def picture_key(record: Record, variant: Variant, *, teacher_steps: int, weights: str) -> str:
    """Return a variant's key, from the record of the picture that both LoRAs paint.

    `weights` is what `sample_weights` says. A picture of the base model alone has the same key for
    every pair of that model; the teacher's has it whatever the pair's schedule.
    """
    used = tuple(use for use in record.loras if use.phase in variant.loras)
    settings = record.settings.model_copy(update={"loras": variant.loras})
    changes = {"settings": settings, "loras": used}
    if variant is Variant.TEACHER:
        alone = {"fast_guidance": settings.slow_guidance, "slow_scale": 1.0, "fast_scale": 1.0}
        changes["settings"] = settings.model_copy(update=alone)
        changes["schedule"] = ScheduleUse.of(resolve_schedule(DEFAULT_SCHEDULE))
    steps = teacher_steps if variant is Variant.TEACHER else None
    decisive = [record.model_copy(update=changes).key(), steps, weights]
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
    if plan.transformer is not None:
        yield plan.transformer
    folder = Path(plan.model)
    if folder.is_dir():
        yield from sorted(path for path in folder.glob("*/*") if path.suffix in _WEIGHTS)


_WEIGHTS: Final = (".safetensors", ".bin")
