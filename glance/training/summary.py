"""What a training made and took, in the lines that end it."""

from collections.abc import Iterator
from typing import Final

from glance.run import Manifest, Measured, PhaseRecord, PhaseState, RunFolder, iterate_runs
from glance.schedule import Phase

_WORSE: Final = 2.0  # a loss that many times its beginning is no noise any more


def summarise(run: RunFolder, manifest: Manifest) -> tuple[str, ...]:
    """Return a line or more a trained phase: figures, losses and the file."""
    return tuple(
        line
        for phase in Phase
        for line in _summarise(phase, manifest.phases[phase], usual_losses(run, manifest, phase))
    )


def usual_losses(run: RunFolder, manifest: Manifest, phase: Phase) -> tuple[float, ...]:
    """Return the last losses of that phase in the runs beside this one that are comparable.

    A loss says something only beside others of the same model and noise levels: the slow
    phase's are all near pure noise, the fast phase's are not.
    """
    found = []
    for other, theirs in iterate_runs(run.path.absolute().parent):
        record = theirs.phases[phase]
        is_comparable = (
            other.path.resolve() != run.path.resolve()
            and record.state is PhaseState.DONE
            and theirs.base_model == manifest.base_model
            and theirs.schedule == manifest.schedule
        )
        if is_comparable and record.measured.last_loss is not None:
            found.append(record.measured.last_loss)
    return tuple(sorted(found))


def _summarise(phase: Phase, record: PhaseRecord, usual: tuple[float, ...]) -> Iterator[str]:
    if record.lora is None:
        return
    took, file = record.measured, record.lora
    figures = [f"{took.steps} steps"]
    if took.seconds_a_step is not None:
        figures.append(f"{took.seconds_a_step:.2f} s a step")
    if took.peak_gpu_bytes is not None:
        figures.append(f"{took.peak_gpu_bytes / 1e9:.1f} GB of the card")
    if took.peak_bytes is not None:
        figures.append(f"{took.peak_bytes / 1e9:.1f} GB of memory")
    yield f"{phase}: {', '.join(figures)}"
    yield from _judge(phase, took, usual)
    yield f"{phase}: {file.path}, {file.bytes / 1e6:.1f} MB, sha256 {file.sha256[:12]}"


def _judge(phase: Phase, took: Measured, usual: tuple[float, ...]) -> Iterator[str]:
    if took.first_loss is None or took.last_loss is None:
        return
    line = f"{phase}: loss {took.first_loss:.4f} -> {took.last_loss:.4f}"
    if usual:
        runs = f"{len(usual)} runs like it end" if len(usual) > 1 else "one run like it ends"
        line += f"; {runs} at {_spread(usual)}"
    yield line
    if took.last_loss > _WORSE * took.first_loss:
        yield f"{phase}: that is far above its beginning: try a lower --learning-rate"


def _spread(values: tuple[float, ...]) -> str:
    low, high = f"{values[0]:.4f}", f"{values[-1]:.4f}"
    return low if low == high else f"{low} to {high}"
