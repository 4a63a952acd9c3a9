"""The layout of a run folder: where everything in it lies. Touches nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glance.core.errors import SetupError, reason_of
from glance.core.phase import Phase

RUNS: Final = Path("runs")
LORA_FILE: Final = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for
TRAINERS_PAGE: Final = "README.md"  # SimpleTuner's, beside the LoRA


class _Place:
    """A path that every run has, below its own."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __get__(self, run: "RunFolder", owner: type) -> Path:
        return run.path.joinpath(*self._parts)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The layout of one run. Making the object touches nothing."""

    path: Path

    manifest = _Place("glance.json")
    lock = _Place("glance.lock")
    """Held while somebody trains here."""
    data = _Place("data")
    """The staged pair."""
    references = _Place("reference")
    """The staged reference, for a family that edits."""
    recordings = _Place("cache", "teacher")
    """What the base model passed on its own way, until both phases have learnt it."""
    images = _Place("images")
    previews = _Place("images", "previews")
    """The pair at some of its steps, with the LoRAs of then: `--preview-every`."""
    model = _Place("model")
    """A base model that travels with the run; most runs have none."""
    unfinished_model = _Place("model.part")
    """Where that model is copied to until it is whole."""
    transformer = _Place("transformer")
    """The transformer of a single file, made ready for the trainer; gone when it is done."""

    def output(self, phase: Phase) -> Path:
        """What SimpleTuner writes for one phase."""
        return self.path / "output" / environment(phase)

    def lora(self, phase: Phase) -> Path:
        """The finished LoRA of one phase."""
        return self.output(phase) / LORA_FILE

    def log(self, phase: Phase) -> Path:
        """Everything the trainer said in one phase."""
        return self.path / "logs" / f"{environment(phase)}.log"

    def losses(self, phase: Phase) -> Path:
        """The loss of each step of one phase."""
        return self.path / "logs" / f"{environment(phase)}-losses.csv"


def environment(phase: Phase) -> str:
    """SimpleTuner's name for one phase: its config folder, its output folder, its log."""
    return f"glance-{phase}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failing write into a SetupError that names the folder."""
    try:
        yield
    except BrokenPipeError:  # not the folder: whoever read our output has left
        raise
    except OSError as exc:
        raise SetupError(
            f"cannot write {exc.filename or path}: {reason_of(exc)}",
            hint="choose a place for --run that you may write to and that has space left",
        ) from exc
