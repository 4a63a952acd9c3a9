"""Which run is meant, whether it is finished, and what its sample shows."""

from collections.abc import Collection
from pathlib import Path

from glance.core.errors import RunError
from glance.core.files import read_text
from glance.core.phase import Phase
from glance.runs.folder import RUNS, RunFolder
from glance.runs.manifest import Manifest, PhaseState, SampleRecord, find_newest_run


def choose_run(given: Path | None) -> tuple[RunFolder, tuple[str, ...]]:
    """Return the run that is given, else the newest finished one in runs/; and what to say of it.

    Raises RunError when none is given and there is none.
    """
    if given is not None:
        return RunFolder(given), ()
    newest = find_newest_run()
    if newest is None:
        raise RunError(
            f"there is no finished run under ./{RUNS}",
            hint='train one: glance train --image x.png --caption "what it shows"',
        )
    return newest, (f"using the newest finished run, {newest.path}",)


def require_finished(
    run: RunFolder, manifest: Manifest, phases: Collection[Phase] = tuple(Phase)
) -> None:
    """Raise RunError unless these phases are done."""
    states = {phase: manifest.phases[phase].state for phase in phases}
    unfinished = [f"{phase} is {it}" for phase, it in states.items() if it is not PhaseState.DONE]
    if unfinished:
        raise RunError(
            f"run {run.path} is not finished: {', '.join(unfinished)}",
            hint=f"run its `{manifest.command}` command again: it continues",
        )


def read_caption(run: RunFolder, sample: SampleRecord | None) -> str:
    """Return what the run's sample is said to show; raises RunError when it is gone."""
    if sample is None:
        raise RunError(
            f"the pair of {run.path} was imported without its picture and caption",
            hint='say what to paint: --prompt "..."',
        )
    path = run.path / sample.caption
    try:
        return read_text(path).strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise RunError(
            f"the run's caption cannot be read: {path}", hint='say what to paint: --prompt "..."'
        ) from exc
