"""The card of a repository on the Hub: what its README.md says of a pair, and the YAML above it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Final

from glance.core.phase import Phase
from glance.interop.diffusers import usage
from glance.interop.export import Source
from glance.models.base import is_hub_id

if TYPE_CHECKING:
    from glance.interop.hub import HubPlan

PROMPT: Final = "a lighthouse at dusk"  # the sample's caption would tell what the sample shows
BINDING: Final = {
    "black-forest-labs/FLUX.1-dev": "flux-1-dev-non-commercial-license",
    "black-forest-labs/FLUX.1-Krea-dev": "flux-1-dev-non-commercial-license",
    "black-forest-labs/FLUX.2-dev": "flux-dev-non-commercial-license",
    "stabilityai/stable-diffusion-3.5-medium": "stabilityai-ai-community",
    "stabilityai/stable-diffusion-3.5-large": "stabilityai-ai-community",
    "krea/Krea-2-Raw": "krea-2-community-license",
}
"""Base models whose license goes on to what is made of them, and its name on their cards. Of the
others, Apache-2.0 and MIT mostly, it is for the author of a pair to say."""
HUB: Final = "https://huggingface.co"
_MARKUP: Final = {ord(letter): f"&#{ord(letter)};" for letter in '\\`*_{}[]()#+!|<>&$~:@="^'}
"""Entities, not backslashes: the Hub looks for formulas, `\\(...\\)`, before it reads Markdown."""
_CARD_TEXT: Final = Template("""\
---
$metadata---

# $name

Two LoRAs for $base, made to sample in $steps steps. The *slow* one takes the first $slow; the \
*fast* one goes on from its latents for $fast more. $origin.

They belong together, and to the timesteps below. There is no trigger word, and they are no \
style: prompts are what they are for the base model. $worth \
`load_lora_weights("$repo")` without a file's name would load one LoRA alone, and a scheduler's \
own steps are not those that it was trained on.

$gallery## Use

With glance:

```bash
glance infer --slow-lora $repo:slow.safetensors \\
  --fast-lora $repo:fast.safetensors \\
  --family $family --model $model$reference --prompt "$prompt"
```

$tools## Training

$settings

Pair `$pair_id`, $made.

$sample## License

$license$theirs
""")
_DIFFUSERS: Final = """\
With [diffusers](https://github.com/huggingface/diffusers) alone; all of the sampling is in \
`generate.py`:

```bash
hf download {repo} --local-dir pair && cd pair
{usage}
```

"""
_COMFYUI: Final = """\
In ComfyUI: put the LoRAs of `comfyui/` into `models/loras` and open `comfyui/workflow.json`.
"""


@dataclass(frozen=True, slots=True)
class CardRow:
    """Images of one prompt and seed: their labels (`both, 10 steps`) by path, the pair's last."""

    prompt: str
    seed: int
    labels: Mapping[str, str]


def write_card(plan: "HubPlan", repo: str) -> str:
    """Return README.md of a repository that is called `repo`, with its owner."""
    request, source, manifest = plan.request, plan.request.source, plan.request.source.manifest
    base, family = hub_base(source), source.family
    slow, fast = (len(source.schedule.phase(phase).timesteps) for phase in Phase)
    tools = ""
    if "generate.py" in plan.contents:
        tools += _DIFFUSERS.format(repo=repo, usage=usage(family, model=base, prompt=None))
    if "comfyui/workflow.json" in plan.contents:
        tools += f"{_COMFYUI}\n"
    made = f"imported by glance on {manifest.created.date()}"
    if manifest.imported is None:
        used = {"glance": manifest.glance, **manifest.versions}
        versions = ", ".join(_escape(f"{name} {text}") for name, text in used.items())
        made = f"begun on {manifest.created.date()}, trained with {versions}"
    worth = "Whether the pair is better than the base model along the same steps is to be seen."
    if plan.verdict is not None:
        worth = f"Measured, on prompts that it was not trained on: {_escape(plan.verdict)}."
    license_ = request.license or BINDING.get(base or "")
    said = f"The LoRAs: `{license_}`." if license_ else "Nobody has said which the LoRAs have."
    return _CARD_TEXT.substitute(
        metadata=_write_metadata(plan, base),
        name=repo.rpartition("/")[2],
        base=f"[{base}]({HUB}/{base})" if base else f"a {family.title} model not on the Hub",
        steps=slow + fast,
        slow=slow,
        fast=fast,
        origin=_describe_origin(source),
        worth=worth,
        repo=repo,
        gallery=_draw_gallery(plan.rows),
        family=family.name,
        model=base or "path/to/the/base",
        reference=" --source-image before.png" if family.edits else "",
        prompt=PROMPT,
        tools=tools,
        settings=_draw_table(("setting", "value"), _list_settings(source)),
        pair_id=manifest.pair_id,
        made=made,
        sample=_describe_sample(plan),
        license=said,
        theirs=f" The base model's own is on [its page]({HUB}/{base})." if base else "",
    )


def hub_base(source: Source) -> str | None:
    """Return the base model's Hub id; None for a folder, or where a single file replaced a part."""
    manifest, settings = source.manifest, source.manifest.settings
    is_id = manifest.base_model == settings.model and is_hub_id(settings.model)
    return settings.model if is_id and settings.transformer is None else None


def sample_names(count: int) -> list[str]:
    """Return what the files are called, whatever the user's own say of them."""
    numbers = [""] if count == 1 else [f"-{number}" for number in range(1, count + 1)]
    return [f"sample/sample{number}" for number in numbers]


def flatten(text: str) -> str:
    """Return the text in one line, without what cannot be seen."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _write_metadata(plan: "HubPlan", base: str | None) -> str:
    """Return the YAML. Tags are those that diffusers' own LoRA trainers write, and ours."""
    from huggingface_hub import ModelCardData

    family, license_ = plan.request.source.family, plan.request.license
    task = "image-to-image" if family.edits else "text-to-image"
    binding = None if license_ else BINDING.get(base or "")
    values: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": "adapter" if base else None,
        "library_name": "diffusers",
        "pipeline_tag": task,
        "license": "other" if binding else license_,
        "license_name": binding,
        "license_link": f"{HUB}/{base}" if binding else None,
        "tags": [task, "diffusers", "lora", "template:sd-lora", family.name, "few-step", "glance"],
        # `-` is what the Hub's cards say where there is no prompt
        "widget": [
            {"text": flatten(row.prompt)[:500] or "-", "output": {"url": list(row.labels)[-1]}}
            for row in plan.rows
        ],
    }
    data = ModelCardData(**{name: value for name, value in values.items() if value})
    return data.to_yaml(line_break="\n").rstrip("\n") + "\n"


def _describe_origin(source: Source) -> str:
    trainer = "[SimpleTuner](https://github.com/bghira/SimpleTuner)"
    if source.manifest.settings.teacher is not None:
        return (
            f"glance trained both with {trainer} to take the base model's own many steps in few; "
            "no image but its own was used"
        )
    method = "after [arxiv.org/abs/2512.02899](https://arxiv.org/abs/2512.02899)"
    if source.manifest.imported is not None:
        return f"glance has not trained them, but imported them; the method is the same, {method}"
    count = len(source.manifest.samples)
    what = "one image and its caption" if count == 1 else f"{count} images and their captions"
    return f"glance trained both on {what} with {trainer}, {method}"


def _draw_gallery(rows: Sequence[CardRow]) -> str:
    labels = list(rows[0].labels.values()) if rows else []
    if len(labels) < 2:
        return "<Gallery />\n\n" if rows else ""
    cells = []
    for row in rows:
        prompt = f"{_escape(row.prompt) or '*not shown*'}, seed {row.seed}"
        cells.append([prompt, *(f"![{label}]({path})" for path, label in row.labels.items())])
    said = "The images of a row begin with the same noise."
    table = _draw_table(["prompt", *labels], cells)
    return f"<Gallery />\n\n## Beside the base model\n\n{said}\n\n{table}\n\n"


def _list_settings(source: Source) -> Iterator[tuple[str, str]]:
    """Yield names and values; of an imported pair only what somebody recorded."""
    manifest, settings = source.manifest, source.manifest.settings
    unknown = () if manifest.imported is None else manifest.imported.unknown
    areas = (settings.resolution, *settings.also_resolutions)
    known = {
        "steps": ("steps a phase", settings.steps),
        "batch_size": ("batch size", settings.batch_size),
        "rank": ("rank", settings.rank),
        "learning_rate": ("learning rate", f"{settings.learning_rate:g}"),
        "resolution": ("area", ", ".join(f"{side}x{side}" for side in areas)),
        "crops": ("crops", ", ".join(settings.crops)),
        "seed": ("seed", settings.seed),
        "device": ("device", settings.device),
    }
    yield from ((row[0], str(row[1])) for name, row in known.items() if name not in unknown)
    if manifest.imported is None:
        yield "alpha", f"{settings.alpha}, folded into the files: their strength is 1"
    if settings.teacher is not None:
        yield "taught by", _escape(settings.teacher.describe())
        yield "layers", settings.layers
    yield "schedule", _escape(manifest.schedule.name)
    for phase in Phase:
        part = source.schedule.phase(phase)
        yield f"{phase} timesteps", ", ".join(f"{value:.7g}" for value in part.timesteps)
    for name, value in sorted(settings.overrides.items()):
        # numbers and plain words; what else people set may say whose machine it was
        is_plain = re.fullmatch(r"[\w.+-]{1,40}", str(value)) is not None
        yield f"SimpleTuner's {_escape(name)}", _escape(str(value)) if is_plain else "*not shown*"


def _describe_sample(plan: "HubPlan") -> str:
    samples = plan.request.source.manifest.samples
    if not samples:
        return ""
    sizes = ", ".join(dict.fromkeys(f"{one.width}x{one.height}" for one in samples))
    text, others = f"One image of {sizes} pixels and its caption", "Neither is"
    if len(samples) > 1:
        text, others = f"{len(samples)} images of {sizes} pixels and their captions", "They are not"
    text = f"## The sample\n\n{text}"
    if plan.request.sample_license is None:
        return f"{text}. {others} part of this repository.\n\n"
    shown = (
        f"![what the pair was trained on]({name}.png)\n\n{_escape(caption or '')}\n\n"
        for name, caption in zip(sample_names(len(samples)), plan.captions, strict=True)
    )
    return f"{text}, license `{plan.request.sample_license}`:\n\n{''.join(shown)}"


def _draw_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escape(text: str) -> str:
    """Return the text for inside a line or a table's cell: as it is, and never markup."""
    return shorten(flatten(text), 300, placeholder=" ...").translate(_MARKUP)
