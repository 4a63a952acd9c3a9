"""Two-phase sampling written out by hand, one function a family: x += (next sigma - sigma) * v.

It shares no code with glance, and of diffusers uses only the models and their packing. Pipelines
carry the adapters `slow` and `fast`.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

SLOW = (1000.0, 979.1915, 957.5157, 934.9171, 911.3354)
FAST = (886.7053, 745.0728, 562.9505, 320.0802, 20.0)
SIDE = 64
Velocity = Callable[[Tensor, Tensor, float], Tensor]
"""Of latents, a sigma (1,) and a guidance scale."""


@torch.inference_mode()
def paint(
    family: str, pipeline: Any, prompt: str, *, seed: int, guidance: tuple[float, float]
) -> Any:
    """Return the picture of `prompt` that ten plain Euler steps make of the seed's noise."""
    latents = sample(family, pipeline, prompt, seed=seed, guidance=guidance)
    decoded = pipeline.vae.decode(_DECODED[family](pipeline, latents), return_dict=False)[0]
    if decoded.ndim == 5:  # a video VAE's: one frame
        decoded = decoded[:, :, 0]
    return pipeline.image_processor.postprocess(decoded, output_type="pil")[0]


@torch.inference_mode()
def sample(
    family: str, pipeline: Any, prompt: str, *, seed: int, guidance: tuple[float, float]
) -> Tensor:
    """Return the latents, as the family packs them."""
    generator = torch.Generator("cpu").manual_seed(seed)
    x, velocity = _BEGUN[family](pipeline, prompt, generator)
    sigmas = torch.tensor([timestep / 1000 for timestep in (*SLOW, *FAST, 0.0)])
    for step, (now, then) in enumerate(pairwise(sigmas)):
        is_slow = step < len(SLOW)
        pipeline.set_adapters("slow" if is_slow else "fast")
        x = x + (then - now) * velocity(x, now[None], guidance[0] if is_slow else guidance[1])
    return x


def _flux(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    embeds, pooled, text_ids = pipeline.encode_prompt(prompt, None)
    noise = torch.randn(1, 16, SIDE // 8, SIDE // 8, generator=generator)
    ids = pipeline._prepare_latent_image_ids(1, SIDE // 16, SIDE // 16, "cpu", torch.float32)

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        return pipeline.transformer(
            hidden_states=x,
            timestep=sigma,
            guidance=torch.tensor([guidance]),  # the transformer is told
            pooled_projections=pooled,
            encoder_hidden_states=embeds,
            txt_ids=text_ids,
            img_ids=ids,
            return_dict=False,
        )[0]

    return pipeline._pack_latents(noise, 1, 16, SIDE // 8, SIDE // 8), velocity


def _sd3(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    # SimpleTuner reads 154 tokens
    embeds, negative, pooled, negative_pooled = pipeline.encode_prompt(
        prompt, None, None, max_sequence_length=154
    )

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        if guidance <= 1:
            return forward(x, sigma, embeds, pooled)
        both = forward(
            torch.cat([x, x]),
            sigma.expand(2),
            torch.cat([negative, embeds]),
            torch.cat([negative_pooled, pooled]),
        )
        without, with_ = both.chunk(2)
        return without + guidance * (with_ - without)

    def forward(x: Tensor, sigma: Tensor, embeds: Tensor, pooled: Tensor) -> Tensor:
        return pipeline.transformer(
            hidden_states=x,
            timestep=sigma * 1000,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            return_dict=False,
        )[0]

    return torch.randn(1, 16, SIDE // 8, SIDE // 8, generator=generator), velocity


def _qwen_image(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    embeds, _ = pipeline.encode_prompt(prompt)
    negative, _ = pipeline.encode_prompt("")
    noise = torch.randn(1, 1, 16, SIDE // 8, SIDE // 8, generator=generator)

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        with_ = forward(x, sigma, embeds)
        if guidance <= 1:
            return with_
        without = forward(x, sigma, negative)
        guided = without + guidance * (with_ - without)
        return guided * (with_.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    def forward(x: Tensor, sigma: Tensor, embeds: Tensor) -> Tensor:
        return pipeline.transformer(
            hidden_states=x,
            timestep=sigma,
            encoder_hidden_states=embeds,
            img_shapes=[[(1, SIDE // 16, SIDE // 16)]],
            return_dict=False,
        )[0]

    return pipeline._pack_latents(noise, 1, 16, SIDE // 8, SIDE // 8), velocity


def _z_image(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    embeds, negative = pipeline.encode_prompt(prompt)  # lists

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        if guidance <= 0:
            return forward(x, sigma, embeds)
        with_, without = forward(torch.cat([x, x]), sigma.expand(2), embeds + negative).chunk(2)
        return with_ + guidance * (with_ - without)

    def forward(x: Tensor, sigma: Tensor, embeds: list[Tensor]) -> Tensor:
        time = (1000 - sigma * 1000) / 1000  # 0 is noise
        frames = list(x.unsqueeze(2).unbind(0))
        return -torch.stack(pipeline.transformer(frames, time, embeds, return_dict=False)[0])[
            :, :, 0
        ]

    return torch.randn(1, 16, SIDE // 8, SIDE // 8, generator=generator), velocity


def _lumina2(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    embeds, mask, negative, negative_mask = pipeline.encode_prompt(prompt)

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        with_ = forward(x, sigma, embeds, mask)
        if guidance <= 1:
            return -with_
        without = forward(x, sigma, negative, negative_mask)
        guided = without + guidance * (with_ - without)
        return -guided * (with_.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    def forward(x: Tensor, sigma: Tensor, embeds: Tensor, mask: Tensor) -> Tensor:
        return pipeline.transformer(
            hidden_states=x,
            timestep=1 - sigma * 1000 / 1000,  # 0 is noise
            encoder_hidden_states=embeds,
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]

    return torch.randn(1, 16, SIDE // 8, SIDE // 8, generator=generator), velocity


def _krea2(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    said, unsaid = pipeline.encode_prompt(prompt), pipeline.encode_prompt("")
    noise = torch.randn(1, 16, SIDE // 8, SIDE // 8, generator=generator)
    places = pipeline.prepare_position_ids(said[0].shape[1], SIDE // 16, SIDE // 16, "cpu")

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        with_ = forward(x, sigma, *said)
        if guidance <= 0:
            return with_
        return with_ + guidance * (with_ - forward(x, sigma, *unsaid))

    def forward(x: Tensor, sigma: Tensor, embeds: Tensor, mask: Tensor) -> Tensor:
        return pipeline.transformer(
            hidden_states=x,
            encoder_hidden_states=embeds,
            timestep=sigma * 1000 / 1000,
            position_ids=places,
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]

    return pipeline._pack_latents(noise, 1, 16, SIDE // 8, SIDE // 8), velocity


def _unscaled(pipeline: Any, latents: Tensor) -> Tensor:
    config = pipeline.vae.config
    return latents / config.scaling_factor + config.shift_factor


def _unpacked(pipeline: Any, latents: Tensor) -> Tensor:
    return _unscaled(
        pipeline, pipeline._unpack_latents(latents, SIDE, SIDE, pipeline.vae_scale_factor)
    )


def _unpacked_unnormalised(pipeline: Any, latents: Tensor) -> Tensor:
    return _unnormalised(
        pipeline, pipeline._unpack_latents(latents, SIDE, SIDE, pipeline.vae_scale_factor)
    )


def _krea2_unpacked(pipeline: Any, latents: Tensor) -> Tensor:
    return _unnormalised(pipeline, pipeline._unpack_latents(latents, SIDE, SIDE))


def _unnormalised(pipeline: Any, unpacked: Tensor) -> Tensor:
    config = pipeline.vae.config
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    return unpacked / (1.0 / std) + mean  # as diffusers rounds it


_BEGUN = {
    "flux": _flux,
    "sd3": _sd3,
    "qwen_image": _qwen_image,
    "z_image": _z_image,
    "lumina2": _lumina2,
    "krea2": _krea2,
}
_DECODED = {
    "flux": _unpacked,
    "sd3": _unscaled,
    "qwen_image": _unpacked_unnormalised,
    "z_image": _unscaled,
    "lumina2": _unscaled,
    "krea2": _krea2_unpacked,
}
FAMILIES = tuple(_BEGUN)
