"""Narrow parts that several families are built of."""

from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    LlamaConfig,
    LlamaForCausalLM,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tiny_models.vocabularies import (
    clip_tokenizer,
    gemma_tokenizer,
    llama_tokenizer,
    qwen_tokenizer,
    t5_tokenizer,
)

TEXT_WIDTH = 32
LATENT_CHANNELS = 16


def scheduler(**changes: Any) -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1-dev's scheduler_config.json, but for what is changed."""
    return FlowMatchEulerDiscreteScheduler(
        **{
            **{"base_shift": 0.5, "max_shift": 1.15, "shift": 3.0, "use_dynamic_shifting": True},
            **{"base_image_seq_len": 256, "max_image_seq_len": 4096, **changes},
        }
    )


def vae(
    *,
    scaling_factor: float = 0.3611,  # FLUX.1's vae/config.json
    shift_factor: float | None = 0.1159,
    latent_channels: int = LATENT_CHANNELS,
    quant_conv: bool = False,
) -> AutoencoderKL:
    widths = (8, 8, 16, 16)  # four levels: 8x down
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=quant_conv,
        use_post_quant_conv=quant_conv,
    ).eval()


def video_vae() -> AutoencoderKLQwenImage:
    """Qwen-Image's; its latents' means and deviations are the class's defaults."""
    made = AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4, 4],  # four levels: 8x down
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    ).eval()
    # As good as certain of its latents, as trained ones are: SimpleTuner draws a reference's from
    # what the VAE takes for likely, diffusers takes the mean.
    with torch.no_grad():
        made.quant_conv.weight[LATENT_CHANNELS:] = 0
        made.quant_conv.bias[LATENT_CHANNELS:] = -30  # logarithms of variances
    return made


def clip() -> CLIPTextModel:
    return CLIPTextModel(_clip_config(77)).eval()


def clip_with_projection(*, tokens: int = 77) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(_clip_config(tokens)).eval()


def _clip_config(tokens: int) -> CLIPTextConfig:
    tokenizer = clip_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def t5(*, width: int = TEXT_WIDTH) -> T5EncoderModel:
    return T5EncoderModel(T5Config(**_t5(t5_tokenizer(), width))).eval()


def umt5() -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(**_t5(llama_tokenizer(), TEXT_WIDTH))).eval()


def _t5(tokenizer: Any, width: int) -> dict[str, Any]:
    sizes = {"d_model": width, "d_kv": 16, "d_ff": 2 * width, "num_layers": 1, "num_heads": 2}
    return {"vocab_size": len(tokenizer), "feed_forward_proj": "gated-gelu", **sizes}


def qwen3(*, width: int, layers: int) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(
        Qwen3Config(**_language_model(qwen_tokenizer(), width, layers), tie_word_embeddings=True)
    ).eval()


def qwen2_5_vl() -> Qwen2_5_VLForConditionalGeneration:
    tokenizer = qwen_tokenizer()
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                **_language_model(tokenizer, TEXT_WIDTH, 2),
                "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default"},
                "rope_theta": 1000000.0,
            },
            vision_config=_eye(TEXT_WIDTH),
            **_picture_tokens(tokenizer),
        )
    ).eval()


def qwen3_vl(*, width: int, layers: int) -> Qwen3VLModel:
    tokenizer = qwen_tokenizer()
    return Qwen3VLModel(
        Qwen3VLConfig(
            text_config={
                **_language_model(tokenizer, width, layers),
                "rope_scaling": {"mrope_section": [2, 1, 1], "rope_type": "default"},
                "rope_theta": 5000000.0,
            },
            vision_config={
                **_eye(width),
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
            **_picture_tokens(tokenizer),
        )
    ).eval()


def gemma2() -> Gemma2Model:
    return Gemma2Model(
        Gemma2Config(
            **_language_model(gemma_tokenizer(), TEXT_WIDTH, 2),
            query_pre_attn_scalar=16,
            sliding_window=256,
        )
    ).eval()


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**_language_model(llama_tokenizer(), TEXT_WIDTH, 2))).eval()


def _language_model(tokenizer: Any, width: int, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,  # grouped, as in all of them
        "head_dim": width // 2,
        "max_position_embeddings": 4096,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _eye(width: int) -> dict[str, int]:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "out_hidden_size": width}
    return {"depth": 1, "num_heads": 2, **sizes}


def _picture_tokens(tokenizer: Any) -> dict[str, int]:
    names = ("vision_start", "vision_end", "image_pad", "video_pad")
    start, end, image, video = tokenizer.convert_tokens_to_ids([f"<|{name}|>" for name in names])
    return {
        "vision_start_token_id": start,
        "vision_end_token_id": end,
        "image_token_id": image,
        "video_token_id": video,
    }


def mistral3(*, width: int, layers: int, image_token: int) -> Mistral3ForConditionalGeneration:
    """The language model of Mistral-Small-3.1, and the eye that it has, too."""
    return Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config={
                "model_type": "mistral",
                "vocab_size": 512,
                "hidden_size": width,
                "intermediate_size": width,
                "num_hidden_layers": layers,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": width // 2,
                "max_position_embeddings": 1024,
            },
            vision_config={
                "model_type": "pixtral",
                "hidden_size": width,
                "intermediate_size": width,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "head_dim": width // 2,
                "image_size": 64,
                "patch_size": 16,
            },
            image_token_index=image_token,
        )
    ).eval()
