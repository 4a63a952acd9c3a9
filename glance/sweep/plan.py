"""Decide a sweep: every point is planned as a training before the first one is trained."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from glance.compare.trial import NEUTRAL_PROMPT
from glance.errors import GlanceError, InputError, Problem, RunError, SettingsError
from glance.families import find_family
from glance.generation.request import MOST_PICTURES
from glance.run import RUNS, iterate_runs
from glance.sample import safe_name
from glance.settings import resolve_sample_settings
from glance.sweep.grid import Point, lay_out_grid
from glance.sweep.request import (
    RESULTS,
    SHEET,
    VARIANTS,
    PlannedPoint,
    SweepPlan,
    SweepRequest,
)
from glance.training.plan import plan_training
from glance.training.prepare import writing
from glance.training.request import TrainingPlan

_NAMED: Final = 3  # points, in a refusal that many share


def plan_sweep(request: SweepRequest) -> SweepPlan:
    """Check the request and decide the rest. Reads the pair and the runs, writes nothing.

    Raises what plan_training raises, with the problems of all points together, each named after
    the points that have it; RunError when the folder holds another sample's sweep or something
    else.
    """
    folder = request.output or RUNS / f"{safe_name(request.shared.image)}-sweep"
    grid = lay_out_grid(request)
    points = _distinct(_plan_points(request, grid, folder))
    _check_folder(folder, points)
    shown = points[0].training
    prompts = request.prompts or _usual_prompts(shown)
    seeds = request.picture_seeds or (0,)
    if request.pictures:
        _check_pictures(shown, prompts, seeds)
        _require_few(len(points), len(prompts), len(seeds))
    warnings = [warning for point in points for warning in point.training.warnings]
    return SweepPlan(
        folder=folder,
        points=points,
        prompts=tuple(dict.fromkeys(prompts)) if request.pictures else (),
        picture_seeds=tuple(dict.fromkeys(seeds)),
        device=shown.settings.device.value,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _plan_points(
    request: SweepRequest, grid: Iterable[Point], folder: Path
) -> tuple[PlannedPoint, ...]:
    planned: list[PlannedPoint] = []
    refusals: dict[str, GlanceError] = {}
    for point in grid:
        training = replace(
            request.shared,
            run=folder / point.name,
            rank=point.rank,
            learning_rate=point.learning_rate,
            steps=point.steps,
            schedule=point.schedule,
        )
        try:
            planned.append(PlannedPoint(point.name, plan_training(training)))
        except RunError as exc:
            refusals[point.name] = RunError(_for_a_sweep(exc, folder / point.name))
        except GlanceError as exc:
            refusals[point.name] = exc
    if refusals:
        raise _join(refusals, points=len(planned) + len(refusals))
    return tuple(planned)


def _for_a_sweep(refusal: RunError, run: Path) -> Iterator[Problem]:
    """Yield its problems; a sweep has neither --run nor --restart to remedy them with."""
    for problem in refusal.problems:
        hint = f"give --output another folder, or remove {run}" if problem.hint else None
        yield Problem(problem.message, hint)


def _join(refusals: Mapping[str, GlanceError], *, points: int) -> GlanceError:
    """Return one refusal that says every problem once, and which points have it."""
    having: dict[Problem, list[str]] = {}
    for name, refusal in refusals.items():
        for problem in refusal.problems:
            having.setdefault(problem, []).append(name)
    problems = [
        problem
        if len(names) == points
        else Problem(f"{_shorten(names)}: {problem.message}", problem.hint)
        for problem, names in having.items()
    ]
    kinds = {type(refusal) for refusal in refusals.values()}
    return kinds.pop()(problems) if len(kinds) == 1 else InputError(problems)


def _shorten(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _distinct(points: Iterable[PlannedPoint]) -> tuple[PlannedPoint, ...]:
    """Leave out a point whose settings and levels another one has, by whatever name."""
    found: dict[str, PlannedPoint] = {}
    for point in points:
        training = point.training
        levels = json.dumps(training.schedule.to_json())
        found.setdefault(training.settings.model_dump_json() + levels, point)
    return tuple(found.values())


def _check_folder(folder: Path, points: Iterable[PlannedPoint]) -> None:
    """Raise RunError unless `folder` is free, or a sweep of this pair."""
    hint = "give --output another folder"
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder", hint=hint)
    with writing(folder):
        names = {path.name for path in folder.iterdir()}
    sha256 = next(iter(points)).training.pair.sha256
    runs = {run.path.name: manifest for run, manifest in iterate_runs(folder)}
    for name, manifest in runs.items():
        there = manifest.sample.sha256 if manifest.sample else "none"
        if there != sha256:
            raise RunError(
                f"sweep {folder} was begun with another picture or caption: "
                f"{there[:12]} in {name}, {sha256[:12]} asked",
                hint=hint,
            )
    strangers = sorted(names - {*runs, *(point.name for point in points), SHEET})
    if strangers and RESULTS not in names:
        raise RunError(
            f"{folder} is no sweep: it holds {', '.join(strangers[:3])}, no {RESULTS}", hint=hint
        )


def _usual_prompts(training: TrainingPlan) -> tuple[str, ...]:
    caption = training.pair.caption
    if find_family(training.settings.family).edits:  # the reference has its own subject
        return (caption,)
    return (caption, NEUTRAL_PROMPT)


def _require_few(points: int, prompts: int, seeds: int) -> None:
    """Raise SettingsError for more pictures than one sheet can be made of: all are in memory."""
    total = points * prompts * seeds * len(VARIANTS)
    if total > MOST_PICTURES:
        raise SettingsError(
            f"--prompt and --picture-seed: {points} points paint {prompts} prompts from {seeds} "
            f"noises each, {total:,} pictures in all, and one sweep makes at most "
            f"{MOST_PICTURES:,}",
            hint="give fewer of them, or --no-pictures and then glance compare for each run",
        )


def _check_pictures(training: TrainingPlan, prompts: Iterable[str], seeds: Iterable[int]) -> None:
    """Raise SettingsError for what cannot be painted: hours later would be too late."""
    settings = training.settings
    family = find_family(settings.family)
    problems = [
        Problem("--prompt: it is empty", "say what to paint")
        for prompt in prompts
        if not prompt.strip()
    ]
    for seed in seeds:
        try:
            resolve_sample_settings(
                family,
                resolution=settings.resolution,
                names={"seed": "--picture-seed"},
                prompt="a",
                seed=seed,
            )
        except SettingsError as exc:
            problems += exc.problems
    if problems:
        raise SettingsError(problems)
