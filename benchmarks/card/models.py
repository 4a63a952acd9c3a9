"""FLUX.1-dev with random weights: memory and speed do not depend on what the weights say.

They are made where they shall be, in the precision that they are kept in. What is to wait in system
memory is made on the card as well, one weight after another, because a CPU takes minutes for
seventeen billion random numbers.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from benchmarks.inference.meter import choose_clock
from benchmarks.models import make_loras
from benchmarks.rounds import SMALL_MODEL
from glance.core.device import (
    Device,
    Memory,
    Quantize,
    activation_bytes,
    choose_memory,
    default_precision,
)
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.families import find_family
from glance.sampling.pipeline.load import DTYPES, Fit, Loaded, fit_pipeline, load_pipeline
from glance.sampling.pipeline.memory import is_lack_of_memory, large_parts, quantize_loaded

_DEVIATION: Final = 0.02  # of matrices: T5's and CLIP's initializer_range, and nothing overflows
_LORAS: Final = "loras"
_EVERY_BLOCK_LAYER: Final = r"blocks\."
_IDS: Final = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How large each part is: the arguments of its class or of its config."""

    transformer: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    text_encoder_2: Mapping[str, Any]
    vae: Mapping[str, Any]


FLUX_DEV: Final = Architecture(
    # FluxParams of "flux-dev" in black-forest-labs/flux, src/flux/util.py; the same numbers are
    # the defaults of diffusers' FluxTransformer2DModel
    transformer={
        "in_channels": 64,
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": True,
        "axes_dims_rope": (16, 56, 56),
    },
    # the text model of openai/clip-vit-large-patch14, its config.json
    text_encoder={
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "projection_dim": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
    },
    # google/t5-v1_1-xxl, its config.json
    text_encoder_2={
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
    },
    # AutoEncoderParams of "flux-dev", ibidem; in diffusers' words Stable Diffusion 3's VAE with
    # another scaling: diffusers, scripts/convert_flux_to_diffusers.py
    vae={
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "sample_size": 1024,
    },
)
TINY: Final = Architecture(
    transformer={
        "in_channels": 64,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "guidance_embeds": True,
        "axes_dims_rope": (4, 4, 8),
    },
    text_encoder={
        "vocab_size": 648,  # as many as the small model's tokenizer has
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
    },
    text_encoder_2={
        "vocab_size": 147,
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 1,
        "num_heads": 2,
    },
    vae={
        "block_out_channels": (8, 8, 16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": 64,
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Where something is measured, and how large it is."""

    device: Device
    is_tiny: bool
    """Everything is small, and the figures mean nothing."""
    work: Path
    """What parts leave for one another."""
    tell: Callable[[str], None] = lambda _: None
    """Is told what is going on, a line at a time."""

    @property
    def architecture(self) -> Architecture:
        """The model."""
        return TINY if self.is_tiny else FLUX_DEV

    @property
    def side(self) -> int:
        """Of the pictures, in pixels."""
        return 64 if self.is_tiny else 1024

    @property
    def model(self) -> Path:
        """Where `write_model` puts it."""
        return self.work / "model"

    def fit(self, **changes: Any) -> Fit:
        """Return how it is fitted: one picture at a time, in the precision that glance chooses."""
        dtype = default_precision(self.device, stays_in_fp16=True)  # FLUX.1 does
        usual = {"device": self.device, "dtype": dtype}
        return Fit(**{**usual, "pixels": self.side**2, **changes})

    def pair(self) -> Mapping[Phase, Path]:
        """Return two random LoRAs as `glance distill` trains them, made if they are not there.

        Rank 16, on every linear layer of the blocks.
        """
        made, unfinished = self.work / _LORAS, self.work / f"{_LORAS}.unfinished"
        if not made.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            with torch.device("meta"):
                transformer = FluxTransformer2DModel(**self.architecture.transformer)
            make_loras(transformer, unfinished, _EVERY_BLOCK_LAYER)
            unfinished.rename(made)
        return {phase: made / phase / "pytorch_lora_weights.safetensors" for phase in Phase}


def build(here: Situation, fit: Fit, *, with_pair: bool = True) -> Loaded:
    """Return the model with its LoRAs, fitted to the machine by glance's own means.

    Of 4 bits it is read from the disk, where `write_model` has put it: bitsandbytes quantises what
    it loads. Raises what `load_pipeline` does.
    """
    loras = here.pair() if with_pair else {}
    if fit.quantize is Quantize.BIT4:
        return load_pipeline(BaseModel(find_family("flux"), str(here.model)), loras, fit)
    pipeline = make_pipeline(here.architecture, fit, home=_home(here.architecture, fit))
    return fit_pipeline(pipeline, loras, fit, name="the random model")


def make_pipeline(architecture: Architecture, fit: Fit, *, home: Device) -> FluxPipeline:
    """Return the model, its weights in `home`: random matrices, norms that change nothing.

    Of 8 bits each layer is quantised as soon as it is there, so that the unquantised model is
    nowhere whole.
    """
    # the tokenizers, and the ids that they end a text with
    small = FluxPipeline.from_pretrained(
        SMALL_MODEL, transformer=None, vae=None, text_encoder_2=None
    )
    clip = small.text_encoder.config
    ids = {name: getattr(clip, name) for name in _IDS}
    blocks = len(architecture.vae["block_out_channels"])
    with init_empty_weights(include_buffers=False):
        parts = {
            "transformer": FluxTransformer2DModel(**architecture.transformer),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(**architecture.text_encoder, hidden_act="quick_gelu", **ids)
            ),
            "text_encoder_2": T5EncoderModel(
                T5Config(
                    **architecture.text_encoder_2,
                    feed_forward_proj="gated-gelu",
                    is_encoder_decoder=False,
                )
            ),
            "vae": AutoencoderKL(
                **architecture.vae,
                latent_channels=16,
                down_block_types=("DownEncoderBlock2D",) * blocks,
                up_block_types=("UpDecoderBlock2D",) * blocks,
                scaling_factor=0.3611,
                shift_factor=0.1159,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
        }
    for name, part in parts.items():
        is_large = name in large_parts(find_family("flux"))
        _fill(part, fit, home=home, quantize=fit.quantize if is_large else Quantize.NONE)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(  # FLUX.1-dev's scheduler_config.json
            base_shift=0.5,
            max_shift=1.15,
            shift=3.0,
            use_dynamic_shifting=True,
            base_image_seq_len=256,
            max_image_seq_len=4096,
        ),
        tokenizer=small.tokenizer,
        tokenizer_2=small.tokenizer_2,
        **parts,
    )


def write_model(here: Situation) -> None:
    """Write the model in diffusers' layout, whole or not at all, unless it is there."""
    if here.model.exists():
        return
    unfinished = here.model.with_name("model.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    fit = here.fit()
    pipeline = make_pipeline(here.architecture, fit, home=_home(here.architecture, fit))
    pipeline.save_pretrained(unfinished)
    unfinished.rename(here.model)


def count_parameters(architecture: Architecture) -> Mapping[str, int]:
    """Return how many parameters each part has; nothing is made."""
    transformer = FluxTransformer2DModel
    with torch.device("meta"):
        parts = {
            "transformer": transformer(**architecture.transformer),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**architecture.text_encoder)),
            "text_encoder_2": T5EncoderModel(
                T5Config(**architecture.text_encoder_2, feed_forward_proj="gated-gelu")
            ),
        }
    return {name: sum(one.numel() for one in part.parameters()) for name, part in parts.items()}


def clock_of(device: Device) -> Callable[[], float]:
    """Return what tells the seconds on the wall, once the device has done what it was given."""
    return choose_clock(device.value) if device is Device.CUDA else time.perf_counter


def lacks_memory(exc: BaseException) -> bool:
    """Whether memory did not suffice, in torch's words or in glance's."""
    while exc is not None:
        if isinstance(exc, RuntimeError) and is_lack_of_memory(exc):
            return True
        exc = exc.__cause__  # type: ignore[assignment]  # None ends it
    return False


def _home(architecture: Architecture, fit: Fit) -> Device:
    """Return where weights are to be made: on the card, if that is where they will be kept."""
    if fit.device is not Device.CUDA or fit.memory is Memory.FULL:
        return fit.device
    if fit.memory is not Memory.AUTO:
        return Device.CPU
    number_bytes = 1 if fit.quantize is Quantize.BIT8 else DTYPES[fit.dtype].itemsize
    sizes = {name: one * number_bytes for name, one in count_parameters(architecture).items()}
    free, _ = torch.cuda.mem_get_info()
    chosen = choose_memory(sizes, free=free, activations=activation_bytes(fit.pixels))
    return Device.CUDA if chosen is Memory.FULL else Device.CPU


def _fill(part: torch.nn.Module, fit: Fit, *, home: Device, quantize: Quantize) -> None:
    generator = torch.Generator(fit.device.value).manual_seed(0)
    dtype = DTYPES[fit.dtype]
    for owner in part.modules():
        is_linear = isinstance(owner, torch.nn.Linear)
        for name, empty in owner._parameters.items():
            if empty is None:
                continue
            values = torch.empty(empty.shape, dtype=dtype, device=fit.device.value)
            if values.ndim > 1:
                values.normal_(std=_DEVIATION, generator=generator)
            else:
                values.fill_(0.0 if name.endswith("bias") else 1.0)
            kept = values if is_linear else values.to(home.value)
            owner._parameters[name] = torch.nn.Parameter(kept, requires_grad=False)
        if is_linear:
            quantize_loaded(owner, quantize)
            owner.to(home.value)
    if isinstance(part, T5EncoderModel):
        part.tie_weights()  # its embedding has two names
    part.to(home.value)  # buffers
    part.eval()
