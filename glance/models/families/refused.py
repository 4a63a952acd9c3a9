"""What is not supported, and why: models that people may bring, and families of SimpleTuner."""

from dataclasses import dataclass
from typing import Final

_NOISE = "it is no flow model: it predicts noise at DDPM timesteps, which no list of sigmas names"
_OWN_LEVELS = "SimpleTuner 4.10 draws its noise levels itself and never reads a list"
_NO_SIGMAS = "its diffusers pipeline takes no sigmas, so a list cannot be sampled"
_NO_PIPELINE = "diffusers has no pipeline for it"


@dataclass(frozen=True, slots=True)
class Refused:
    """Models that are not supported."""

    title: str
    reason: str
    names: tuple[str, ...] = ()
    """SimpleTuner's, of the family."""
    pipelines: tuple[str, ...] = ()
    """Of diffusers, as a model's index names them."""


REFUSED: Final = (
    Refused("Stable Diffusion 1.5 and 2", _NOISE, ("sd1x", "sd2x"), ("StableDiffusionPipeline",)),
    Refused("SDXL", _NOISE, ("sdxl",), ("StableDiffusionXLPipeline",)),
    Refused("Kolors", _NOISE, ("kolors",), ("KolorsPipeline",)),
    Refused("PixArt", _NOISE, ("pixart",), ("PixArtSigmaPipeline", "PixArtAlphaPipeline")),
    Refused("Hunyuan-DiT", _NOISE, (), ("HunyuanDiTPipeline",)),
    Refused("Stable Cascade", _NOISE, ("stable_cascade",), ("StableCascadeCombinedPipeline",)),
    Refused("DeepFloyd IF", _NOISE, ("deepfloyd",), ("IFPipeline",)),
    Refused(
        "FLUX.1 Kontext",
        "SimpleTuner 4.10 tells the reference image timestep 0 where diffusers tells it the "
        "generated one's, so what is trained is not what is sampled",
        (),
        ("FluxKontextPipeline",),
    ),
    Refused(
        "Qwen-Image-Edit",
        "SimpleTuner 4.10 writes the place of the reference into the prompt twice, and ends before "
        "its first step; 2509 and 2511 are supported",
        (),
        ("QwenImageEditPipeline",),
    ),
    Refused(
        "Qwen-Image 2.1",
        "it is another architecture than Qwen-Image, to which SimpleTuner adds a LoRA and a VAE of "
        "its own; not proven here",
        (),
        ("QwenImage21Pipeline",),
    ),
    Refused("Sana", _OWN_LEVELS, ("sana",), ("SanaPipeline",)),
    Refused("OmniGen", _OWN_LEVELS, ("omnigen",), ("OmniGenPipeline",)),
    Refused("Ideogram 4", _OWN_LEVELS, ("ideogram",), ("Ideogram4Pipeline",)),
    Refused("ERNIE-Image", _NO_SIGMAS, ("ernie",), ("ErnieImagePipeline",)),
    Refused("Kandinsky 5", _NO_SIGMAS, ("kandinsky5_image",), ("Kandinsky5T2IPipeline",)),
    Refused("Cosmos", "it predicts the sample, not the velocity, and takes no sigmas", ("cosmos",)),
    Refused("Cosmos 3", _NO_SIGMAS, ("cosmos3",), ("Cosmos3OmniPipeline",)),
    Refused(
        "LongCat-Image",
        "its diffusers pipeline loads no LoRAs",
        ("longcat_image",),
        ("LongCatImagePipeline",),
    ),
    Refused(
        "Z-Image-Omni",
        "there are no released weights to prove it with",
        ("z_image_omni",),
        ("ZImageOmniPipeline",),
    ),
    Refused("Anima", _NO_PIPELINE, ("anima",)),
    Refused("Boogu-Image", _NO_PIPELINE, ("boogu_image",)),
    Refused("FLUX.3", _NO_PIPELINE, ("flux3_image",)),
    Refused("MageFlow", _NO_PIPELINE, ("mageflow",)),
    Refused("MOSS-Image", _NO_PIPELINE, ("moss_image",)),
    Refused("ZLab I1", _NO_PIPELINE, ("zlab_i1",)),
    Refused(
        "Video and music",
        "the method makes single images",
        (
            *("ace_step", "heartmula", "hunyuanvideo", "infinitetalk", "kandinsky5_video"),
            *("longcat_video", "ltxvideo", "ltxvideo2", "minimaxh3", "minimaxmusic"),
            *("sanavideo", "wan", "wan_s2v"),
        ),
    ),
)
