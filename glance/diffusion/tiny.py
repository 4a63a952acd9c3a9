"""A FLUX-shaped model with random weights, a few hundred kilobytes, made in seconds.

It exists so that tests can run real SimpleTuner and real diffusers where no checkpoint and no
accelerator is. Its pictures are noise; the model in `glance/assets` paints.
"""

import string
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

_TEXT_WIDTH = 32
_LATENT_CHANNELS = 16


def build_tiny_flux(folder: Path, *, seed: int = 0) -> Path:
    """Write a random FluxPipeline in diffusers layout to `folder` and return it.

    The parts are FLUX.1-dev's (16 latent channels, 2x2 packing, embedded guidance, dynamic
    shift), only narrow. The same seed gives the same weights; the global random state is left
    as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(
                # FLUX.1-dev's scheduler_config.json
                base_shift=0.5,
                max_shift=1.15,
                base_image_seq_len=256,
                max_image_seq_len=4096,
                shift=3.0,
                use_dynamic_shifting=True,
            ),
            vae=_vae(),
            text_encoder=_clip(),
            tokenizer=_clip_tokenizer(),
            text_encoder_2=_t5(),
            tokenizer_2=_t5_tokenizer(),
            transformer=_transformer(),
        )
    pipeline.save_pretrained(folder)
    return folder


def _transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=_LATENT_CHANNELS * 4,  # 2x2 latent pixels are packed into one token
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=_TEXT_WIDTH,
        pooled_projection_dim=_TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),  # sums to attention_head_dim
    ).eval()


def _vae() -> AutoencoderKL:
    widths = (8, 8, 16, 16)  # four levels: 8x down, as FLUX
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=_LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.3611,  # FLUX.1-dev's vae/config.json
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


def _clip() -> CLIPTextModel:
    tokenizer = _clip_tokenizer()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_TEXT_WIDTH,
            intermediate_size=2 * _TEXT_WIDTH,
            projection_dim=_TEXT_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()


def _t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(_t5_tokenizer()),
            d_model=_TEXT_WIDTH,
            d_kv=16,
            d_ff=2 * _TEXT_WIDTH,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    ).eval()


def _clip_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level tokenizer without a single merge: any text, one token a byte."""
    bytes_ = sorted(ByteLevel.alphabet())
    pieces = [
        *bytes_,
        *(f"{byte}</w>" for byte in bytes_),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def _t5_tokenizer() -> T5Tokenizer:
    """T5's unigram tokenizer over printable ASCII: one token a character."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -4.0) for letter in string.printable.strip()]
    return T5Tokenizer(vocab=[*special, *letters], extra_ids=0, model_max_length=512)
