"""Write what a comparison shows: the sheet, the page and the figures, into one folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glance.compare.page import save_page
from glance.compare.request import SHEET, ComparisonPlan
from glance.compare.result import Comparison
from glance.compare.sheet import save_sheet
from glance.compare.summary import describe
from glance.errors import SetupError
from glance.files import write_json


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison, and where it is written down."""

    comparison: Comparison
    folder: Path
    document: dict[str, Any]

    @property
    def sheet(self) -> Path:
        """The picture to look at."""
        return self.folder / SHEET

    @property
    def page(self) -> Path:
        """The same with every figure, for a browser."""
        return self.folder / "index.html"

    def to_json(self) -> dict[str, Any]:
        """Return what `glance compare --json` prints."""
        places = {"sheet": str(self.sheet), "page": str(self.page)}
        return {**places, **self.document}


def write_report(plan: ComparisonPlan, comparison: Comparison) -> Report:
    """Write sheet.png, index.html and compare.json into the plan's folder; raises SetupError."""
    document = {**_facts(plan), **describe(comparison)}
    report = Report(comparison, plan.folder, document)
    try:
        save_sheet(comparison, plan.sample, report.sheet)
        save_page(comparison, plan.sample, report.page)
        write_json(plan.folder / "compare.json", report.document)
    except BrokenPipeError:  # not the folder: whoever read our output has left
        raise
    except OSError as exc:
        raise SetupError(
            f"cannot write {exc.filename or plan.folder}: {exc.strerror or exc}",
            hint="give --output a folder that you may write to and that has space left",
        ) from exc
    return report


def _facts(plan: ComparisonPlan) -> dict[str, Any]:
    """Return what all pictures have in common; no path, for it lies in a run folder."""
    record = plan.generation.pictures[0].record
    model = Path(plan.generation.model)
    return {
        "family": record.family,
        "model": model.name if model.is_dir() else plan.generation.model,
        "base_revision": record.base_revision,
        "loras": {use.phase.value: use.sha256 for use in record.loras},
        "schedule": plan.generation.schedule.to_json(),
        "device": record.device.value,
        "dtype": record.dtype.value,
        "quantize": record.quantize,
    }
