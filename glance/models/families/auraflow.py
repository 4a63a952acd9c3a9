"""AuraFlow 0.1 to 0.3: an open flow model with SDXL's VAE."""

from glance.models.families.family import (
    JOINT_ATTENTION,
    Architecture,
    Borrowed,
    ComfyFile,
    ComfyUI,
    Family,
    Guidance,
    Latents,
    Marks,
    Negative,
    Size,
    Text,
    Told,
)
from glance.schedule.shift import Spacing, StaticShift

FAMILY = Family(
    name="auraflow",
    title="AuraFlow",
    architecture=Architecture("auraflow-v1"),
    simpletuner_name="auraflow",
    pipeline="AuraFlowPipeline",
    default_model="terminusresearch/auraflow-v0.3",
    size=Size(6.83, (1.22,)),
    stays_in_fp16=True,
    latents=Latents.GRID,
    told=Told.SIGMA,
    shift=StaticShift(1.73),  # ComfyUI's
    spacing=Spacing.SCHEDULER,
    text=Text(
        tokens=120,  # SimpleTuner's; diffusers' own default is 256
        outputs=(
            "prompt_embeds",
            "prompt_attention_mask",
            "negative_prompt_embeds",
            "negative_prompt_attention_mask",
        ),
        negative=Negative.TOGETHER,
        arguments={"max_sequence_length": 120},
    ),
    guidance=Guidance("guidance_scale", slow=3.5, fast=1.0),  # diffusers' default; none
    marks=Marks(
        diffusers=("joint_transformer_blocks.0.attn.to_q.weight", "register_tokens"),
        original=("double_layers.0.attn.w2q.weight", "cond_seq_linear.weight"),
    ),
    lora_targets=JOINT_ATTENTION,
    block_layers=(
        *JOINT_ATTENTION,
        *("ff.linear_1", "ff.linear_2", "ff.out_projection"),
        *("ff_context.linear_1", "ff_context.linear_2", "ff_context.out_projection"),
        *("norm1.linear", "norm1_context.linear"),
    ),
    trains_on_mps=True,
    borrowed=Borrowed("terminusresearch/auraflow-v0.3"),  # its text encoder
    comfyui=ComfyUI(
        weighs_words=True,
        model_id="auraflow-v0.3",
        model=ComfyFile("aura_flow_0.3.safetensors", "checkpoints", "fal/AuraFlow-v0.3"),
        latent="EmptyLatentImage",
    ),
)
