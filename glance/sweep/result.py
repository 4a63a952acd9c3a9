"""What came of a sweep: of each point how it went, its figures, and its pictures' likeness."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from glance.errors import TrainingFailed
from glance.files import write_json
from glance.losses import last_loss
from glance.pace import format_duration
from glance.run import Manifest
from glance.schedule import Phase
from glance.sweep.request import RESULTS, PlannedPoint

_NONE: Final = "-"


@dataclass(frozen=True, slots=True)
class Likeness:
    """How near pictures are to the base model's own with many steps: means over the pictures."""

    ssim: float | None
    """1: the same. None: not known."""
    psnr: float | None
    """Decibels; None: not known."""

    def to_json(self) -> dict[str, float | None]:
        """Return both."""
        return {"ssim": self.ssim, "psnr": self.psnr}


@dataclass(frozen=True, slots=True)
class PointResult:
    """One point, trained or failed; the likenesses are None where nothing was painted."""

    point: PlannedPoint
    manifest: Manifest | None
    """None: it failed before there was one."""
    failure: TrainingFailed | None = None
    pair: Likeness | None = None
    """Of the pair's few steps."""
    base: Likeness | None = None
    """Of the base model's, along the same sigmas."""

    @property
    def state(self) -> str:
        """Return "done" or "failed"."""
        return "done" if self.failure is None else "failed"

    def last_loss(self, phase: Phase) -> float | None:
        """Return the loss of a phase's last round; it says little beside other schedules'."""
        if self.manifest is None:
            return None
        return last_loss(self.point.training.run, self.manifest, phase)

    @property
    def seconds(self) -> float | None:
        """What all its starts of SimpleTuner took, by the clock."""
        if self.manifest is None:
            return None
        attempts = [
            one for phase in self.manifest.phases.values() for one in phase.attempts if one.ended
        ]
        return sum((one.ended - one.started).total_seconds() for one in attempts if one.ended)

    def to_json(self) -> dict[str, Any]:
        """Return the point, how it went, and its figures."""
        failure = self.failure
        return {
            **self.point.to_json(),
            "state": self.state,
            "problem": None if failure is None else str(failure),
            "log": None if failure is None else str(failure.log),
            "last_loss": {phase.value: self.last_loss(phase) for phase in Phase},
            "seconds": self.seconds,
            "pair": None if self.pair is None else self.pair.to_json(),
            "base": None if self.base is None else self.base.to_json(),
        }

    def row(self) -> tuple[str, ...]:
        """Return it as the table shows it."""
        seconds = self.seconds
        return (
            self.point.name,
            self.state,
            *(_shown(self.last_loss(phase), 4) for phase in Phase),
            _NONE if seconds is None else format_duration(seconds),
            *(
                _shown(getattr(likeness, name, None), digits)
                for name, digits in (("ssim", 3), ("psnr", 1))
                for likeness in (self.pair, self.base)
            ),
        )


@dataclass(frozen=True, slots=True)
class SweepResult:
    """All points in their order, and the sheet if there is one."""

    folder: Path
    points: tuple[PointResult, ...]
    prompts: tuple[str, ...]
    picture_seeds: tuple[int, ...]
    sheet: Path | None = None

    @property
    def failures(self) -> tuple[TrainingFailed, ...]:
        """What went wrong, point by point."""
        return tuple(point.failure for point in self.points if point.failure is not None)

    def with_point(self, point: PointResult) -> Self:
        """Return a copy that has one more point."""
        return replace(self, points=(*self.points, point))

    def to_json(self) -> dict[str, Any]:
        """Return what sweep.json holds and `--json` prints."""
        return {
            "sweep": str(self.folder),
            "points": [point.to_json() for point in self.points],
            "prompts": list(self.prompts),
            "picture_seeds": list(self.picture_seeds),
            "sheet": None if self.sheet is None else str(self.sheet),
        }

    def save(self) -> None:
        """Write sweep.json, atomically; its paths are those within the folder."""
        document = self.to_json()
        for point in document["points"]:
            for name in ("run", "log"):
                if point[name] is not None:
                    point[name] = Path(point[name]).relative_to(self.folder).as_posix()
        del document["sweep"]
        document["sheet"] = None if self.sheet is None else self.sheet.name
        write_json(self.folder / RESULTS, document)

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield the table: a header and a row a point."""
        losses = (f"{phase} loss" for phase in Phase)
        yield ("point", "state", *losses, "trained", "SSIM", "base's", "PSNR", "base's")
        for point in self.points:
            yield point.row()


def _shown(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"
