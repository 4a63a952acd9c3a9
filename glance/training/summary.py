"""What a training made and took, in the lines that end it."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from glance.core.errors import RunError
from glance.core.phase import Phase
from glance.runs.folder import RunFolder
from glance.runs.losses import Course, last_loss, read_course
from glance.runs.manifest import Manifest, PhaseRecord, PhaseState, iterate_runs
from glance.runs.plot import describe_course

_WORSE: Final = 2.0  # a loss that many times its beginning is no noise any more
# what two trainings may differ in whose losses are comparable
_ASIDE: Final = {
    *("model", "transformer", "weights", "device", "preset"),
    *("seed", "sample_every", "sample_prompt"),
}


def summarise(run: RunFolder, manifest: Manifest) -> tuple[str, ...]:
    """Return a line or more a trained phase: figures, losses and the file."""
    return tuple(line for phase in Phase for line in _summarise(run, manifest, phase))


def usual_losses(run: RunFolder, manifest: Manifest, phase: Phase) -> tuple[float, ...]:
    """Return the last losses of that phase in the runs beside this one that are comparable.

    A loss says something only beside others of the same model, noise levels and settings: the slow
    phase's are all near pure noise, the fast phase's are not.
    """
    found = []
    for other, theirs in iterate_runs(run.path.absolute().parent):
        is_comparable = (
            other.path.resolve() != run.path.resolve()
            and theirs.phases[phase].state is PhaseState.DONE
            and _comparable(theirs) == _comparable(manifest)
        )
        last = last_loss(other, theirs, phase) if is_comparable else None
        if last is not None:
            found.append(last)
    return tuple(sorted(found))


def _comparable(manifest: Manifest) -> tuple[Any, ...]:
    settings = manifest.settings.model_dump(exclude=_ASIDE)
    return manifest.base_model, manifest.schedule, settings, manifest.imported is None


def _summarise(run: RunFolder, manifest: Manifest, phase: Phase) -> Iterator[str]:
    record = manifest.phases[phase]
    if record.lora is None:
        return
    file = record.lora
    yield f"{phase}: {', '.join(_figures(record))}"
    with suppress(RunError):  # its losses cannot be read: that takes nothing from the LoRA
        yield from _judge(read_course(run, manifest, phase), usual_losses(run, manifest, phase))
    yield f"{phase}: {file.path}, {file.bytes / 1e6:.1f} MB, sha256 {file.sha256[:12]}"


def _figures(record: PhaseRecord) -> Iterator[str]:
    took = record.measured
    part = f", {took.steps} of them by the last start" if took.steps < record.steps else ""
    yield f"{record.steps} steps{part}"
    if took.seconds_a_step is not None:
        yield f"{took.seconds_a_step:.2f} s a step"
    if took.peak_gpu_bytes is not None:
        yield f"{took.peak_gpu_bytes / 1e9:.1f} GB of the card"
    if took.peak_bytes is not None:
        yield f"{took.peak_bytes / 1e9:.1f} GB of memory"


def _judge(course: Course, usual: tuple[float, ...]) -> Iterator[str]:
    if course.last is None:
        return
    line = f"{course.phase}: {describe_course(course)}"
    if usual:
        runs = f"{len(usual)} runs like it end" if len(usual) > 1 else "one run like it ends"
        line += f"; {runs} at {_spread(usual)}"
    yield line
    if course.last > _WORSE * course.trend[0][1]:
        yield f"{course.phase}: that is far above its beginning: try a lower --learning-rate"


def _spread(values: tuple[float, ...]) -> str:
    low, high = f"{values[0]:.4g}", f"{values[-1]:.4g}"
    return low if low == high else f"{low} to {high}"
