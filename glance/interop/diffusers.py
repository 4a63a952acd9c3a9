"""`glance export diffusers`: both LoRAs, the schedule and a script that needs no glance.

The script is text made of the family's row. It does what `glance.sampling.pipeline` does, written
out for one family, and is held to the same image.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any, Final

from glance.core.errors import InputError
from glance.core.files import find_place, is_folder
from glance.core.phase import Phase
from glance.interop.export import Exported, Source, list_files, whole_folder
from glance.interop.foreign import layer_names
from glance.models.base import is_hub_id
from glance.models.families import Family, Latents, Negative
from glance.models.lora.file import ADAPTER_METADATA, read_header
from glance.models.lora.keys import sort_keys
from glance.sampling.extra_loras import extra_notes, file_names, find_extras
from glance.sampling.request import ExtraLora
from glance.sampling.settings import SampleSettings, resolve_sample_settings

DIFFUSERS: Final = "0.42.1"
"""The version of diffusers that exports are proven with."""


def export_diffusers(
    source: Source,
    folder: Path,
    *,
    prompt: str | None = None,
    extra_loras: Sequence[str | ExtraLora] = (),
    force: bool = False,
) -> Exported:
    """Write slow.safetensors, fast.safetensors, schedule.json, generate.py and README.md.

    The script gives the image of `glance infer` on the same machine, to the bit. `prompt` is what
    it generates unless told otherwise; None: it asks. `extra_loras`, at work in both phases, are
    written too, by the model's own names. Every byte is decided by the run and those, none by where
    it lies.

    Raises what find_extras raises, LoraError for layers that the model lacks, SettingsError for a
    prompt that is none, InputError when the run's transformer is a single file or the folder may
    not be replaced, SetupError when it cannot be written.
    """
    found = find_extras(extra_loras)
    names = file_names(found, taken=_OWN_FILES, spell=_adapter_name)
    extras = {Path(n).stem: one.asked.strength for n, one in zip(names, found, strict=True)}
    rendered = render_diffusers(source, prompt=prompt, extras=extras)
    with whole_folder(folder, force=force) as made:
        for phase in Phase:
            source.copy_lora(phase, made / f"{phase}.safetensors")
        for name, one in zip(names, found, strict=True):
            _write_extra(source, one.facts.path, made / name)
        for name, content in rendered.items():
            (made / name).write_bytes(content)
    notes = [*source.notes, *extra_notes(found, source.family)]
    if _hub_model(source) is None:
        notes.append(
            "the base model is a folder and no part of the export: generate.py needs --model"
        )
    return Exported(folder, tuple(sorted(list_files(folder))), tuple(notes))


def _adapter_name(stem: str) -> str:
    """Return a name that PEFT takes: a dot would be a path to it."""
    return re.sub(r"[^\w-]+", "-", stem)


def _write_extra(source: Source, path: Path, target: Path) -> None:
    """Write the LoRA as `glance infer` loads it."""
    from glance.sampling.pipeline import hush

    hush()
    from safetensors.torch import save_file

    from glance.sampling.pipeline.adapters import rename_adapter
    from glance.sampling.pipeline.load import find_class

    layers = layer_names(source.base.location)
    if layers is None:  # nobody can say: then names with dots are taken as they are
        layers = frozenset(one.layer for one in sort_keys(read_header(path).entries).pairs)
    made = rename_adapter(find_class(source.family), path, layers)
    metadata = {"format": "pt", ADAPTER_METADATA: json.dumps(made.metadata, sort_keys=True)}
    save_file(dict(made.state), target, metadata)


def render_diffusers(
    source: Source,
    *,
    prompt: str | None = None,
    extras: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, bytes]:
    """Return every file but the LoRAs by its name; raises as `export_diffusers` does.

    `extras`: the strengths of further LoRAs by the stems of their files.
    """
    transformer = source.manifest.settings.transformer
    if transformer is not None:
        raise InputError(
            f"the run was trained on the single file {Path(transformer).name}: its names and scales"
            " are read by glance, and a script of diffusers alone would give something else",
            hint="use `glance infer`, or train on the same model in diffusers layout",
        )
    model, schedule = _hub_model(source), source.schedule
    settings = resolve_sample_settings(
        source.family,
        resolution=source.manifest.settings.resolution,
        trained=source.manifest.sampling,
        prompt="none yet" if prompt is None else prompt,
    )
    script = render_script(source.family, settings, model=model, prompt=prompt, extras=extras)
    file = json.dumps({"name": schedule.name, **schedule.to_json()}, indent=2, ensure_ascii=False)
    return {
        "schedule.json": f"{file}\n".encode(),
        "generate.py": script.encode(),
        "README.md": _render_readme(source, extras, model=model, prompt=prompt).encode(),
    }


def _hub_model(source: Source) -> str | None:
    """Return the Hub id of the run's base model; None when it is a folder, wherever that is now."""
    model = source.manifest.settings.model
    is_here = is_folder(find_place(model, source.run.path))
    return None if is_here or not is_hub_id(model) else model


def _render_readme(
    source: Source, extras: Mapping[str, float], *, model: str | None, prompt: str | None
) -> str:
    family, schedule = source.family, source.schedule
    slow, fast = (len(schedule.phase(phase).timesteps) for phase in Phase)
    base = "a folder of whoever trained them: say with `--model` where it is"
    if model is not None:
        base = f"[{model}](https://huggingface.co/{model})"
    plain = " of a plain RGB reference" if family.edits else ""
    further = "".join(
        f"\n- `{name}.safetensors`: a further LoRA, in both phases at strength {strength:g}"
        for name, strength in extras.items()
    )
    return f"""\
# {source.name}: {family.title} in {slow + fast} steps

Two LoRAs, trained together on {source.manifest.trained_on}.
The slow one takes the first {slow} steps, the fast one the other {fast} from its latents.

    pip install diffusers=={DIFFUSERS} torch transformers peft accelerate
    {usage(family, model=model, prompt=prompt)}

- Base model: {base}
- `slow.safetensors`, `fast.safetensors`: the LoRAs, for strength 1{further}
- `schedule.json`: the noise levels both were trained on; `glance infer --schedule` takes it
- `generate.py`: all of the sampling, for diffusers alone; `--help` lists what it takes

With the versions that glance installs it gives the image of `glance infer`{plain}, to the bit.
It was proven with diffusers {DIFFUSERS}. It hands over sigmas: diffusers 0.40 and 0.41 ignore
`timesteps=` without a word, and every version would shift the sigmas but for the scheduler in the
script.
"""


_OWN_FILES: Final = tuple(f"{phase}.safetensors" for phase in Phase)
_WIDTH: Final = 100  # of a line of the script
_SCRIPT: Final = Template('''\
"""Generate an image with two LoRAs: the slow one over the first sigmas, the fast one for the rest.

Usage: $usage
"""

import argparse
import json
${import_sys}from pathlib import Path

import torch
$imports

HERE = Path(__file__).parent
CUDA, MPS = torch.cuda.is_available(), torch.backends.mps.is_available()
$constants


class VerbatimScheduler(FlowMatchEulerDiscreteScheduler):
    """Runs the sigmas it is given; diffusers' own shifts them and ends each list at 0."""

    end_sigma = 0.0

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None):
        self.sigmas = torch.tensor([*sigmas, self.end_sigma], device=device)
        self.timesteps = self.sigmas[:-1] * self.config.num_train_timesteps
        self.num_inference_steps = len(sigmas)
        self._step_index = self._begin_index = None


def parse_arguments():
    parser = argparse.ArgumentParser()
$arguments
    parser.add_argument("--output", default="image.png")
    parser.add_argument("--device", default="cuda" if CUDA else "mps" if MPS else "cpu")
    parser.add_argument("--offload", action="store_true", help="for a GPU of little memory")
    return parser.parse_args()


def load_pipeline(args):
    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
$load
$load_loras
    pipeline.scheduler = VerbatimScheduler.from_config(pipeline.scheduler.config)
    if args.offload:
        pipeline.enable_model_cpu_offload(device=args.device)
    else:
        pipeline.to(args.device)
    return pipeline


@torch.inference_mode()
def generate(pipeline, args):
    schedule = json.loads((HERE / "schedule.json").read_text(encoding="utf-8"))
${prepare}    result = None  # the slow phase's latents, then the image
    for phase, end_sigma in (("slow", schedule["fast"]["sigmas"][0]), ("fast", 0.0)):
        pipeline.set_adapters($adapters)
        pipeline.scheduler.end_sigma = end_sigma
        result = pipeline(
$call
        ).images
${after_phase}    return result[0]


if __name__ == "__main__":
    args = parse_arguments()
    generate(load_pipeline(args), args).save(args.output)
''')

_LOAD_PAIR: Final = """\
    for phase in GUIDANCE:
        pipeline.load_lora_weights(HERE, weight_name=f"{phase}.safetensors", adapter_name=phase)"""
_LOAD_ALL: Final = """\
    for name in (*GUIDANCE, *EXTRAS):
        pipeline.load_lora_weights(HERE, weight_name=f"{name}.safetensors", adapter_name=name)"""
_REFERENCE: Final = Template("""\
    picture = load_image(args.source_image)
    scale = ($side**2 / (picture.width * picture.height)) ** 0.5
    fitting = [max($step, round(side * scale / $step) * $step) for side in picture.size]
    args.width, args.height = args.width or fitting[0], args.height or fitting[1]
    module = sys.modules[$pipeline.__module__]
    module.VAE_IMAGE_SIZE = $side**2  # the area at which the transformer is shown the reference
    ratio = picture.width / picture.height
    width, height = module.calculate_dimensions(module.CONDITION_IMAGE_SIZE, ratio)
    small = pipeline.image_processor.resize(picture, height, width)  # for the text encoder
""")
_FIXED_AREA: Final = """\
    # It scales any size to this area; a little more, so that rounding down loses no row of pixels.
    side = (args.width * args.height) ** 0.5 * (1 + 1e-6)
    pipeline.default_sample_size = side / pipeline.vae_scale_factor
"""
_KEEP: Final = """\
    kept = {}

    def keep(pipeline, step, timestep, tensors):
        kept.update(tensors)
        return tensors

"""
_BOOL_MASKS: Final = """\
    # The floats that it returns would be added to the attention instead of masking it.
    text |= {name: mask.bool() for name, mask in text.items() if name.endswith("attention_mask")}
"""
_AS_GRID: Final = """\
        if phase == "slow":  # it gives tokens, (1, height/16 * width/16, channels), takes a grid
            result = kept["latents"].permute(0, 2, 1)
            result = result.reshape(1, -1, args.height // 16, args.width // 16)
"""


def render_script(
    family: Family,
    settings: SampleSettings,
    *,
    model: str | None,
    prompt: str | None,
    extras: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """Return the script, in ruff's format.

    `settings` gives guidance and size, `extras` the strengths of further LoRAs. What it generates
    unless told otherwise: `prompt` with `model`, a Hub id; without them the script asks for them.
    """
    return _SCRIPT.substitute(
        usage=usage(family, model=model, prompt=prompt),
        import_sys="import sys\n" if family.edits else "",
        imports="\n".join(_imports(family)),
        constants="\n".join(_constants(family, settings, extras)),
        arguments="\n".join(_arguments(family, settings, model=model, prompt=prompt)),
        load="\n".join(_load(family)),
        load_loras=_LOAD_ALL if extras else _LOAD_PAIR,
        adapters="[phase, *EXTRAS], [1.0, *EXTRAS.values()]" if extras else "phase",
        prepare="".join(_prepare(family, settings)),
        call="\n".join(f"            {argument}," for argument in _call(family)),
        after_phase=_AS_GRID if family.latents is Latents.TOKENS_FROM_GRID else "",
    )


def usage(family: Family, *, model: str | None, prompt: str | None) -> str:
    """Return a command that runs the script."""
    needed = (
        ' --prompt "a red bicycle"' if prompt is None else "",
        " --source-image before.png" if family.edits else "",
        " --model path/to/the/base" if model is None else "",
    )
    return f"python generate.py{''.join(needed)}"


def _imports(family: Family) -> Iterable[str]:
    classes = sorted(("FlowMatchEulerDiscreteScheduler", family.pipeline))
    yield f"from diffusers import {', '.join(classes)}"
    if family.edits:
        yield "from diffusers.utils import load_image"
    if family.borrowed and family.borrowed.parts:
        yield f"from transformers import {', '.join(sorted(family.borrowed.parts.values()))}"


def _constants(
    family: Family, settings: SampleSettings, extras: Mapping[str, float]
) -> Iterable[str]:
    guidance = {phase.value: settings.guidance(phase) for phase in Phase}
    yield f"GUIDANCE = {json.dumps(guidance)}"
    if extras:
        yield "# LoRAs that are at work in both phases, and how strongly"
        strengths = (f"{_quoted(name)}: {strength!r}" for name, strength in extras.items())
        yield _spread("EXTRAS = {", [*strengths], "}")
    names = ["None" if name is None else f'"{name}"' for name in family.text.outputs]
    yield "# what encode_prompt returns, by the names under which the pipeline takes it"
    yield _spread("TEXT = (", names, ")")
    if family.borrowed and family.borrowed.parts:
        yield f"LENDER = {_quoted(family.borrowed.model)}  # has what the base model lacks"


def _arguments(
    family: Family, settings: SampleSettings, *, model: str | None, prompt: str | None
) -> Iterable[str]:
    asked = {
        "prompt": _default(prompt),
        "seed": "type=int, default=0",
        "width": "type=int" if family.edits else f"type=int, default={settings.width}",
        "height": "type=int" if family.edits else f"type=int, default={settings.height}",
        **({"source-image": _default(None)} if family.edits else {}),
        "model": _default(model),
    }
    for name, how in asked.items():
        yield f'    parser.add_argument("--{name}", {how})'


def _load(family: Family) -> Iterable[str]:
    parts = dict(family.borrowed.parts) if family.borrowed else {}
    for part, class_name in parts.items():
        place = ["LENDER", f'subfolder="{part}"']
        dtype = [] if "tokenizer" in part else ["torch_dtype=dtype"]
        yield _spread(f"    {part} = {class_name}.from_pretrained(", [*place, *dtype], ")")
    given = [f"{part}={part}" for part in parts]
    arguments = ["args.model", "torch_dtype=dtype", *given]
    yield _spread(f"    pipeline = {family.pipeline}.from_pretrained(", arguments, ")")


def _prepare(family: Family, settings: SampleSettings) -> Iterable[str]:
    """Yield what stands before the two phases."""
    if family.edits:
        yield _REFERENCE.substitute(
            side=settings.reference_side, step=family.size_multiple, pipeline=family.pipeline
        )
    if family.has_fixed_area:
        yield _FIXED_AREA
    yield from (f"{line}\n" for line in _encode(family, settings))
    if family.text.has_bool_masks:
        yield _BOOL_MASKS
    if family.latents is Latents.TOKENS_FROM_GRID:
        yield _KEEP


def _encode(family: Family, settings: SampleSettings) -> Iterable[str]:
    needs_negative = settings.needs_negative(family)
    named = "name: value for name, value in zip(TEXT, outputs, strict=True) if name"
    more = [*_literals(family.text.arguments), *(["image=[small]"] if family.edits else [])]
    if family.text.negative is Negative.TOGETHER:
        more.insert(0, f"do_classifier_free_guidance={needs_negative}")
    if family.text.negative is Negative.APART and needs_negative:
        yield ""
        yield '    def encode(prompt, prefix=""):'
        yield _spread("        outputs = pipeline.encode_prompt(", ["prompt=prompt", *more], ")")
        yield f"        return {{prefix + {named}}}"
        yield ""
        yield '    text = encode(args.prompt) | encode("", prefix="negative_")'
    else:
        yield _spread("    outputs = pipeline.encode_prompt(", ["prompt=args.prompt", *more], ")")
        yield f"    text = {{{named}}}"


def _call(family: Family) -> Iterable[str]:
    """Yield the arguments of the pipeline."""
    yield "**text"
    if family.edits:
        yield "image=[picture]"
    yield "latents=result"
    yield 'sigmas=schedule[phase]["sigmas"]'
    yield f"{family.guidance.argument}=GUIDANCE[phase]"
    yield from _literals(family.sampling_options)
    yield "width=args.width"
    yield "height=args.height"
    yield 'generator=torch.Generator("cpu").manual_seed(args.seed)'
    if family.latents is Latents.TOKENS_FROM_GRID:
        yield "callback_on_step_end=keep"
    yield 'output_type="latent" if phase == "slow" else "pil"'


def _default(value: str | None) -> str:
    return "required=True" if value is None else f"default={_quoted(value)}"


def _literals(arguments: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}={_quoted(value) if isinstance(value, str) else repr(value)}"
        for name, value in arguments.items()
    ]


def _quoted(text: str) -> str:
    """Return `text` as a Python literal in double quotes: JSON's escapes are Python's too."""
    return json.dumps(text, ensure_ascii=False)


def _spread(opening: str, items: Sequence[str], closing: str) -> str:
    """Return a bracketed list in a line, or an item a line where that is too long."""
    flat = f"{opening}{', '.join(items)}{closing}"
    if len(flat) <= _WIDTH:
        return flat
    margin = " " * (len(opening) - len(opening.lstrip()))
    inner = "".join(f"{margin}    {item},\n" for item in items)
    return f"{opening}\n{inner}{margin}{closing}"
