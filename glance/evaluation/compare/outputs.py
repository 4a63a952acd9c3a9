"""Write what a comparison shows: the sheet, the page and the figures, into one folder."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from glance.core.errors import SetupError
from glance.core.files import replacing, write_json
from glance.core.pictures import DECODER_ERRORS, open_picture
from glance.evaluation.compare.page import save_page
from glance.evaluation.compare.request import SHEET, ComparisonPlan, Variant
from glance.evaluation.compare.result import Comparison
from glance.evaluation.compare.sheet import save_sheet
from glance.evaluation.compare.summary import describe
from glance.evaluation.compare.verdict import Verdict

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES: Final = "pictures"
_PAGE: Final = "index.html"
_FIGURES: Final = "compare.json"
_TELLING: Final = (
    *("family", "model", "base_revision", "loras", "schedule", "device", "dtype", "quantize"),
)
"""What all pictures of a comparison have in common, and is a name in compare.json."""
_NAME: Final = re.compile(rf"\d+-({'|'.join(Variant)})\.png")


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison, what it says of the pair, and where it is written down."""

    comparison: Comparison
    verdict: Verdict
    folder: Path
    document: dict[str, Any]
    earlier: Path | None = None
    """Where the comparison is kept that was in the folder before, if it was another one."""

    @property
    def sheet(self) -> Path:
        """The picture to look at."""
        return self.folder / SHEET

    @property
    def page(self) -> Path:
        """The same with every figure, for a browser."""
        return self.folder / _PAGE

    def to_json(self) -> dict[str, Any]:
        """Return what `glance compare --json` prints."""
        places = {"sheet": str(self.sheet), "page": str(self.page)}
        return {**places, **self.document}


def write_report(plan: ComparisonPlan, comparison: Comparison, verdict: Verdict) -> Report:
    """Write pictures/, sheet.png, index.html and compare.json into the plan's folder.

    compare.json comes last: what it speaks of is there. An earlier comparison that holds anything
    which this one does not is kept, in a folder beside the new one's files. Raises SetupError.
    """
    said = {"sentence": verdict.sentence, "verdict": verdict.to_json()}
    document = {**_facts(plan), **describe(comparison), **said}
    try:
        earlier = _set_aside(plan.folder, comparison, document)
        report = Report(comparison, verdict, plan.folder, document, earlier)
        _save_pictures(comparison, plan.folder)
        save_sheet(comparison, plan.sample, report.sheet, headline=verdict.sentence)
        save_page(comparison, plan.sample, report.page, headline=verdict.sentence)
        write_json(plan.folder / _FIGURES, report.document)
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


def _set_aside(folder: Path, new: Comparison, document: Mapping[str, Any]) -> Path | None:
    """Move what an earlier comparison left, unless the new one holds all of it; raises OSError."""
    names = (SHEET, _PAGE, _FIGURES)  # the figures last: what they speak of is there
    pictures = [path for path in (folder / PICTURES).glob("*.png") if _NAME.fullmatch(path.name)]
    ours = [*pictures, *(folder / name for name in names if (folder / name).is_file())]
    if not ours:
        return None
    shown = {_pixels(cell.image) for row in new.rows for cell in row.cells.values()}
    if _holds(document, _read_figures(folder)) and shown.issuperset(map(_pixels_of, pictures)):
        return None
    number = 1
    while (aside := folder / f"earlier-{number}").exists():
        number += 1
    for path in ours:
        place = aside / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    return aside


def _read_figures(folder: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads((folder / _FIGURES).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _holds(new: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> bool:
    """Whether every picture of the earlier comparison is one of the new: then nothing is lost."""
    if earlier is None:
        return False
    try:
        return _pictures_of(earlier) <= _pictures_of(new)
    except (KeyError, TypeError, AttributeError):  # of another glance, or somebody's own
        return False


def _pictures_of(document: Mapping[str, Any]) -> set[str]:
    """Return what compare.json says of each picture: what it shows, and how it was made."""
    facts = {name: document[name] for name in _TELLING}
    return {
        json.dumps([facts, row["prompt"], row["seed"], variant, cell["steps"]], sort_keys=True)
        for row in document["rows"]
        for variant, cell in row["variants"].items()
    }


def _pixels(image: "Image") -> tuple[tuple[int, int], bytes]:
    return image.size, hashlib.sha256(image.convert("RGB").tobytes()).digest()


def _pixels_of(path: Path) -> tuple[tuple[int, int], bytes] | None:
    try:
        with open_picture(path) as picture:
            return _pixels(picture)
    except DECODER_ERRORS:
        return None


def _save_pictures(comparison: Comparison, folder: Path) -> None:
    for number, row in enumerate(comparison.rows, start=1):
        for variant, cell in row.cells.items():
            path = find_picture(folder, number, variant)
            with replacing(path) as temporary:
                cell.image.save(temporary, format="PNG")


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
