"""Write what a comparison shows: the sheet, the page and the figures, into one folder."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.compare.page import save_page
from glance.compare.request import SHEET, ComparisonPlan, Variant
from glance.compare.result import Comparison
from glance.compare.sheet import save_sheet
from glance.compare.summary import describe
from glance.compare.verdict import Verdict
from glance.errors import SetupError
from glance.files import replacing, write_json

PICTURES: Final = "pictures"
_NAME: Final = re.compile(rf"\d+-({'|'.join(Variant)})\.png")


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison, what it says of the pair, and where it is written down."""

    comparison: Comparison
    verdict: Verdict
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


def write_report(plan: ComparisonPlan, comparison: Comparison, verdict: Verdict) -> Report:
    """Write pictures/, sheet.png, index.html and compare.json into the plan's folder.

    compare.json comes last: what it speaks of is there. Raises SetupError.
    """
    said = {"sentence": verdict.sentence, "verdict": verdict.to_json()}
    document = {**_facts(plan), **describe(comparison), **said}
    report = Report(comparison, verdict, plan.folder, document)
    try:
        _save_pictures(comparison, plan.folder)
        save_sheet(comparison, plan.sample, report.sheet, headline=verdict.sentence)
        save_page(comparison, plan.sample, report.page, headline=verdict.sentence)
        write_json(plan.folder / "compare.json", report.document)
    except BrokenPipeError:  # not the folder: whoever read our output has left
        raise
    except OSError as exc:
        raise SetupError(
            f"cannot write {exc.filename or plan.folder}: {exc.strerror or exc}",
            hint="give --output a folder that you may write to and that has space left",
        ) from exc
    return report


def find_picture(folder: Path, row: int, variant: Variant) -> Path:
    """Return where a comparison keeps a picture; `row` counts from 1, as in compare.json."""
    return folder / PICTURES / f"{row}-{variant}.png"


def _save_pictures(comparison: Comparison, folder: Path) -> None:
    """Write every picture, and remove those of an earlier comparison."""
    written = set()
    for number, row in enumerate(comparison.rows, start=1):
        for variant, cell in row.cells.items():
            path = find_picture(folder, number, variant)
            with replacing(path) as temporary:
                cell.image.save(temporary, format="PNG")
            written.add(path)
    for path in (folder / PICTURES).glob("*.png"):
        if path not in written and _NAME.fullmatch(path.name):
            path.unlink()


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
