"""The layout of a run folder: where everything in it lies. Touches nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glance.core.errors import SetupError
from glance.core.phase import Phase

RUNS: Final = Path("runs")
LORA_FILE: Final = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for
TRAINERS_PAGE: Final = "README.md"  # SimpleTuner's, beside the LoRA


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The layout of one run. Making the object touches nothing."""

    path: Path

    @property
    def manifest(self) -> Path:
        """glance.json."""
        return self.path / "glance.json"

    @property
    def data(self) -> Path:
        """The staged pair."""
        return self.path / "data"

    @property
    def references(self) -> Path:
        """The staged reference, for a family that edits."""
        return self.path / "reference"

    @property
    def recordings(self) -> Path:
        """What the base model passed on its own way, until both phases have learnt it."""
        return self.path / "cache" / "teacher"

    @property
    def images(self) -> Path:
        """Sampled pictures."""
        return self.path / "images"

    @property
    def model(self) -> Path:
        """A base model that travels with the run; most runs have none."""
        return self.path / "model"

    @property
    def unfinished_model(self) -> Path:
        """Where that model is copied to until it is whole."""
        return self.path / "model.part"

    @property
    def transformer(self) -> Path:
        """The transformer of a single file, made ready for the trainer; gone when it is done."""
        return self.path / "transformer"

    @property
    def lock(self) -> Path:
        """Held while somebody trains here."""
        return self.path / "glance.lock"

    def output(self, phase: Phase) -> Path:
        """What SimpleTuner writes for one phase."""
        return self.path / "output" / environment(phase)

    def lora(self, phase: Phase) -> Path:
        """The finished LoRA of one phase."""
        return self.output(phase) / LORA_FILE

    def log(self, phase: Phase) -> Path:
        """Everything the trainer said in one phase."""
        return self.path / "logs" / f"{environment(phase)}.log"

    def samples(self, phase: Phase) -> Path:
        """Where SimpleTuner paints while it trains, if it is asked to."""
        return self.output(phase) / "validation_images"

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
            f"cannot write {exc.filename or path}: {exc.strerror or exc}",
            hint="choose a place for --run that you may write to and that has space left",
        ) from exc
