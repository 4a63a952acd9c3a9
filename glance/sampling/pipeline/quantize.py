"""Keep the weights of the large parts smaller: the configs that loading takes, and fp8.

8 bits are torchao's int8, which SimpleTuner brings along: it runs on every device, and PEFT puts
LoRAs beside such a layer without merging them. Its int4 PEFT refuses (peft/tuners/lora/torchao.py),
so 4 bits are bitsandbytes' nf4, which needs CUDA. Quanto is deprecated in diffusers and loses its
layers' device under group offload (huggingface/diffusers#12610).
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import diffusers
import torch
import transformers
from diffusers.quantizers import PipelineQuantizationConfig

from glance.core.memory import Quantize
from glance.models.families import Family

_LARGE: Final = 1.0  # billions of parameters: T5-XXL has 4.76, the CLIPs 0.12 and 0.69


def parts_to_quantize(sizes: Mapping[str, float]) -> tuple[str, ...]:
    """Return the names of the parts worth quantizing, of `sizes` billions of parameters.

    They are the transformer and large text encoders. Small ones and the VAE would save nothing.
    """
    return tuple(name for name, size in sizes.items() if name == "transformer" or size >= _LARGE)


def sizes_of(family: Family) -> Mapping[str, float]:
    """Return the billions of parameters of the family's parts, by the pipeline's names."""
    encoders = {
        "text_encoder" if number == 1 else f"text_encoder_{number}": size
        for number, size in enumerate(family.size.text_encoders, start=1)
    }
    return {"transformer": family.size.transformer, **encoders}


def part_config(part: str, quantize: Quantize, dtype: torch.dtype) -> Any | None:
    """Return what one part's `from_pretrained` takes, None if nothing.

    `dtype` is what the part computes in. Fp8 is no such config: see `apply_fp8`. Nor is there one
    for a single file: see `quantize_loaded`.
    """
    library = diffusers if part == "transformer" else transformers
    match quantize:
        case Quantize.BIT8:
            return library.TorchAoConfig(_int8())
        case Quantize.BIT4:
            return library.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
        case Quantize.NONE | Quantize.FP8:
            return None


def quantization_config(
    quantize: Quantize, dtype: torch.dtype, parts: Collection[str]
) -> PipelineQuantizationConfig | None:
    """Return what the pipeline's `from_pretrained` takes to quantize `parts`, None if nothing.

    A part that is handed to it ready made is left as it is: load it with `part_config`, or see
    `quantize_loaded`.
    """
    configs = {part: part_config(part, quantize, dtype) for part in parts}
    found = {part: config for part, config in configs.items() if config is not None}
    return PipelineQuantizationConfig(quant_mapping=found) if found else None


def quantize_loaded(transformer: torch.nn.Module, quantize: Quantize) -> None:
    """Quantize a transformer that was read from a single file, in place; fp8 comes later.

    diffusers' `from_single_file` takes a config, but believes the file quantized already: with
    torchao it quantizes nothing and says nothing, and with bitsandbytes it fails. So 8 bits are
    made here, before the LoRAs are loaded; 4 bits are refused by `glance.core.memory.check_memory`.
    """
    if quantize is Quantize.BIT4:
        raise ValueError("4 bits of a single file: check_memory was not asked")
    if quantize is Quantize.BIT8:
        _torchao().quantize_(transformer, _int8())


def apply_fp8(pipeline: Any, dtype: torch.dtype) -> None:
    """Keep the transformer's weights in fp8 and compute with them in `dtype`.

    Call it once the LoRAs are loaded: diffusers then leaves them as they are. PEFT would make a
    LoRA that comes later fp8 as its base layer is, and nothing computes in that. Norms and
    modulation keep their precision: diffusers' own choice.
    """
    pipeline.transformer.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype
    )


def _int8() -> Any:
    # Version 1 is deprecated, and cannot be pinned for group offload (huggingface/diffusers#14112).
    # Inductor's settings are for torch.compile.
    return _torchao().Int8WeightOnlyConfig(version=2, set_inductor_config=False)


def _torchao() -> Any:
    import torchao.quantization  # type: ignore[import-untyped]

    return torchao.quantization
