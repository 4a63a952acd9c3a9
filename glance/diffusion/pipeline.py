"""Load the base model once, with both LoRAs beside each other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from glance.checkpoint import read_checkpoint
from glance.device import Device, Precision
from glance.diffusion.memory import explaining_lack_of_memory
from glance.diffusion.transformer import load_transformer
from glance.errors import LoraError, ModelNotFound, Problem
from glance.families import Family
from glance.lora import PREFIX, read_lora
from glance.schedule import Phase

_DTYPES: Mapping[Precision, torch.dtype] = {
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
    Precision.FP32: torch.float32,
}
# Weights are most of it, the rest is activations: with less room than this, parts move to the
# accelerator in turn.
_ROOM = 1.25


def find_class(family: Family) -> Any:
    """Return the family's pipeline class; diffusers imports a pipeline only when it is named."""
    return getattr(diffusers, family.pipeline)


def load_pipeline(
    family: Family,
    model: str,
    loras: Mapping[Phase, Path],
    *,
    device: Device,
    dtype: Precision,
    transformer: Path | None = None,
) -> Any:
    """Return the family's diffusers pipeline on `device`, each LoRA an adapter named as its phase.

    `transformer` is a single file in place of the model's own.

    Raises ModelNotFound, LoraError, or InferenceFailed when memory does not suffice.
    """
    try:
        with explaining_lack_of_memory(f"loading {model}"):
            parts = _load_borrowed(family, _DTYPES[dtype])
            if transformer is not None:
                checkpoint = read_checkpoint(transformer)
                parts["transformer"] = load_transformer(checkpoint, model, _DTYPES[dtype])
            pipeline = find_class(family).from_pretrained(
                model, torch_dtype=_DTYPES[dtype], **parts
            )
    except (OSError, ValueError, RuntimeError, KeyError) as exc:
        raise ModelNotFound(
            f"the model {model} does not load: {_first_line(exc)}",
            hint="check --model; for a gated model accept its licence and set HF_TOKEN",
        ) from exc
    pipeline.set_progress_bar_config(disable=True)
    for phase, path in loras.items():
        _load_lora(pipeline, phase, path)
    with explaining_lack_of_memory(f"moving {model} to {device}"):
        _place(pipeline, device)
    return pipeline


def _load_borrowed(family: Family, dtype: torch.dtype) -> dict[str, Any]:
    """Load the parts that models of the family lack."""
    if family.borrowed is None:
        return {}
    return {
        part: getattr(transformers, class_name).from_pretrained(
            family.borrowed.model,
            subfolder=part,
            **({} if "tokenizer" in part else {"torch_dtype": dtype}),
        )
        for part, class_name in family.borrowed.parts.items()
    }


def _load_lora(pipeline: Any, phase: Phase, path: Path) -> None:
    """Load one file as the adapter `phase`; raise LoraError if it does not fit the model."""
    lora = read_lora(path)
    known = {name for name, _ in pipeline.transformer.named_modules()}
    strangers = [
        module
        for module in lora.modules
        if all(key.startswith(PREFIX) for key in lora.tensors) and module not in known
    ]
    if strangers:
        raise LoraError(
            Problem(
                f"{path}: the model has no layer {name}",
                "is it for another base model?",
            )
            for name in strangers[:5]
        )
    try:
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=phase.value)
    except (OSError, ValueError, RuntimeError, KeyError) as exc:
        raise LoraError(
            f"{path}: it does not fit the model: {_first_line(exc)}",
            hint="is it for another base model?",
        ) from exc
    if phase.value not in pipeline.get_list_adapters().get("transformer", []):
        raise LoraError(f"{path}: diffusers found nothing in it for the transformer")


def _place(pipeline: Any, device: Device) -> None:
    if device is Device.CUDA:
        size = sum(
            tensor.nbytes
            for part in pipeline.components.values()
            if isinstance(part, torch.nn.Module)
            for tensor in part.parameters()
        )
        free, _ = torch.cuda.mem_get_info()
        if size * _ROOM > free:
            pipeline.enable_model_cpu_offload()
            return
    pipeline.to(device.value)


def _first_line(exc: Exception) -> str:
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)
