"""`glance export`: a finished run as files that ComfyUI, diffusers and the Hub take as they are."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from glance.cli._command import EventsOption, takes
from glance.cli.console import Console
from glance.sampling.request import InferRequest

if TYPE_CHECKING:
    from glance.interop.export import Exported

export = typer.Typer(
    help="A finished pair for ComfyUI, diffusers or the Hub.", no_args_is_help=True
)

RunArgument = Annotated[
    Path | None, typer.Argument(help="Run folder. Default: the newest finished one in runs/.")
]
OutputOption = Annotated[
    Path | None, typer.Option(help="Folder to make. Default: here, named after the pair.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an earlier export.")]


_GENERATED = (
    "extra_loras",
    *("negative_prompt", "size", "width", "height"),
    *("guidance", "slow_guidance", "fast_guidance", "true_cfg"),
)


@export.command()
@takes(InferRequest, *_GENERATED)
def comfyui(
    console: Console,
    request: InferRequest,
    *,
    run: RunArgument = None,
    prompt: Annotated[
        str | None, typer.Option(help="What the workflow generates. Default: the sample's caption.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise. Default: 0.")] = None,
    model_file: Annotated[
        str | None, typer.Option(help="The base model's file, as ComfyUI's folders have it.")
    ] = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Write both LoRAs by ComfyUI's names, and a workflow that runs them as they were trained.

    workflow.json opens on ComfyUI's page, workflow-api.json is for its API; README.md says which
    file goes where.

    Example: glance export comfyui runs/glance --prompt "a harbour at dawn"
    """
    from glance.interop.comfyui import export_comfyui, plan_comfyui
    from glance.interop.export import open_source

    planned = plan_comfyui(
        open_source(run),
        prompt=prompt,
        model_file=model_file,
        extra_loras=request.extra_loras,
        negative_prompt=request.negative_prompt,
        seed=seed,
        slow_guidance=request.slow_guidance,
        fast_guidance=request.fast_guidance,
        true_cfg=request.true_cfg,
        width=request.width,
        height=request.height,
    )
    folder = output or Path(f"{planned.source.name}-comfyui")
    _show(console, export_comfyui(planned, folder, force=force))
    console.note(
        f"next: copy {quote(str(folder))}/*.safetensors to ComfyUI's models/loras, and drop "
        f"{quote(str(folder))}/workflow.json on its page"
    )


@export.command()
@takes(InferRequest, "extra_loras")
def diffusers(
    console: Console,
    request: InferRequest,
    *,
    run: RunArgument = None,
    prompt: Annotated[
        str | None, typer.Option(help="What the script generates unless told otherwise.")
    ] = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Write both LoRAs, the schedule and a script that needs only diffusers.

    It generates the image of `glance infer`, to the bit.

    Example: glance export diffusers runs/glance --prompt "a harbour at dawn"
    """
    from glance.interop.diffusers import export_diffusers
    from glance.interop.export import open_source

    source = open_source(run)
    folder = output or Path(f"{source.name}-diffusers")
    exported = export_diffusers(
        source, folder, prompt=prompt, extra_loras=request.extra_loras, force=force
    )
    _show(console, exported)


@export.command()
@takes()
def hub(
    console: Console,
    *,
    repo: Annotated[str, typer.Option(help="name, or owner/name.")],
    run: RunArgument = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make the repository public. Default: private.")
    ] = False,
    license: Annotated[
        str | None,
        typer.Option(
            help="License of the LoRAs. Default: the base model's, where it requires one."
        ),
    ] = None,
    sample_license: Annotated[
        str | None,
        typer.Option(help="License of your image and caption; without it they are not uploaded."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the repository to this folder, send nothing.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export in that repository.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the card and every file, send nothing.")
    ] = False,
    events: EventsOption = None,
) -> None:
    """Send both LoRAs to the Hugging Face Hub, with a model card, images, a script and a workflow.

    To a private repository. The token is HF_TOKEN's or that of `hf auth login`.

    Examples:

    glance export hub runs/glance --repo my-pair --dry-run

    glance export hub runs/glance --repo me/my-pair --public --sample-license cc-by-4.0
    """
    from glance.interop.export import open_source
    from glance.interop.hub import HubRequest, plan_hub, send_hub, write_hub

    plan = plan_hub(
        HubRequest(
            source=open_source(run),
            repo=repo,
            license=license,
            sample_license=sample_license,
            public=public,
            force=force,
        )
    )
    if output is not None and not dry_run:
        _show(console, write_hub(plan, output))
        return
    for note in plan.notes:
        console.note(note)
    if dry_run:
        document = plan.to_json()
        console.result(f"{repo} ({'public' if public else 'private'})")
        for file in document["files"]:
            console.result(f"{file['bytes']:>12,}  {file['sha256'][:12]}  {file['path']}")
        console.result(f"\n{plan.card}")
        console.document(document)
        return
    with console.progress(events) as on_event:
        sent = send_hub(plan, on_event)
    console.result(sent["url"])
    console.document(sent)


def _show(console: Console, exported: "Exported") -> None:
    for note in exported.notes:
        console.note(note)
    console.result(str(exported.folder))
    console.document(exported.to_json())
