"""The model card of a pair on the Hub: metadata and text, all of it read off the run.

Pure: nothing is read or sent. What people wrote goes through `escape`, the metadata through a YAML
writer, so neither can become markup, a link or another key.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from glance.core.phase import Phase
from glance.interop.diffusers.script import usage
from glance.interop.hub.licences import Licence
from glance.interop.hub.markdown import draw_table, escape, flatten
from glance.interop.hub.pictures import Gallery, Row
from glance.interop.hub.settings_table import describe_training
from glance.interop.source import Source
from glance.runs.manifest import Manifest

OWNER: Final = "OWNER"
"""Stands for whoever sends, as long as nobody has asked the Hub who that is."""
COMFYUI: Final = "comfyui"
"""The folder of what goes to ComfyUI."""
SAMPLE: Final = "sample/sample"
"""Where the sample lies, without its endings: .png and .txt."""
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PROMPT: Final = "a harbour at dawn"
_LONGEST: Final = 500  # characters of a prompt in the widget
_METHOD: Final = "https://arxiv.org/abs/2512.02899"
_TRAINER: Final = "https://github.com/bghira/SimpleTuner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Everything that a card says, beside what the run says itself."""

    repo: str
    """`name` or `owner/name`."""
    source: Source
    gallery: Gallery
    files: tuple[str, ...]
    """What lies beside the card."""
    caption: str | None
    """The sample's, None if it is gone: shown only with a licence, else hidden in prompts too."""
    sample_licence: str | None
    licence: Licence | None

    @property
    def repo_id(self) -> str:
        """The repository, with an owner."""
        return self.repo if "/" in self.repo else f"{OWNER}/{self.repo}"

    @property
    def steps(self) -> tuple[int, ...]:
        """How many steps each phase takes, slow first."""
        return tuple(len(self.source.schedule.phase(phase).timesteps) for phase in Phase)

    def prompt_of(self, row: Row) -> str | None:
        """Return a row's prompt; None where it holds the caption and that is not published."""
        if self.sample_licence is not None or self.source.manifest.sample is None:
            return row.prompt
        is_apart = self.caption is not None and not _holds(row.prompt, self.caption)
        return row.prompt if is_apart else None


def hub_base(manifest: Manifest) -> str | None:
    """Return the base model's Hub id; None for a folder, or where a single file replaced a part."""
    settings = manifest.settings
    is_id = manifest.base_model == settings.model and _HUB_ID.fullmatch(settings.model)
    return settings.model if is_id and settings.transformer is None else None


def render_card(card: Card) -> str:
    """Return README.md: YAML between two lines of dashes, then Markdown."""
    sections = (
        _introduction(card),
        _pictures(card),
        _usage(card),
        _schedule(card),
        describe_training(card.source),
        _sample(card),
        _licence(card),
    )
    body = "\n\n".join(text for text in sections if text)
    return f"---\n{_metadata(card)}---\n\n{body}\n"


def _metadata(card: Card) -> str:
    """Return the YAML. Tags are those that diffusers' own LoRA trainers write, and ours."""
    from huggingface_hub import ModelCardData

    family, base = card.source.family, hub_base(card.source.manifest)
    task = "image-to-image" if family.edits else "text-to-image"
    values: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": "adapter" if base else None,
        "library_name": "diffusers",
        "pipeline_tag": task,
        "license": card.licence and card.licence.id,
        "license_name": card.licence and card.licence.name,
        "license_link": card.licence and card.licence.link,
        "tags": [task, "diffusers", "lora", "template:sd-lora", family.name, "few-step", "glance"],
        "widget": list(_widget(card)) or None,
    }
    data = ModelCardData(**{name: value for name, value in values.items() if value is not None})
    return data.to_yaml(line_break="\n").rstrip("\n") + "\n"


def _widget(card: Card) -> Iterator[dict[str, Any]]:
    """Yield the pair's own pictures; `-` is what the Hub's cards say where there is no prompt."""
    for row in card.gallery.rows:
        prompt = card.prompt_of(row)
        text = "-" if prompt is None else flatten(prompt)[:_LONGEST]
        more = {"parameters": {"negative_prompt": flatten(row.negative)}} if row.negative else {}
        for picture in row.pictures:
            if picture.is_pairs:
                yield {"text": text, "output": {"url": picture.path}, **more}


def _introduction(card: Card) -> str:
    slow, fast = card.steps
    gallery = "\n\n<Gallery />" if any(_widget(card)) else ""
    return f"""\
# {PurePosixPath(card.repo).name}

Two LoRAs for {_base_link(card.source)}, made to paint in {slow + fast} steps. The *slow* one \
takes the first {slow}; the *fast* one goes on from its latents for {fast} more. \
{_origin(card.source.manifest)}.

They belong together, and to the noise levels below. There is no trigger word, and they are no \
style: prompts are what they are for the base model. {_worth(card.source.manifest)} \
`load_lora_weights("{card.repo_id}")` without a file's name would load one LoRA alone, and a \
scheduler's own steps are not those that it was trained on.\
{gallery}"""


def _origin(manifest: Manifest) -> str:
    trainer = f"[SimpleTuner]({_TRAINER})"
    if manifest.settings.teacher is not None:
        return (
            f"glance trained both with {trainer} to take the base model's own many steps in few; "
            "no picture but its own was used"
        )
    method = f"after [{_METHOD.removeprefix('https://')}]({_METHOD})"
    if manifest.imported is not None:
        return f"glance has not trained them, but imported them; the method is the same, {method}"
    return f"glance trained both on one picture and its caption with {trainer}, {method}"


def _worth(manifest: Manifest) -> str:
    """Return what was measured of the pair, if it was."""
    if manifest.verdict is None:
        return "Whether the pair is better than the base model along the same steps is to be seen."
    return f"Measured, on prompts that it was not trained on: {manifest.verdict['sentence']}."


def _base_link(source: Source) -> str:
    manifest = source.manifest
    base = hub_base(manifest)
    if base is not None:
        return f"[{base}](https://huggingface.co/{base})"
    if manifest.settings.transformer is not None:
        return f"a {source.family.title} model whose transformer was a single file"
    return f"a {source.family.title} model that is not on the Hub"


def _pictures(card: Card) -> str:
    rows = [row for row in card.gallery.rows if len(row.pictures) > 1]
    if not rows:
        return ""
    labels = [picture.label for picture in rows[0].pictures]
    table = draw_table(["prompt", *labels], (_picture_row(card, row) for row in rows))
    return "\n\n".join(
        (
            "## Beside the base model",
            "The pictures of a row begin with the same noise.",
            table,
            *_figures(card.gallery),
        )
    )


def _figures(gallery: Gallery) -> Iterator[str]:
    if not gallery.figures:
        return
    said = f"Means over all pictures compared, painted on {escape(gallery.conditions)}."
    if any(one.ssim is not None for one in gallery.figures):
        said += (
            " SSIM and PSNR say how near a picture is to the base model's with many steps, and "
            "nothing of which is better."
        )
    yield said
    yield draw_table(
        ("picture", "seconds", "SSIM", "PSNR, dB"),
        (
            (one.label, _number(one.seconds, 2), _number(one.ssim, 3), _number(one.psnr, 1))
            for one in gallery.figures
        ),
    )


def _picture_row(card: Card, row: Row) -> Sequence[str]:
    prompt = card.prompt_of(row)
    words = "*the caption that it was trained on*" if prompt is None else escape(prompt)
    pictures = (f"![{one.label}]({one.path})" for one in row.pictures)
    return (f"{words}, seed {row.seed}", *pictures)


def _holds(prompt: str, caption: str) -> bool:
    return flatten(caption).casefold() in flatten(prompt).casefold()


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _usage(card: Card) -> str:
    family, base = card.source.family, hub_base(card.source.manifest)
    reference = " --reference before.png" if family.edits else ""
    parts = [
        f"""\
## Use

With glance:

```bash
glance infer --slow-lora {card.repo_id}:slow.safetensors \\
  --fast-lora {card.repo_id}:fast.safetensors \\
  --family {family.name} --model {base or "path/to/the/base"}{reference} --prompt "{_PROMPT}"
```"""
    ]
    if "generate.py" in card.files:
        parts.append(f"""\
With [diffusers](https://github.com/huggingface/diffusers) alone; all of the sampling is in \
`generate.py`:

```bash
hf download {card.repo_id} --local-dir pair && cd pair
{usage(family, model=base, prompt=None)}
```""")
    return "\n\n".join((*parts, *_comfyui(card)))


def _comfyui(card: Card) -> Iterator[str]:
    workflow = f"{COMFYUI}/workflow.json"
    if workflow in card.files:
        yield (
            f"In ComfyUI: put the LoRAs of `{COMFYUI}/` into `models/loras` and open `{workflow}`."
        )


def _schedule(card: Card) -> str:
    schedule = card.source.schedule
    rows = [
        (phase.value, _shown(timestep), _shown(sigma))
        for phase in Phase
        for timestep, sigma in zip(
            schedule.phase(phase).timesteps, schedule.phase(phase).sigmas, strict=True
        )
    ]
    table = draw_table(("phase", "timestep", "sigma"), rows)
    return (
        "## Noise levels\n\nWhat each step begins at; the slow phase ends at the fast one's first, "
        f"the fast one at 0.\n\n{table}"
    )


def _shown(value: float) -> str:
    return f"{value:.7g}"


def _sample(card: Card) -> str:
    sample = card.source.manifest.sample
    if sample is None:
        return ""
    size = f"{sample.width}x{sample.height} pixels"
    pair = f"## The sample\n\nOne picture of {size} and its caption"
    if card.sample_licence is None:
        return f"{pair}. Neither is part of this repository."
    return (
        f"{pair}, licence `{card.sample_licence}`:\n\n![what the pair was trained on]({SAMPLE}.png)"
        f"\n\n{escape(card.caption or '')}"
    )


def _licence(card: Card) -> str:
    base = hub_base(card.source.manifest)
    theirs = f" The base model's own licence is on [its page](https://huggingface.co/{base})."
    if card.licence is None:
        said = "Nobody has said under which licence these LoRAs are."
    elif card.licence.link is None:
        said = f"The LoRAs: `{card.licence}`."
    else:
        said = f"The LoRAs: [{card.licence}]({card.licence.link})."
    return f"## Licence\n\n{said}{theirs if base else ''}"
