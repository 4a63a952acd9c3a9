"""`glance export diffusers`: both LoRAs, the schedule and a script that needs no glance."""

from pathlib import Path
from typing import Final

from glance.core.errors import InputError
from glance.core.files import find_place
from glance.core.phase import Phase
from glance.interop.export import Exported, Source, list_files, whole_folder
from glance.interop.script import render_script, usage
from glance.sampling.settings import resolve_sample_settings
from glance.schedule.file import ScheduleFile

DIFFUSERS: Final = "0.42.1"
"""The version of diffusers that exports are proven with."""


def export_diffusers(
    source: Source, folder: Path, *, prompt: str | None = None, force: bool = False
) -> Exported:
    """Write slow.safetensors, fast.safetensors, schedule.json, generate.py and README.md.

    The script gives the image of `glance infer` on the same machine, to the bit. `prompt` is what
    it generates unless told otherwise; None: it asks. Every byte is decided by the run, none by
    where it lies.

    Raises SettingsError for a prompt that is none, InputError when the run's transformer is a
    single file or the folder may not be replaced, SetupError when it cannot be written.
    """
    rendered = render_diffusers(source, prompt=prompt)
    with whole_folder(folder, force=force) as made:
        for phase in Phase:
            source.copy_lora(phase, made / f"{phase}.safetensors")
        for name, content in rendered.items():
            (made / name).write_bytes(content)
    model = hub_model(source)
    notes = (
        ()
        if model is not None
        else ("the base model is a folder and no part of the export: generate.py needs --model",)
    )
    return Exported(folder, tuple(sorted(list_files(folder))), (*source.notes, *notes))


def render_diffusers(source: Source, *, prompt: str | None = None) -> dict[str, bytes]:
    """Return every file but the LoRAs by its name; raises as `export_diffusers` does."""
    transformer = source.manifest.settings.transformer
    if transformer is not None:
        raise InputError(
            f"the run was trained on the single file {Path(transformer).name}: its names and scales"
            " are read by glance, and a script of diffusers alone would give something else",
            hint="use `glance infer`, or train on the same model in diffusers layout",
        )
    model, schedule = hub_model(source), source.schedule
    settings = resolve_sample_settings(
        source.family,
        resolution=source.manifest.settings.resolution,
        trained=source.manifest.sampling,
        prompt="none yet" if prompt is None else prompt,
    )
    script = render_script(source.family, settings, model=model, prompt=prompt)
    file = ScheduleFile.model_validate({"name": schedule.name, **schedule.to_json()})
    return {
        "schedule.json": file.render().encode(),
        "generate.py": script.encode(),
        "README.md": _render_readme(source, model=model, prompt=prompt).encode(),
    }


def hub_model(source: Source) -> str | None:
    """Return the Hub id of the run's base model; None when it is a folder, wherever that is now."""
    model = source.manifest.settings.model
    # a folder in the run moves with it; one outside begins with ".."
    is_folder = find_place(model, source.run.path).is_dir() or model.startswith(".")
    return None if is_folder or "/" not in model else model


def _render_readme(source: Source, *, model: str | None, prompt: str | None) -> str:
    family, schedule = source.family, source.schedule
    slow, fast = (len(schedule.phase(phase).timesteps) for phase in Phase)
    base = "a folder of whoever trained them: say with `--model` where it is"
    if model is not None:
        base = f"[{model}](https://huggingface.co/{model})"
    plain = " of a plain RGB reference" if family.edits else ""
    return f"""\
# {source.name}: {family.title} in {slow + fast} steps

Two LoRAs, trained together {source.trained_on}.
The slow one takes the first {slow} steps, the fast one the other {fast} from its latents.

    pip install diffusers=={DIFFUSERS} torch transformers peft accelerate
    {usage(family, model=model, prompt=prompt)}

- Base model: {base}
- `slow.safetensors`, `fast.safetensors`: the LoRAs, for strength 1
- `schedule.json`: the noise levels both were trained on; `glance infer --schedule` takes it
- `generate.py`: all of the sampling, for diffusers alone; `--help` lists what it takes

With the versions that glance installs it gives the image of `glance infer`{plain}, to the bit.
It was proven with diffusers {DIFFUSERS}. It hands over sigmas: diffusers 0.40 and 0.41 ignore
`timesteps=` without a word, and every version would shift the sigmas but for the scheduler in the
script.
"""
