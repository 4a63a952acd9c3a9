"""Which pictures are asked for: prompts, lines of a file, seeds and counts, laid out in a row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.errors import Problem, SettingsError, UsageError
from glance.dataset.examine import measure_picture
from glance.models.families import Family
from glance.sampling.prompts.files import PromptLine, read_prompts
from glance.sampling.recorded import Recorded
from glance.sampling.request import MOST_PICTURES, InferRequest
from glance.sampling.settings import SampleSettings, resolve_sample_settings

_SHOWN: Final = 3  # of many prompts with the same problem
_ASKED = (
    *("negative_prompt", "slow_guidance", "fast_guidance", "true_cfg", "slow_scale"),
    *("fast_scale", "width", "height", "reference", "loras"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One picture that is asked for; `name` is that of its file, if somebody chose one."""

    settings: SampleSettings
    name: str | None


def lay_out(
    request: InferRequest,
    family: Family,
    *,
    resolution: int | None,
    recorded: Recorded | None,
    trained: Mapping[str, Any] | None = None,
) -> tuple[Asked, ...]:
    """Return every picture, prompt by prompt, a prompt's seeds one after the other.

    What the request leaves open is as `recorded`, if that is given; else as the pair was `trained`,
    else the family's. Raises UsageError, InputError
    for a prompt file that cannot be read, SettingsError with every picture's problems.
    """
    if request.init_latents is not None and (request.seeds or request.count):
        raise UsageError(
            "--seed and --count say which noise to begin with: saved latents are past that",
            hint="leave them out; other prompts are possible",
        )
    before = None if recorded is None else _settings_of(recorded)
    lines = list(_lines(request, before))
    _require_few(request, [line for _, line in lines])
    asked: list[Asked] = []
    refused: dict[Problem, list[str]] = {}
    for where, line in lines:
        values = _values(request, line, before)
        keys = {key: key for key in line.model_fields_set - {"prompt"}}  # of a file: no flags
        try:
            aspect = _measure_reference(values.get("reference"), family)
            for seed in _seeds(request, line, before):
                settings = resolve_sample_settings(
                    family,
                    resolution=resolution,
                    aspect=aspect,
                    trained=trained,
                    names=keys,
                    **{**values, "seed": seed},
                )
                asked.append(Asked(settings, line.output))
        except SettingsError as exc:
            for problem in exc.problems:
                refused.setdefault(problem, []).append(where)
    if refused:
        raise SettingsError(_located(refused, lines=len(lines)))
    return tuple(asked)


def _located(refused: Mapping[Problem, Sequence[str]], *, lines: int) -> Iterator[Problem]:
    """Yield each problem with the prompts that have it; one that all have, once."""
    for problem, places in refused.items():
        if len(places) == lines:
            yield problem
            continue
        for place in places[:_SHOWN]:
            yield Problem(f"{place}{problem.message}", problem.hint)
        if len(places) > _SHOWN:
            yield Problem(f"{len(places) - _SHOWN:,} prompts more have it: {problem.message}")


def _settings_of(recorded: Recorded) -> SampleSettings:
    """Return the recorded settings, the reference as it is seen from here."""
    settings = recorded.record.settings
    if settings.reference is None:
        return settings
    place = Path(recorded.place(str(settings.reference)))
    return settings.model_copy(update={"reference": place})


def _lines(
    request: InferRequest, recorded: SampleSettings | None
) -> Iterator[tuple[str, PromptLine]]:
    """Yield what asks for pictures, and how a problem with it begins."""
    if request.prompt_file is not None:
        for number, line in enumerate(read_prompts(request.prompt_file), 1):
            yield f"{request.prompt_file}, prompt {number}: ", line
    prompts = request.prompts
    if not prompts and request.prompt_file is None:
        if recorded is None:
            raise UsageError(
                "there is nothing to paint", hint='say it: --prompt "..." or --prompt-file FILE'
            )
        prompts = (recorded.prompt,)
    for number, prompt in enumerate(prompts, 1):
        where = f"prompt {number}: " if len(prompts) > 1 else ""
        yield where, PromptLine.model_construct(prompt=prompt)  # checked with the rest


def _values(
    request: InferRequest, line: PromptLine, recorded: SampleSettings | None
) -> dict[str, Any]:
    """Return a picture's settings but for the seed: the line's, else the request's, else these."""
    values = {} if recorded is None else recorded.model_dump(include=set(_ASKED))
    own = line.model_dump(exclude_none=True, exclude={"seed", "count", "output"})
    if line.reference is not None and request.prompt_file is not None:
        own["reference"] = request.prompt_file.parent / line.reference
    given = {name: getattr(request, name) for name in _ASKED}
    return {**values, **{k: v for k, v in given.items() if v is not None}, **own}


def _seeds(
    request: InferRequest, line: PromptLine, recorded: SampleSettings | None
) -> tuple[int, ...]:
    usual = 0 if recorded is None else recorded.seed
    first = _first_seeds(request, line) or (usual,)
    return tuple(seed + more for seed in first for more in range(_count(request, line)))


def _first_seeds(request: InferRequest, line: PromptLine) -> tuple[int, ...]:
    own = (line.seed,) if isinstance(line.seed, int) else line.seed
    return own or request.seeds


def _count(request: InferRequest, line: PromptLine) -> int:
    return line.count or request.count or 1


def _require_few(request: InferRequest, lines: Sequence[PromptLine]) -> None:
    """Raise SettingsError for more pictures than a plan can hold, before any is laid out."""
    total = sum(max(1, len(_first_seeds(request, line))) * _count(request, line) for line in lines)
    if total <= MOST_PICTURES:
        return
    fitting = MOST_PICTURES * (request.count or 0) // total
    what = "the prompts" if request.count is None else f"--count {request.count}"
    raise SettingsError(
        f"{what}: {total:,} pictures in all, and one command makes at most {MOST_PICTURES:,}",
        hint=f"--count {fitting}, and another command for the seeds after those"
        if fitting
        else "give fewer prompts and seeds at a time",
    )


def _measure_reference(reference: Path | None, family: Family) -> tuple[int, int] | None:
    """Return the width and height of the picture to edit; None where nothing is edited."""
    if family.edits and reference is None:
        raise SettingsError(
            f"{family.title} edits a picture, and there is no --reference",
            hint="say which one with --reference x.png",
        )
    if reference is None:
        return None
    if not family.edits:
        raise SettingsError(
            f"--reference {reference}: {family.title} paints from text alone",
            hint="drop --reference",
        )
    return measure_picture(reference)
