"""Does an exported workflow, run by ComfyUI's own nodes and model code, sample what glance samples?

With the small FLUX of the package: its weights are converted by ComfyUI itself, its LoRAs loaded
from exported files by ComfyUI's loader. Loading, text and VAE are handed over from diffusers.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import glance
from glance.core.device import Device, Precision
from glance.core.phase import Phase
from glance.interop.comfyui import to_comfyui
from glance.models.base import BaseModel
from glance.models.families import FAMILIES
from glance.models.lora.file import UP, Lora, Tensor, write_lora
from glance.sampling.comfyui import Graph, Job, Link, Node, build_workflow, guess_model
from glance.sampling.pipeline.glance_pipeline import GlancePipeline
from glance.sampling.pipeline.load import Fit, load_pipeline
from glance.sampling.pipeline.sample import encode
from glance.sampling.settings import SampleSettings, resolve_sample_settings
from glance.schedule.lists import PRESETS
from scripts.comfyui.checkout import Checkout
from scripts.comfyui.lora_keys import make_lora

FAMILY = FAMILIES["flux"]
MODEL = Path(glance.__file__).parent / "assets/small-flux"
UNET_CONFIG = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 64,
    "context_in_dim": 64,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 4,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
}


@dataclass(frozen=True, slots=True)
class Difference:
    """How far ComfyUI's latents are from glance's, at most, and how large those are on average."""

    handed_over: float
    final: float
    size: float
    change: float
    """What the LoRAs change in the final latents, on average: it must not be lost in that."""


def prove_sampling(checkout: Checkout, **asked: Any) -> Difference:
    """Generate one picture with both; `asked` are sample settings."""
    settings = resolve_sample_settings(
        FAMILY, resolution=64, **{"prompt": "a red house under a yellow moon", **asked}
    )
    schedule = PRESETS["guide"].schedule
    with tempfile.TemporaryDirectory() as folder:
        loras = _write_loras(Path(folder))
        fit = Fit(device=Device.CPU, dtype=Precision.FP32)
        loaded = load_pipeline(BaseModel(FAMILY, str(MODEL)), loras, fit)
        pipeline = GlancePipeline(
            loaded.pipeline, family=FAMILY, schedule=schedule, switch=loaded.switch
        )
        ours, without = (
            _generate(pipeline, settings.model_copy(update={"loras": used}))
            for used in (tuple(Phase), ())
        )
        job = Job(
            family=FAMILY,
            model=guess_model(FAMILY, FAMILY.default_model),
            loras={phase: f"comfyui-{phase}.safetensors" for phase in Phase},
            schedule=schedule,
            settings=settings,
        )
        theirs = _Comfy(checkout, loaded.pipeline, settings).run(build_workflow(job), Path(folder))
    pairs = zip(theirs, ours, strict=True)
    handed_over, final = (float((one - other).abs().max()) for one, other in pairs)
    return Difference(
        handed_over, final, float(ours[1].abs().mean()), float((ours[1] - without[1]).abs().mean())
    )


def _write_loras(folder: Path) -> dict[Phase, Path]:
    """Write two LoRAs that change the picture well, for diffusers and for ComfyUI."""
    model = _transformer()
    paths = {}
    for phase, strength in zip(Phase, (0.05, -0.05), strict=True):
        made = make_lora(model, FAMILY)
        scaled = {
            key: tensor.scaled(strength) if key.endswith(UP) else tensor
            for key, tensor in made.tensors.items()
        }
        lora = Lora(_ordered(scaled), {"format": "pt"})
        paths[phase] = folder / f"{phase}.safetensors"
        write_lora(lora, paths[phase])
        write_lora(to_comfyui(lora, FAMILY), folder / f"comfyui-{phase}.safetensors")
    return paths


def _ordered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(sorted(tensors.items()))


def _transformer() -> Any:
    import diffusers

    return diffusers.FluxTransformer2DModel.from_pretrained(MODEL / "transformer")


def _generate(
    pipeline: GlancePipeline, settings: SampleSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return glance's latents as they are handed over and at the end, as the model has them."""
    kept: list[torch.Tensor] = []
    pipe = pipeline.pipeline
    decode = pipe.vae.decode

    def keep(latents: torch.Tensor, **options: Any) -> Any:
        kept.append(latents.float())
        return decode(latents, **options)

    pipe.vae.decode = keep
    try:
        (batch,) = pipeline.sample_each([settings])
    finally:
        pipe.vae.decode = decode
    packed = batch.images[0].latents.float()
    grid = pipe._unpack_latents(packed, settings.height, settings.width, pipe.vae_scale_factor)
    config = pipe.vae.config
    return grid, (kept[0] - config.shift_factor) * config.scaling_factor


class _Comfy:
    """ComfyUI, in which the small FLUX lies."""

    def __init__(self, checkout: Checkout, pipeline: Any, settings: SampleSettings) -> None:
        """Convert the model with ComfyUI's own code, and encode the prompts with diffusers'."""
        self._checkout = checkout
        self._settings = settings
        supported = checkout.module("comfy.supported_models")
        config = supported.Flux(dict(UNET_CONFIG))
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "", device="cpu")
        weights = {name: one.float() for name, one in _transformer().state_dict().items()}
        converted = checkout.module("comfy.model_detection").convert_diffusers_mmdit(weights, "")
        model.diffusion_model.load_state_dict(converted)
        patcher = checkout.module("comfy.model_patcher").ModelPatcher
        cpu = torch.device("cpu")
        self._model = patcher(model, load_device=cpu, offload_device=cpu)
        self._model.weight_inplace_update = False
        with torch.inference_mode():
            encoded = encode(pipeline, FAMILY, settings)
        self._conditions = {
            prompt: [
                [
                    encoded[f"{prefix}prompt_embeds"].float(),
                    {"pooled_output": encoded[f"{prefix}pooled_prompt_embeds"].float()},
                ]
            ]
            for prefix, prompt in (("", settings.prompt), ("negative_", settings.negative_prompt))
            if f"{prefix}prompt_embeds" in encoded
        }

    def run(self, graph: Graph, loras: Path) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the workflow node by node; return the latents handed over, and those at the end.

        As the model has them: a sampler gives them as the VAE takes them, and those that it leaves
        at a sigma divided by 1 - sigma, which the next one multiplies by again.
        """
        self._checkout.module("folder_paths").add_model_folder_path("loras", str(loras))
        self._checkout.module("folder_paths").filename_list_cache.clear()
        made: dict[int, tuple[Any, ...]] = {}
        sampled = []
        with torch.inference_mode():
            for node in graph.nodes:
                inputs = {
                    name: made[value.node][value.slot] if isinstance(value, Link) else value
                    for name, value in node.inputs.items()
                }
                made[node.id] = self._outputs(node, inputs)
                if node.kind == "SamplerCustomAdvanced":
                    sampled.append(made[node.id][0]["samples"])
        handed_over, final = (self._model.model.process_latent_in(one) for one in sampled)
        sigma = PRESETS["guide"].schedule.phase(Phase.SLOW).end_sigma
        return handed_over * (1 - sigma), final

    def _outputs(self, node: Node, inputs: dict[str, Any]) -> tuple[Any, ...]:
        match node.kind:
            case "UNETLoader":
                return (self._model,)
            case "CLIPTextEncode":
                return (self._conditions[inputs["text"]],)
            case "DualCLIPLoader" | "VAELoader" | "VAEDecode" | "SaveImage":
                return (None,)
            case kind:
                return self._checkout.run(kind, **inputs)
