"""The model card of a pair on the Hub: metadata and text, all of it read off the run.

What people wrote goes through `_escape` or a YAML writer, so that it can become no markup, no link
and no key.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from textwrap import shorten
from typing import Any, Final

from glance.core.phase import Phase
from glance.interop.diffusers import usage
from glance.interop.export import Source
from glance.models.base import is_hub_id

PROMPT: Final = "a lighthouse at dusk"  # the sample's caption would tell what the sample shows
BINDING: Final = {
    "black-forest-labs/FLUX.1-dev": "flux-1-dev-non-commercial-license",
    "black-forest-labs/FLUX.1-Krea-dev": "flux-1-dev-non-commercial-license",
    "black-forest-labs/FLUX.2-dev": "flux-dev-non-commercial-license",
    "stabilityai/stable-diffusion-3.5-medium": "stabilityai-ai-community",
    "stabilityai/stable-diffusion-3.5-large": "stabilityai-ai-community",
    "krea/Krea-2-Raw": "krea-2-community-license",
}
"""Base models whose license goes on to what is made of them, and its name on their cards.

Of the others, Apache-2.0 and MIT mostly, it is for the author of a pair to say."""
_HUB: Final = "https://huggingface.co"
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
class Row:
    """Images of one prompt and seed: their labels (`both, 10 steps`) by path, the pair's last."""

    prompt: str
    seed: int
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Everything that a card says, beside what the run says itself."""

    source: Source
    repo: str
    """`name`, of whoever sends, or `owner/name`."""
    license: str | None
    """Of the LoRAs: the Hub's identifier. None: what the base model's imposes, if anything."""
    sample_license: str | None
    """Of the sample; None: neither image nor caption is sent or shown."""
    rows: Sequence[Row]
    verdict: str | None
    """What was measured of the pair, in a sentence."""
    caption: str | None
    files: Collection[str]
    """What lies beside the card."""

    @property
    def text(self) -> str:
        """README.md. Without an owner in the repository's name it says OWNER."""
        source, manifest, family = self.source, self.source.manifest, self.source.family
        base = hub_base(source)
        repo = self.repo if "/" in self.repo else f"OWNER/{self.repo}"
        slow, fast = (len(source.schedule.phase(phase).timesteps) for phase in Phase)
        tools = ""
        if "generate.py" in self.files:
            tools += _DIFFUSERS.format(repo=repo, usage=usage(family, model=base, prompt=None))
        if "comfyui/workflow.json" in self.files:
            tools += _COMFYUI
        made = f"imported by glance on {manifest.created.date()}"
        if manifest.imported is None:
            versions = {"glance": manifest.glance, **manifest.versions}
            listed = ", ".join(_escape(f"{name} {text}") for name, text in versions.items())
            made = f"begun on {manifest.created.date()}, trained with {listed}"
        worth = "Whether the pair is better than the base model along the same steps is to be seen."
        if self.verdict is not None:
            worth = f"Measured, on prompts that it was not trained on: {_escape(self.verdict)}."
        license_ = self.license or BINDING.get(base or "")
        return _CARD_TEXT.substitute(
            metadata=_write_metadata(self, base),
            name=self.repo.rpartition("/")[2],
            base=f"[{base}]({_HUB}/{base})" if base else f"a {family.title} model not on the Hub",
            steps=slow + fast,
            slow=slow,
            fast=fast,
            origin=_describe_origin(source),
            worth=worth,
            repo=repo,
            gallery=_draw_gallery(self.rows),
            family=family.name,
            model=base or "path/to/the/base",
            reference=" --source-image before.png" if family.edits else "",
            prompt=PROMPT,
            tools=tools,
            settings=_draw_table(("setting", "value"), _list_settings(source)),
            pair_id=manifest.pair_id,
            made=made,
            sample=_describe_sample(self),
            license=f"The LoRAs: `{license_}`."
            if license_
            else "Nobody has said which the LoRAs have.",
            theirs=f" The base model's own is on [its page]({_HUB}/{base})." if base else "",
        )


def hub_base(source: Source) -> str | None:
    """Return the base model's Hub id; None for a folder, or where a single file replaced a part."""
    manifest, settings = source.manifest, source.manifest.settings
    is_id = manifest.base_model == settings.model and is_hub_id(settings.model)
    return settings.model if is_id and settings.transformer is None else None


def _write_metadata(card: Card, base: str | None) -> str:
    """Return the YAML. Tags are those that diffusers' own LoRA trainers write, and ours."""
    from huggingface_hub import ModelCardData

    family = card.source.family
    task = "image-to-image" if family.edits else "text-to-image"
    binding = None if card.license else BINDING.get(base or "")
    values: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": "adapter" if base else None,
        "library_name": "diffusers",
        "pipeline_tag": task,
        "license": "other" if binding else card.license,
        "license_name": binding,
        "license_link": f"{_HUB}/{base}" if binding else None,
        "tags": [task, "diffusers", "lora", "template:sd-lora", family.name, "few-step", "glance"],
        # `-` is what the Hub's cards say where there is no prompt
        "widget": [
            {"text": flatten(row.prompt)[:500] or "-", "output": {"url": list(row.labels)[-1]}}
            for row in card.rows
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
    return f"glance trained both on one image and its caption with {trainer}, {method}"


def _draw_gallery(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    labels = list(rows[0].labels.values())
    if len(labels) == 1:
        return "<Gallery />\n\n"
    cells = [
        (
            f"{_escape(row.prompt) or '*not shown*'}, seed {row.seed}",
            *(f"![{label}]({path})" for path, label in row.labels.items()),
        )
        for row in rows
    ]
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


def _describe_sample(card: Card) -> str:
    sample = card.source.manifest.sample
    if sample is None:
        return ""
    pair = f"## The sample\n\nOne image of {sample.width}x{sample.height} pixels and its caption"
    if card.sample_license is None:
        return f"{pair}. Neither is part of this repository.\n\n"
    return (
        f"{pair}, license `{card.sample_license}`:\n\n![what the pair was trained on]"
        f"(sample/sample.png)\n\n{_escape(card.caption or '')}\n\n"
    )


def _draw_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def flatten(text: str) -> str:
    """Return the text in one line, without what cannot be seen."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _escape(text: str) -> str:
    """Return the text for inside a line or a table's cell: as it is, and never markup."""
    return shorten(flatten(text), 300, placeholder=" ...").translate(_MARKUP)
