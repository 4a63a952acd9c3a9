"""Prompts as the pipeline takes them: each encoded once, several put together into a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from glance.models.families import Family, Negative
from glance.sampling.pipeline.reference import Reference, arrange_for_text
from glance.sampling.settings import SampleSettings


@dataclass(frozen=True, slots=True)
class Encoded:
    """One picture's prompt, and the negative one if it is used, as arguments of the pipeline."""

    arguments: Mapping[str, Any]

    @property
    def shape(self) -> tuple[Any, ...]:
        """What must be equal for two of them to be put into one batch."""
        return tuple((name, _shape(value)) for name, value in sorted(self.arguments.items()))


def encode(
    pipeline: Any, family: Family, settings: SampleSettings, reference: Reference | None
) -> Encoded:
    """Run the text encoders: once, or twice where the negative prompt is encoded apart."""
    more: dict[str, Any] = dict(family.text.arguments)
    if reference is not None:
        more["image"] = [arrange_for_text(pipeline, reference)]
    needs_negative = settings.needs_negative(family)
    if family.text.negative is Negative.TOGETHER:
        more["do_classifier_free_guidance"] = needs_negative
        if settings.negative_prompt:
            more["negative_prompt"] = settings.negative_prompt
    arguments = _call(pipeline, family, settings.prompt, more)
    if needs_negative and family.text.negative is not Negative.TOGETHER:
        negative = _call(pipeline, family, settings.negative_prompt, more)
        arguments |= {f"negative_{name}": value for name, value in negative.items()}
    return Encoded({name: value for name, value in arguments.items() if value is not None})


def join(family: Family, encoded: Sequence[Encoded]) -> dict[str, Any]:
    """Return the arguments for all pictures of a batch, in their order; shapes are equal."""

    def put_together(name: str, values: list[Any]) -> Any:
        if isinstance(values[0], list):  # one entry a picture, each as long as its prompt
            return [entry for value in values for entry in value]
        return torch.cat(values, dim=family.text.batch_axes.get(name, 0))

    if len(encoded) == 1:
        return dict(encoded[0].arguments)
    names = encoded[0].arguments
    return {name: put_together(name, [one.arguments[name] for one in encoded]) for name in names}


def _call(pipeline: Any, family: Family, prompt: str, more: Mapping[str, Any]) -> dict[str, Any]:
    outputs = pipeline.encode_prompt(prompt=prompt, device=pipeline._execution_device, **more)
    named = zip(family.text.outputs, outputs, strict=True)
    return {name: _as_mask(name, value, family) for name, value in named if name is not None}


def _as_mask(name: str, value: Any, family: Family) -> Any:
    is_mask = family.text.has_bool_masks and name.endswith("attention_mask") and value is not None
    return value.bool() if is_mask else value


def _shape(value: Any) -> Any:
    if isinstance(value, list):
        return "list"
    return tuple(value.shape)
