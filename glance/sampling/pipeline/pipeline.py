"""Load the base model once, with its LoRAs, and fit it to the machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import diffusers
import torch
import transformers

from glance.core.device import Device, Precision
from glance.core.errors import ModelNotFound
from glance.core.memory import Memory, Quantize
from glance.core.phase import Phase
from glance.models.checkpoint import read_checkpoint
from glance.models.families import Family
from glance.sampling.pipeline.memory import explaining_lack_of_memory
from glance.sampling.pipeline.placement import place
from glance.sampling.pipeline.quantize import (
    apply_fp8,
    part_config,
    parts_to_quantize,
    quantization_config,
    quantize_loaded,
    sizes_of,
)
from glance.sampling.pipeline.switch import Loras, load_resident, load_swapped
from glance.sampling.pipeline.transformer import load_transformer

DTYPES: Final[Mapping[Precision, torch.dtype]] = {
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
    Precision.FP32: torch.float32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a model is made to fit the machine."""

    device: Device
    dtype: Precision
    memory: Memory = Memory.AUTO
    quantize: Quantize = Quantize.NONE
    compiled: bool = False
    pixels: int = 1024 * 1024
    """What is painted at a time has so many: width times height times pictures."""


class Loaded(NamedTuple):
    """A pipeline with its LoRAs, what switches them, and where the weights were put."""

    pipeline: Any
    switch: Loras
    memory: Memory


def find_class(family: Family) -> Any:
    """Return the family's pipeline class; diffusers imports a pipeline only when it is named."""
    return getattr(diffusers, family.pipeline)


def load_pipeline(
    family: Family,
    model: str,
    loras: Mapping[Phase, Path],
    fit: Fit,
    *,
    transformer: Path | None = None,
    base_loras: Sequence[Path] = (),
) -> Loaded:
    """Load the family's diffusers pipeline with its LoRAs, and fit it to the machine.

    `transformer` is a single file in place of the model's own; `base_loras` belong to the base
    model, and work wherever none of `loras` does.

    Raises ModelNotFound, LoraError, or InferenceFailed when memory does not suffice.
    """
    pipeline = _load_base(family, model, fit, transformer)
    pipeline.set_progress_bar_config(disable=True)
    if fit.compiled:
        switch = load_swapped(pipeline, loras)
    else:
        switch = load_resident(pipeline, loras, base_loras)
    if fit.quantize is Quantize.FP8:
        apply_fp8(pipeline, DTYPES[fit.dtype])
    with explaining_lack_of_memory(f"moving {model} to {fit.device}"):
        memory = place(
            pipeline, fit.device, fit.memory, pixels=fit.pixels, swaps_loras=fit.compiled
        )
    if fit.compiled:
        compile_transformer(pipeline)
    return Loaded(pipeline, switch, memory)


def compile_transformer(pipeline: Any, **options: Any) -> None:
    """Let torch.compile build the transformer, block by block where diffusers knows its blocks.

    It is built at the first call. `options` are those of torch.compile.
    """
    transformer = pipeline.transformer
    if getattr(transformer, "_repeated_blocks", None):
        transformer.compile_repeated_blocks(**options)
    else:
        transformer.compile(**options)


def _load_base(family: Family, model: str, fit: Fit, transformer: Path | None) -> Any:
    dtype = DTYPES[fit.dtype]
    try:
        with explaining_lack_of_memory(f"loading {model}"):
            parts = _load_borrowed(family, fit)
            if transformer is not None:
                parts["transformer"] = load_transformer(read_checkpoint(transformer), model, dtype)
                quantize_loaded(parts["transformer"], fit.quantize)
            large = set(parts_to_quantize(sizes_of(family))) - set(parts)
            return find_class(family).from_pretrained(
                model,
                torch_dtype=dtype,
                quantization_config=quantization_config(fit.quantize, dtype, large),
                **parts,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as exc:
        raise ModelNotFound(
            f"the model {model} does not load: {_first_line(exc)}",
            hint="check --model; for a gated model accept its licence and set HF_TOKEN",
        ) from exc


def _load_borrowed(family: Family, fit: Fit) -> dict[str, Any]:
    """Load the parts that models of the family lack."""
    if family.borrowed is None:
        return {}
    dtype, large = DTYPES[fit.dtype], parts_to_quantize(sizes_of(family))

    def options(part: str) -> dict[str, Any]:
        if "tokenizer" in part:
            return {}
        config = part_config(part, fit.quantize, dtype) if part in large else None
        return {"torch_dtype": dtype} | ({} if config is None else {"quantization_config": config})

    return {
        part: getattr(transformers, class_name).from_pretrained(
            family.borrowed.model, subfolder=part, **options(part)
        )
        for part, class_name in family.borrowed.parts.items()
    }


def _first_line(exc: Exception) -> str:
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)
