"""`glance schedule`: the noise levels of both phases."""

from typing import Annotated

import typer

from glance.cli._options import (
    FamilyOption,
    FastTimestepsOption,
    JsonOption,
    QuietOption,
    SlowTimestepsOption,
    VerboseOption,
)
from glance.console import Console, format_table
from glance.errors import UsageError
from glance.families import find_family
from glance.schedule import PRESETS, Phase, Schedule, resolve_schedule

_BAR = 30


def schedule(
    name: Annotated[str, typer.Option("--schedule", help="Preset: seed or paper.")] = "seed",
    family: FamilyOption = "flux",
    size: Annotated[str, typer.Option(help="Picture size, WxH.")] = "1024x1024",
    slow_timesteps: SlowTimestepsOption = None,
    fast_timesteps: FastTimestepsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show the timesteps and sigmas of both phases.

    They are those of a preset, whose source is named, or your own, which are checked.

    Example: glance schedule --schedule paper
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    row = find_family(family)
    width, height = _parse_size(size)
    chosen = resolve_schedule(name, slow_timesteps=slow_timesteps, fast_timesteps=fast_timesteps)
    console.result(_table(chosen))
    console.note(f"\nsource: {PRESETS[chosen.name].source if chosen.name in PRESETS else 'yours'}")
    if chosen.name in PRESETS and (width, height) != (row.resolution, row.resolution):
        console.note(
            f"note: a list belongs to a picture size; this one is for "
            f"{row.resolution}x{row.resolution}, not {width}x{height}"
        )
    console.document(chosen.to_json())


def _table(chosen: Schedule) -> str:
    rows = []
    for phase in Phase:
        part = chosen.phase(phase)
        for step, (timestep, sigma) in enumerate(
            zip(part.timesteps, part.sigmas, strict=True), start=1
        ):
            bar = "#" * max(1, round(sigma * _BAR))
            rows.append(
                (
                    phase.value,
                    str(step),
                    f"{timestep:.4f}",
                    f"{sigma:.7f}",
                    bar.ljust(_BAR),
                )
            )
    rows.append(("end", "", "0.0000", "0.0000000", "".ljust(_BAR)))
    return format_table(("phase", "step", "timestep", "sigma", "".ljust(_BAR)), rows)


def _parse_size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(f"--size {text}: not a size", hint="write it as 1024x1024")
    return int(width), int(height)
