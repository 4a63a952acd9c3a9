"""HiDream-I1: four text encoders, experts, and Llama from a model of its own."""

from typing import Final

from glance.models.families.family import (
    FLUX_VAE,
    Architecture,
    Borrowed,
    ComfyUI,
    Family,
    Guidance,
    Latents,
    Marks,
    Negative,
    Size,
    Text,
    Told,
    split_file,
)
from glance.schedule.shift import Spacing, StaticShift

_ATTENTION: Final = ("attn1.to_q", "attn1.to_k", "attn1.to_v")

FAMILY = Family(
    name="hidream",
    title="HiDream-I1",
    architecture=Architecture("hidream-i1"),
    simpletuner_name="hidream",
    pipeline="HiDreamImagePipeline",
    default_model="HiDream-ai/HiDream-I1-Full",
    size=Size(17.1, (0.12, 0.69, 4.76, 8.03)),
    distilled=("i1-dev", "i1-fast"),
    has_fixed_area=True,
    latents=Latents.GRID,
    told=Told.TIMESTEP,
    shift=StaticShift(3.0),  # ComfyUI's
    spacing=Spacing.SCHEDULER,
    text=Text(
        tokens=128,
        outputs=(
            "prompt_embeds_t5",
            "negative_prompt_embeds_t5",
            "prompt_embeds_llama3",
            "negative_prompt_embeds_llama3",
            "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds",
        ),
        negative=Negative.TOGETHER,
        batch_axes={
            "prompt_embeds_llama3": 1,
            "negative_prompt_embeds_llama3": 1,
        },  # layers come first,
    ),
    guidance=Guidance("guidance_scale", slow=5.0, fast=1.0),  # diffusers' default; none
    marks=Marks(
        diffusers=(
            "double_stream_blocks.0.block.adaLN_modulation.1.bias",
            "caption_projection.0.linear.weight",
        )
    ),
    lora_targets=_ATTENTION,
    block_layers=(
        *(*_ATTENTION, "attn1.to_out"),
        *("attn1.to_q_t", "attn1.to_k_t", "attn1.to_v_t", "attn1.to_out_t"),
        *("w1", "w2", "w3"),  # of every expert; what chooses among them is no linear layer
        "block.adaLN_modulation.1",  # the last layer of the model has one, too
    ),
    trains_on_mps=True,
    borrowed=Borrowed(
        "terminusresearch/HiDream-I1-Llama-3.1-8B-Instruct",
        {"text_encoder_4": "LlamaForCausalLM", "tokenizer_4": "PreTrainedTokenizerFast"},
    ),
    comfyui=ComfyUI(
        weighs_words=True,
        model_id="hidream-i1-full",
        model=split_file(
            "hidream_i1_full_fp8.safetensors", "diffusion_models", "HiDream-I1_ComfyUI"
        ),
        text_encoders=tuple(
            split_file(name, "text_encoders", "HiDream-I1_ComfyUI")
            for name in (
                "clip_l_hidream.safetensors",
                "clip_g_hidream.safetensors",
                "t5xxl_fp8_e4m3fn_scaled.safetensors",
                "llama_3.1_8b_instruct_fp8_scaled.safetensors",
            )
        ),
        vae=FLUX_VAE,
    ),
)
