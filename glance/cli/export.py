"""`glance export`: a finished run as files that ComfyUI, diffusers and the Hub take as they are."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from glance.cli._options import (
    EventsOption,
    FastGuidanceOption,
    JsonOption,
    NegativePromptOption,
    QuietOption,
    SideOption,
    SlowGuidanceOption,
    TrueCfgOption,
    VerboseOption,
)
from glance.cli.console import Console
from glance.core.errors import UsageError

if TYPE_CHECKING:
    from glance.interop.folder import Exported

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


@export.command()
def comfyui(
    run: RunArgument = None,
    prompt: Annotated[
        str | None, typer.Option(help="What the workflow paints. Default: the sample's caption.")
    ] = None,
    negative_prompt: NegativePromptOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise. Default: 0.")] = None,
    slow_guidance: SlowGuidanceOption = None,
    fast_guidance: FastGuidanceOption = None,
    true_cfg: TrueCfgOption = None,
    width: SideOption = None,
    height: SideOption = None,
    model_file: Annotated[
        str | None, typer.Option(help="The base model's file, as ComfyUI's folders have it.")
    ] = None,
    output: OutputOption = None,
    force: ForceOption = False,
    submit: Annotated[
        str | None,
        typer.Option(help="Queue it in the ComfyUI at this address instead of writing files."),
    ] = None,
    upload_reference: Annotated[
        bool,
        typer.Option("--upload-reference", help="Families that edit: send the picture, too."),
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write both LoRAs by ComfyUI's names, and a workflow that runs them as they were trained.

    workflow.json opens on ComfyUI's page, workflow-api.json is for its API; README.md says which
    file goes where.

    Examples:

    glance export comfyui runs/glance --prompt "a harbour at dawn"

    glance export comfyui runs/glance --submit http://127.0.0.1:8188
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    _refuse_idle(submit, upload_reference=upload_reference, writes=force or output is not None)
    from glance.interop.comfyui.submit import submit_planned
    from glance.interop.comfyui.write import export_comfyui, plan_comfyui
    from glance.interop.source import open_source

    planned = plan_comfyui(
        open_source(run),
        prompt=prompt,
        model_file=model_file,
        negative_prompt=negative_prompt,
        seed=seed,
        slow_guidance=slow_guidance,
        fast_guidance=fast_guidance,
        true_cfg=true_cfg,
        width=width,
        height=height,
    )
    if submit is None:
        folder = output or Path(f"{planned.source.name}-comfyui")
        _show(console, export_comfyui(planned, folder, force=force))
        console.note(
            f"next: copy {quote(str(folder))}/*.safetensors to ComfyUI's models/loras, and drop "
            f"{quote(str(folder))}/workflow.json on its page"
        )
    else:
        queued = submit_planned(submit, planned, upload_reference=upload_reference)
        for note in planned.notes:
            console.note(note)
        console.result(queued.id)
        console.document(queued.to_json())


@export.command()
def diffusers(
    run: RunArgument = None,
    prompt: Annotated[
        str | None, typer.Option(help="What the script paints unless told otherwise.")
    ] = None,
    output: OutputOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write both LoRAs, the schedule and a script that needs only diffusers.

    It paints the picture of `glance infer`, to the bit.

    Example: glance export diffusers runs/glance --prompt "a harbour at dawn"
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.interop.diffusers.write import export_diffusers
    from glance.interop.source import open_source

    source = open_source(run)
    folder = output or Path(f"{source.name}-diffusers")
    _show(console, export_diffusers(source, folder, prompt=prompt, force=force))


@export.command()
def hub(
    repo: Annotated[str, typer.Option(help="name, or owner/name.")],
    run: RunArgument = None,
    public: Annotated[bool, typer.Option("--public", help="For everybody. Else: private.")] = False,
    licence: Annotated[
        str | None, typer.Option(help="Of the LoRAs. Default: what the base model's demands.")
    ] = None,
    licence_name: Annotated[str | None, typer.Option(help="With --licence other.")] = None,
    licence_link: Annotated[str | None, typer.Option(help="With --licence other.")] = None,
    sample_licence: Annotated[
        str | None,
        typer.Option(help="Of your picture and caption; without it they are not sent."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export in that repository.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the card and every file, send nothing.")
    ] = False,
    events: EventsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Send both LoRAs to the Hugging Face Hub, with a model card, pictures, scripts and workflows.

    In one commit, to a private repository. The token is HF_TOKEN's or that of `hf auth login`.

    Examples:

    glance export hub runs/glance --repo my-pair --dry-run

    glance export hub runs/glance --repo me/my-pair --public --sample-licence cc-by-4.0
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.interop.hub.extra import find_extra
    from glance.interop.hub.plan import HubRequest, plan_hub
    from glance.interop.hub.send import send_hub
    from glance.interop.source import open_source

    source = open_source(run)
    extra = find_extra(source)
    plan = plan_hub(
        HubRequest(
            source=source,
            repo=repo,
            extra=extra.files,
            licence=licence,
            licence_name=licence_name,
            licence_link=licence_link,
            sample_licence=sample_licence,
            public=public,
            force=force,
        )
    )
    for note in (*plan.notes, *extra.notes):
        console.note(note)
    if dry_run:
        console.result(plan.describe())
        console.document(plan.to_json())
        return
    with console.progress(events) as on_event:
        result = send_hub(plan, on_event)
    console.result(result.url)
    console.document(result.to_json())


def _refuse_idle(submit: str | None, *, upload_reference: bool, writes: bool) -> None:
    """Raise UsageError for flags that would do nothing."""
    if submit is None and upload_reference:
        raise UsageError(
            "--upload-reference goes with --submit", hint="add --submit URL, or drop it"
        )
    if submit is not None and writes:
        raise UsageError(
            "--submit writes no files, so --output and --force do nothing",
            hint="run it twice: once with them, once with --submit",
        )


def _show(console: Console, exported: "Exported") -> None:
    for note in exported.notes:
        console.note(note)
    console.result(str(exported.folder))
    console.document(exported.to_json())
