"""`glance infer`, also `glance generate`: images in ten steps, slow LoRA first, then fast."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from glance.cli._command import DryRunOption, EventsOption, OpenOption, takes
from glance.cli.console import Console
from glance.core.options import Group
from glance.core.tables import continued
from glance.sampling.request import InferRequest, choose_loras


def _only(flag: str, help: str) -> Any:
    return typer.Option(flag, help=help, rich_help_panel=Group.LORAS)


@takes(InferRequest)
def infer(
    console: Console,
    request: InferRequest,
    *,
    slow_only: Annotated[
        bool, _only("--slow-only", "Use the slow LoRA, then the base model alone.")
    ] = False,
    fast_only: Annotated[
        bool, _only("--fast-only", "Use the base model alone, then the fast LoRA.")
    ] = False,
    no_lora: Annotated[
        bool,
        _only("--no-lora", "Use the base model (and --lora) alone, along the same timesteps."),
    ] = False,
    with_base: Annotated[
        bool,
        _only(
            "--with-base",
            "Also generate each image with the base model alone, along the same timesteps, as "
            "NAME-base beside it.",
        ),
    ] = False,
    dry_run: DryRunOption = False,
    events: EventsOption = None,
    opens: OpenOption = False,
) -> None:
    """Generate images with both LoRAs, in ten steps each.

    The slow LoRA runs first and hands its latents to the fast one, along exactly the sigmas that
    they were trained on. The model is loaded once for all images, each is written as soon as it
    is done, and the same command continues where it was interrupted.

    Examples:

    glance infer --prompt "a lighthouse at dusk"

    glance infer --run runs/glance -p "a harbour" --seed 7 --size 1024x768 -o harbour.png

    glance infer --prompt-file prompts.jsonl --count 4 --output images/
    """
    from glance.sampling.plan import plan_base, plan_generation, sampling_rows

    loras = choose_loras(slow_only=slow_only, fast_only=fast_only, no_lora=no_lora)
    request = replace(request, loras=loras)
    plan = plan_generation(request)
    alone = plan_base(plan, request) if with_base else None
    if dry_run:
        for note in plan.notes:
            console.note(note)
        also = [] if alone is None else [str(one.output) for one in alone.images]
        rows = [*sampling_rows(plan), *continued("with the base", also)]
        console.plan(iter(rows), {**plan.to_json(), **({"base_images": also} if also else {})})
        return
    from glance.sampling.generate import KeptModel, run_generation

    model = KeptModel([plan] if alone is None else [plan, alone])
    with console.progress(events) as on_event:
        result = run_generation(plan, on_event, kept=model)
        twins = () if alone is None else run_generation(alone, on_event, kept=model).images
    beside = {"base_images": [str(path) for path in twins]} if twins else {}
    console.document({**result.to_json(), **beside})
    console.show([*result.images, *twins], opens=opens)
