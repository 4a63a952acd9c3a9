"""`glance infer`: pictures in ten steps, slow LoRA first, then the fast one."""

from pathlib import Path
from typing import Annotated

import typer

from glance.cli._options import (
    BaseOption,
    DeviceChoice,
    DeviceOption,
    EventsOption,
    FastGuidanceOption,
    FastStepsOption,
    FastTimestepsOption,
    JsonOption,
    MemoryOption,
    NegativePromptOption,
    QuietOption,
    ReferenceOption,
    SideOption,
    SlowGuidanceOption,
    SlowStepsOption,
    SlowTimestepsOption,
    TeacherStepsOption,
    TrueCfgOption,
    VerboseOption,
    find_model,
)
from glance.cli._plans import sampling_rows, show_plan
from glance.cli.console import Console
from glance.core.device import Memory, Precision, Quantize


def infer(
    prompt: Annotated[
        list[str] | None, typer.Option(help="What to paint; repeatable.", show_default=False)
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(help="A prompt a line; or .jsonl, .json: objects with prompt, seed, ..."),
    ] = None,
    negative_prompt: NegativePromptOption = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed of the noise; repeatable. Default: 0.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Pictures a prompt: the seed, the next one, ...")
    ] = None,
    reference: ReferenceOption = None,
    from_image: Annotated[
        Path | None,
        typer.Option(help="Paint this picture of glance's again; other flags change it."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Run folder. Default: the newest finished one in runs/."),
    ] = None,
    slow_lora: Annotated[
        str | None,
        typer.Option(help="Instead of a run: file, folder, or owner/repo:file of the Hub."),
    ] = None,
    fast_lora: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Base model. Default: the run's.", parser=find_model, metavar="<str>"),
    ] = None,
    base: BaseOption = None,
    family: Annotated[str | None, typer.Option(help="Model family. Default: the run's.")] = None,
    slow_guidance: SlowGuidanceOption = None,
    fast_guidance: FastGuidanceOption = None,
    true_cfg: TrueCfgOption = None,
    slow_scale: Annotated[
        float | None, typer.Option(help="Strength of the slow LoRA. Default: 1.")
    ] = None,
    fast_scale: Annotated[
        float | None, typer.Option(help="Strength of the fast LoRA. Default: 1.")
    ] = None,
    slow_only: Annotated[
        bool, typer.Option("--slow-only", help="The slow LoRA, then the base model alone.")
    ] = False,
    fast_only: Annotated[
        bool, typer.Option("--fast-only", help="The base model alone, then the fast LoRA.")
    ] = False,
    no_lora: Annotated[
        bool, typer.Option("--no-lora", help="The base model alone, along the same timesteps.")
    ] = False,
    width: SideOption = None,
    height: SideOption = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="As in train. Default: what the pair was trained on."),
    ] = None,
    slow_timesteps: SlowTimestepsOption = None,
    fast_timesteps: FastTimestepsOption = None,
    slow_steps: SlowStepsOption = None,
    fast_steps: FastStepsOption = None,
    teacher_steps: TeacherStepsOption = None,
    reshift: Annotated[
        bool,
        typer.Option("--reshift", help="Move the timesteps as the model's shift does with size."),
    ] = False,
    init_latents: Annotated[
        Path | None, typer.Option(help="The fast phase alone, from saved latents.")
    ] = None,
    save_latents: Annotated[
        bool,
        typer.Option("--save-latents", help="What is handed over, beside the picture."),
    ] = False,
    save_phases: Annotated[
        bool,
        typer.Option("--save-phases", help="Also the picture as the slow phase leaves it."),
    ] = False,
    device: DeviceOption = DeviceChoice.AUTO,
    dtype: Annotated[
        Precision | None, typer.Option(help="Default: fp32 on the CPU, bf16 elsewhere.")
    ] = None,
    memory: MemoryOption = Memory.AUTO,
    quantize: Annotated[
        Quantize | None, typer.Option(help="The base model's weights, smaller.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile: a slow first picture, then faster.")
    ] = False,
    batch_size: Annotated[
        int,
        typer.Option(min=1, max=64, help="Pictures at once; fewer where memory is short."),
    ] = 1,
    output: Annotated[
        Path | None,
        typer.Option(help="Picture file, or folder. Default: the run's images/."),
    ] = None,
    no_metadata: Annotated[
        bool, typer.Option("--no-metadata", help="Pictures say nothing of their making.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be painted and where, load nothing.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Paint anew what an interrupted start has painted.")
    ] = False,
    events: EventsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Paint with both LoRAs, in ten steps a picture.

    The slow LoRA runs first and hands its latents to the fast one, along exactly the sigmas that
    they were trained on. The model is loaded once for all pictures, each is written as soon as it
    is done, and the same command continues where it was interrupted.

    Examples:

    glance infer --prompt "a lighthouse at dusk"

    glance infer --run runs/glance --prompt "a harbour" --seed 7 --output harbour.png

    glance infer --prompt-file prompts.jsonl --count 4 --output pictures/
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.sampling.plan import plan_generation
    from glance.sampling.request import InferRequest, choose_loras
    from glance.schedule.options import ScheduleOptions

    plan = plan_generation(
        InferRequest(
            prompts=tuple(prompt or ()),
            prompt_file=prompt_file,
            from_image=from_image,
            init_latents=init_latents,
            seeds=tuple(seed or ()),
            count=count,
            negative_prompt=negative_prompt,
            slow_guidance=slow_guidance,
            fast_guidance=fast_guidance,
            true_cfg=true_cfg,
            slow_scale=slow_scale,
            fast_scale=fast_scale,
            loras=choose_loras(slow_only=slow_only, fast_only=fast_only, no_lora=no_lora),
            width=width,
            height=height,
            reference=reference,
            run=run,
            slow_lora=slow_lora,
            fast_lora=fast_lora,
            model=model,
            base=base,
            family=family,
            schedule=ScheduleOptions(
                name=schedule,
                slow_timesteps=slow_timesteps,
                fast_timesteps=fast_timesteps,
                slow_steps=slow_steps,
                fast_steps=fast_steps,
                teacher_steps=teacher_steps,
            ),
            reshift=reshift,
            device=device.value,
            dtype=dtype,
            memory=memory,
            quantize=quantize,
            compiled=compiled,
            batch_size=batch_size,
            output=output,
            save_latents=save_latents,
            save_phases=save_phases,
            metadata=not no_metadata,
            restart=restart,
        )
    )
    if dry_run:
        for note in plan.notes:
            console.note(note)
        show_plan(console, sampling_rows(plan), plan.to_json())
        return
    from glance.sampling.generate import run_generation

    with console.progress(events) as on_event:
        result = run_generation(plan, on_event)
    console.document(result.to_json())
