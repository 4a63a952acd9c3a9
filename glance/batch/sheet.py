"""The contact sheet of a batch: each run's image and what its pair makes of the caption."""

from collections.abc import Iterator
from itertools import batched
from pathlib import Path
from typing import Final, NamedTuple

from glance.batch.board import Board, State, Status
from glance.core.errors import GlanceError, reason_of
from glance.core.events import Event, EventSink, Noted, Warned
from glance.evaluation.report import MOST_ROWS, SHEET, draw_grid
from glance.runs.folder import RunFolder
from glance.runs.manifest import Manifest, load_manifest, read_caption
from glance.sampling.generate import KeptModel, run_generation
from glance.sampling.plan import GenerationPlan, plan_generation
from glance.sampling.request import InferRequest

_IMAGES: Final = "images"
_NONE: Final = "none"
"""Where there is no image: its place on the sheet stays empty."""
_SEED: Final = 0


class _Row(NamedTuple):
    """A run of the sheet."""

    title: str
    trained_on: Path | None
    """None: a pair that the base model has taught."""
    plan: GenerationPlan


def make_sheets(board: Board, output: Path, device: str, on_event: EventSink) -> list[Path]:
    """Sample each finished pair once, with its own caption, and draw all beside their images.

    The base model is loaded once for all; what was sampled before is not sampled again. Returns the
    sheets, of forty runs each. What cannot be sampled is said, and left out: the pairs are there.
    """
    rows = list(_plan(board, output, device, on_event))
    missing = [one.plan for one in rows if not one.plan.images[0].is_done]
    if missing:
        on_event(Noted(f"sampling {len(missing)} of the pairs for the sheet"))
    model = KeptModel(missing)
    drawn = []

    def tell(event: Event) -> None:
        if isinstance(event, Warned):
            on_event(event)

    try:
        for row in rows:
            run_generation(row.plan, tell, kept=model)
            drawn.append(row)
            if row.plan in missing:
                on_event(Noted(f"sampled: {row.title}"))
    except GlanceError as exc:
        on_event(Warned(f"not all pairs are on the sheet: {exc}", exc.problems[0].hint))
    finally:
        model.drop()
    return list(_draw(drawn, output, on_event))


def _plan(board: Board, output: Path, device: str, on_event: EventSink) -> Iterator[_Row]:
    for one in board.jobs:
        if one.state is not State.DONE:
            continue
        try:
            run = RunFolder(one.run)
            manifest = load_manifest(run)
            if manifest.is_finished:
                plan = plan_generation(
                    _request(run, manifest, device), folder=output / _IMAGES / one.name
                )
                image = manifest.samples[0].image if manifest.samples else None
                yield _Row(_title(one), None if image is None else run.path / image, plan)
        except GlanceError as exc:
            on_event(Warned(f"{one.name} is not on the sheet: {exc}", exc.problems[0].hint))


def _request(run: RunFolder, manifest: Manifest, device: str) -> InferRequest:
    """Return what is sampled of a run: what it was trained on, or the first that it was taught."""
    teacher = manifest.settings.teacher
    if teacher is not None:
        return InferRequest(
            run=run.path, prompts=teacher.prompts[:1], seeds=(_SEED,), device=device
        )
    sample = next(iter(manifest.samples), None)
    caption = read_caption(run, sample)
    before = None if sample is None else sample.reference
    reference = None if before is None else run.path / before
    return InferRequest(
        run=run.path, prompts=(caption,), seeds=(_SEED,), device=device, reference=reference
    )


def _title(one: Status) -> str:
    return f"{one.number}  {one.name}" + (f": {one.outcome}" if one.outcome else "")


def _draw(rows: list[_Row], output: Path, on_event: EventSink) -> Iterator[Path]:
    for number, some in enumerate(batched(rows, MOST_ROWS), 1):
        name = Path(SHEET)
        path = output / (name if number == 1 else f"{name.stem}-{number}{name.suffix}")
        titles = [row.title for row in some]
        columns = {
            "image": [row.trained_on or output / _NONE for row in some],
            "pair": [row.plan.images[0].output for row in some],
        }
        try:
            draw_grid(titles, columns, path)
        except OSError as exc:
            on_event(Warned(f"no {path}: {reason_of(exc)}"))
            return
        yield path
