"""`glance infer`: one picture in ten steps, slow LoRA first, then the fast one."""

from pathlib import Path
from typing import Annotated

import typer

from glance.cli._options import (
    BaseOption,
    DeviceChoice,
    DeviceOption,
    EventsOption,
    FastTimestepsOption,
    JsonOption,
    QuietOption,
    ReferenceOption,
    SlowTimestepsOption,
    VerboseOption,
)
from glance.console import Console
from glance.device import Precision


def infer(
    prompt: Annotated[str, typer.Option(help="What to paint.")],
    reference: ReferenceOption = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Run folder. Default: the newest finished one in runs/."),
    ] = None,
    slow_lora: Annotated[
        Path | None, typer.Option(help="Instead of a run: file or folder.")
    ] = None,
    fast_lora: Annotated[
        Path | None, typer.Option(help="Instead of a run: file or folder.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Base model. Default: the run's.")] = None,
    base: BaseOption = None,
    family: Annotated[str | None, typer.Option(help="Model family. Default: the run's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    slow_guidance: Annotated[
        float | None, typer.Option(help="Default: the family's; 3.5 for FLUX.")
    ] = None,
    fast_guidance: Annotated[
        float | None, typer.Option(help="Default: the family's; 1.0 for FLUX.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Default: the run's resolution.")] = None,
    height: Annotated[int | None, typer.Option(help="Default: the run's resolution.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Preset. Default: what the pair was trained on.")
    ] = None,
    slow_timesteps: SlowTimestepsOption = None,
    fast_timesteps: FastTimestepsOption = None,
    device: DeviceOption = DeviceChoice.AUTO,
    dtype: Annotated[
        Precision | None, typer.Option(help="Default: fp32 on the CPU, bf16 elsewhere.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Picture file, or folder. Default: the run's images/."),
    ] = None,
    events: EventsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Sample a picture with both LoRAs, in ten steps.

    The slow LoRA runs first and hands its latents to the fast one, along exactly the sigmas that
    they were trained on.

    Examples:

    glance infer --prompt "a lighthouse at dusk"

    glance infer --run runs/glance --prompt "a harbour" --seed 7 --output harbour.png
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.generation.execute import run_generation
    from glance.generation.plan import plan_generation
    from glance.generation.request import InferRequest

    plan = plan_generation(
        InferRequest(
            prompt=prompt,
            reference=reference,
            run=run,
            slow_lora=slow_lora,
            fast_lora=fast_lora,
            model=model,
            base=base,
            family=family,
            seed=seed,
            slow_guidance=slow_guidance,
            fast_guidance=fast_guidance,
            width=width,
            height=height,
            schedule=schedule,
            slow_timesteps=slow_timesteps,
            fast_timesteps=fast_timesteps,
            device=device.value,
            dtype=dtype,
            output=output,
        )
    )
    with console.progress(events) as on_event:
        result = run_generation(plan, on_event)
    console.result(str(result.image))
    console.document(result.to_json())
