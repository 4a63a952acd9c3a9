"""Load the base model once, with its LoRAs, and fit it to the machine."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import diffusers
import torch
import transformers
from safetensors.torch import load_file

from glance.core.device import Device, Memory, Precision, Quantize
from glance.core.errors import ModelNotFound, reason_of
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.checkpoint import Checkpoint, read_checkpoint, scale_of
from glance.models.families import Family
from glance.sampling.pipeline.adapters import (
    Loras,
    load_adapter,
    load_resident,
    load_swapped,
    unload_pair,
)
from glance.sampling.pipeline.memory import (
    apply_fp8,
    explaining_lack_of_memory,
    large_parts,
    part_config,
    place,
    quantization_config,
    quantize_loaded,
)
from glance.sampling.request import ExtraLora

DTYPES: Final[Mapping[Precision, torch.dtype]] = {
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
    Precision.FP32: torch.float32,
}
_FP8: Final = (torch.float8_e4m3fn, torch.float8_e5m2)
_BESIDE: Final = (".scale_weight", ".weight_scale", ".scale_input", ".input_scale", ".comfy_quant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a model is made to fit the machine."""

    device: Device
    dtype: Precision
    memory: Memory = Memory.AUTO
    quantize: Quantize = Quantize.NONE
    compiled: bool = False
    pixels: int = 1024 * 1024
    """Of the images sampled at a time: width times height times their number."""


class Loaded(NamedTuple):
    """A pipeline with its LoRAs, what switches them, and where the weights were put."""

    pipeline: Any
    switch: Loras
    memory: Memory


def find_class(family: Family) -> Any:
    """Return the family's pipeline class; diffusers imports a pipeline only when it is named."""
    return getattr(diffusers, family.pipeline)


def load_pipeline(
    base: BaseModel, loras: Mapping[Phase, Path], fit: Fit, *, extras: Sequence[ExtraLora] = ()
) -> Loaded:
    """Load the base model's diffusers pipeline with all LoRAs, and fit it to the machine.

    Raises ModelNotFound, LoraError, or InferenceFailed when memory does not suffice.
    """
    return fit_pipeline(_load_base(base, fit), loras, fit, extras=extras, name=base.location)


def fit_pipeline(
    pipeline: Any,
    loras: Mapping[Phase, Path],
    fit: Fit,
    *,
    extras: Sequence[ExtraLora] = (),
    name: str = "the model",
) -> Loaded:
    """Do the same with a pipeline that is there, its weights of 8 or 4 bits quantised already.

    Raises LoraError, or InferenceFailed that says `name` when memory does not suffice.
    """
    pipeline.set_progress_bar_config(disable=True)
    if fit.compiled:
        switch = load_swapped(pipeline, loras, extras)
    else:
        switch = load_resident(pipeline, loras, extras)
    if fit.quantize is Quantize.FP8:
        apply_fp8(pipeline, DTYPES[fit.dtype])
    with explaining_lack_of_memory(f"moving {name} to {fit.device}"):
        memory = place(
            pipeline, fit.device, fit.memory, pixels=fit.pixels, swaps_loras=fit.compiled
        )
    if fit.compiled:
        compile_transformer(pipeline)
    return Loaded(pipeline, switch, memory)


def exchange_pair(
    pipeline: Any, loras: Mapping[Phase, Path], quantize: Quantize, dtype: Precision
) -> None:
    """Put other LoRAs in place of the pair's that `load_pipeline` put there; extra ones stay.

    `quantize` and `dtype` are what the pipeline was fitted with; it must not be compiled, and be
    sampled with by a TwoPhase that keeps encodings. Raises LoraError, and then it can be called
    again with others.
    """
    unload_pair(pipeline)
    for phase, path in loras.items():
        kept_in = DTYPES[dtype] if quantize is Quantize.FP8 else None
        load_adapter(pipeline, path, name=phase.value, kept_in=kept_in)


def compile_transformer(pipeline: Any, **options: Any) -> None:
    """Let torch.compile build the transformer, block by block where diffusers knows its blocks.

    It is built at the first call. `options` are those of torch.compile.
    """
    transformer = pipeline.transformer
    if getattr(transformer, "_repeated_blocks", None):
        transformer.compile_repeated_blocks(**options)
    else:
        transformer.compile(**options)


def _load_base(base: BaseModel, fit: Fit) -> Any:
    dtype, family, model = DTYPES[fit.dtype], base.family, base.location
    try:
        with explaining_lack_of_memory(f"loading {model}"):
            parts = _load_borrowed(family, fit)
            if base.transformer is not None:
                checkpoint = read_checkpoint(base.transformer)
                parts["transformer"] = load_transformer(checkpoint, model, dtype)
                quantize_loaded(parts["transformer"], fit.quantize)
            large = set(large_parts(family)) - set(parts)
            return find_class(family).from_pretrained(
                model,
                torch_dtype=dtype,
                quantization_config=quantization_config(fit.quantize, dtype, large),
                **parts,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as exc:
        first_line = reason_of(exc)
        raise ModelNotFound(
            f"the model {model} does not load: {first_line}",
            hint="check --model; for a gated model accept its licence and set HF_TOKEN",
        ) from exc


def _load_borrowed(family: Family, fit: Fit) -> dict[str, Any]:
    """Load the parts that models of the family lack."""
    if family.borrowed is None:
        return {}
    dtype, large = DTYPES[fit.dtype], large_parts(family)

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


# --- a single file in place of the transformer ---------------------------------------------------
#
# It is brought into the layout that both SimpleTuner and diffusers load.


def load_transformer(checkpoint: Checkpoint, base: str, dtype: torch.dtype | None = None) -> Any:
    """Return the file's transformer, built as that of the whole model `base`.

    Without `dtype` it keeps the file's own; fp8, which nothing computes in, becomes bfloat16.
    Raises ModelNotFound when the file does not fit the base.
    """
    path, hint = checkpoint.path, "say with --pipeline which whole model it was made of"
    try:
        _, class_name = diffusers.DiffusionPipeline.load_config(base)["transformer"]
        tensors = _read(checkpoint)
        transformer = getattr(diffusers, class_name).from_single_file(
            tensors, config=base, subfolder="transformer", torch_dtype=dtype or _dtype_of(tensors)
        )
    except (OSError, ValueError, RuntimeError, LookupError, NotImplementedError) as exc:
        raise ModelNotFound(
            f"model {path} does not fit {base}: {reason_of(exc)}", hint=hint
        ) from exc
    missing = [name for name, tensor in transformer.state_dict().items() if tensor.is_meta]
    if missing:
        raise ModelNotFound(
            f"model {path} lacks {len(missing)} tensors that {base} has, {missing[0]} among them",
            hint=hint,
        )
    return transformer


def write_transformer(checkpoint: Checkpoint, base: str, target: Path) -> None:
    """Write the file's transformer to the folder `target`, whole or not at all."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    load_transformer(checkpoint, base).save_pretrained(unfinished)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)


def _read(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return the tensors without prefix and other parts, scaled fp8 multiplied out."""
    found = {
        name.removeprefix(checkpoint.prefix): tensor
        for name, tensor in load_file(checkpoint.path).items()
        if name.startswith(checkpoint.prefix)
    }
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in found.items():
        if tensor.dtype not in _FP8:
            tensors[name] = tensor
        elif scale := scale_of(name, found):
            tensors[name] = (tensor.float() * found[scale].float()).bfloat16()
        else:
            tensors[name] = tensor.bfloat16()
    for name in found:
        if name == "scaled_fp8" or name.endswith(_BESIDE):
            tensors.pop(name)
    return tensors


def _dtype_of(tensors: dict[str, torch.Tensor]) -> torch.dtype:
    """Return what most numbers are in."""
    counts: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        counts[tensor.dtype] += tensor.numel()
    return counts.most_common(1)[0][0]
