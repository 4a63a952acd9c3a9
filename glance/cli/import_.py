"""`glance import`: a run from two LoRAs of another trainer."""

from shlex import quote

from glance.cli._command import DryRunOption, takes
from glance.cli.console import Console
from glance.interop.request import ImportRequest


@takes(ImportRequest)
def import_(console: Console, request: ImportRequest, *, dry_run: DryRunOption = False) -> None:
    """Make a finished run of two LoRAs that others trained.

    Its folder is printed. The files themselves are only read.

    Example: glance import --slow-lora slow.safetensors --fast-lora fast.safetensors --alpha 128
    """
    from glance.interop.importing import plan_import, run_import

    plan = plan_import(request)
    if not dry_run:
        run_import(plan)
    for warning in plan.warnings:
        console.warn(warning)
    for phase, lora in plan.loras.items():
        console.note(f"{phase}: {lora.folded}")
    path = quote(str(plan.run.path))
    console.note(f"{'would make' if dry_run else 'made'} {path}, a finished run")
    if not dry_run:
        console.note(f'next: glance infer --run {path} --prompt "..."')
    console.result(str(plan.run.path))
    console.document(plan.to_json())
