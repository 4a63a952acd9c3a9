"""Two-phase sampling as ComfyUI's nodes: which ones, linked how, with which values."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Final

from glance.core.phase import Phase
from glance.models.families import Family, Negative
from glance.models.families.comfyui import ComfyFile, ComfyUI
from glance.sampling.comfyui.graph import Graph, Link
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import MAX_TIMESTEP, Schedule

_TEXT_LOADERS: Final = {1: "CLIPLoader", 2: "DualCLIPLoader", 4: "QuadrupleCLIPLoader"}
_MODELS, _PROMPT, _PICTURE = "Models", "Prompt, noise and sigmas", "Picture"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is painted, by the names that ComfyUI's folders have for it."""

    family: Family
    model: ComfyFile
    loras: Mapping[Phase, str]
    """File names in models/loras; a phase that has none runs on the base model."""
    schedule: Schedule
    settings: SampleSettings
    name: str = "glance"
    """What the pictures are called."""
    reference: str | None = None
    """File name in ComfyUI's input folder, for a family that edits."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: Link
    clip: Link
    vae: Link


@dataclass(frozen=True, slots=True)
class _Conditions:
    positive: Link
    negative: Link | None


def guess_model(family: Family, model: str, transformer: str | None = None) -> ComfyFile:
    """Return the file in ComfyUI's folders that a base model is: known, or called like it.

    `model` is a Hub id or a folder, `transformer` the single file in place of its transformer.
    """
    if transformer is not None:
        return ComfyFile(PurePosixPath(transformer).name, "diffusion_models")
    known = family.comfyui.find_model(model)
    if known is not None:
        return known
    name = PurePosixPath(model).name.strip(".") or family.name
    return ComfyFile(f"{name}.safetensors", family.comfyui.model.folder)


def build_workflow(job: Job) -> Graph:
    """Return the graph: ManualSigmas, split where the phases meet, and two samplers.

    The first adds the noise and leaves off at the second's first sigma; what it gives is not the
    picture that it foresees but the noisy latents, which the second takes without noise of its
    own. No model-sampling node is needed: ComfyUI's flow models take sigmas as they are.
    """
    graph = Graph()
    graph.group = _MODELS
    loaded = _load(graph, job)
    graph.group = _PROMPT
    conditions = _encode(graph, job, loaded)
    width, height = job.settings.width, job.settings.height
    (latent,) = graph.add(job.family.comfyui.latent, width=width, height=height, batch_size=1)
    (noise,) = graph.add("RandomNoise", noise_seed=job.settings.seed)
    (sampler,) = graph.add("KSamplerSelect", sampler_name="euler")
    (sigmas,) = graph.add("ManualSigmas", title="Sigmas", sigmas=format_sigmas(job.schedule))
    steps = len(job.schedule.phase(Phase.SLOW).timesteps)
    halves = graph.add("SplitSigmas", title="Hand-over", sigmas=sigmas, step=steps)
    for phase, part in zip(Phase, halves, strict=True):
        graph.group = describe_phase(job.schedule, phase)
        guider = _guide(graph, job, phase, loaded.model, conditions)
        if phase is Phase.FAST:
            (noise,) = graph.add("DisableNoise")
        latent, _ = graph.add(
            "SamplerCustomAdvanced",
            title=f"{phase.value.capitalize()} phase",
            noise=noise,
            guider=guider,
            sampler=sampler,
            sigmas=part,
            latent_image=latent,
        )
    graph.group = _PICTURE
    (image,) = graph.add("VAEDecode", samples=latent, vae=loaded.vae)
    graph.add("SaveImage", images=image, filename_prefix=job.name)
    return graph


def format_sigmas(schedule: Schedule) -> str:
    """Return both phases' sigmas and the last 0, as people write them.

    ManualSigmas' parser knows no exponents; it reads them as float32, which these digits decide.
    """
    timesteps = [step for phase in Phase for step in schedule.phase(phase).timesteps]
    sigmas = [Decimal(repr(step)) / round(MAX_TIMESTEP) for step in timesteps]
    return ", ".join([*(f"{sigma.normalize():f}" for sigma in sigmas), "0"])


def describe_phase(schedule: Schedule, phase: Phase) -> str:
    """Return a group's title: the phase, and from which sigma to which it goes."""
    part = schedule.phase(phase)
    return f"{phase.value.capitalize()} phase: sigma {part.sigmas[0]:g} to {part.end_sigma:g}"


def _load(graph: Graph, job: Job) -> _Loaded:
    facts, file = job.family.comfyui, job.model
    if file.folder == "checkpoints":
        return _Loaded(*graph.add("CheckpointLoaderSimple", files=(file,), ckpt_name=file.name))
    (model,) = graph.add(
        "UNETLoader", files=(file,), title="Base model", unet_name=file.name, weight_dtype="default"
    )
    encoders = facts.text_encoders
    names = [encoder.name for encoder in encoders]
    inputs: dict[str, str] = (
        {f"clip_name{number}": name for number, name in enumerate(names, 1)}
        if len(names) > 1
        else {"clip_name": names[0]}
    )
    if facts.text_type:
        inputs |= {"type": facts.text_type, "device": "default"}
    (clip,) = graph.add(_TEXT_LOADERS[len(names)], title="Text encoder", files=encoders, **inputs)
    assert facts.vae is not None  # only a checkpoint brings its own
    (vae,) = graph.add("VAELoader", files=(facts.vae,), vae_name=facts.vae.name)
    return _Loaded(model, clip, vae)


def _encode(graph: Graph, job: Job, loaded: _Loaded) -> _Conditions:
    settings, image = job.settings, None
    if job.family.edits:
        image, _ = graph.add("LoadImage", title="Reference", image=job.reference or "reference.png")
    facts = job.family.comfyui
    texts = {"Prompt": facts.prompt_prefix + settings.prompt}
    if settings.needs_negative(job.family):  # the pipeline puts nothing before this one
        texts["Negative prompt"] = settings.negative_prompt
    links = [_encode_text(graph, facts, loaded, it, image) for it in texts.items()]
    return _Conditions(links[0], links[1] if len(links) > 1 else None)


def _encode_text(
    graph: Graph, facts: ComfyUI, loaded: _Loaded, named: tuple[str, str], image: Link | None
) -> Link:
    title, text = named
    if facts.weighs_words:
        text = text.replace("(", r"\(").replace(")", r"\)")
    if image is None:
        return graph.add("CLIPTextEncode", title=title, text=text, clip=loaded.clip)[0]
    (condition,) = graph.add(
        "TextEncodeQwenImageEditPlus",
        title=title,
        clip=loaded.clip,
        prompt=text,
        vae=loaded.vae,
        image1=image,
    )
    if facts.reference_method:
        (condition,) = graph.add(
            "FluxKontextMultiReferenceLatentMethod",
            conditioning=condition,
            reference_latents_method=facts.reference_method,
        )
    return condition


def _guide(graph: Graph, job: Job, phase: Phase, model: Link, conditions: _Conditions) -> Link:
    """Add a phase's LoRA and guidance, and return the guider."""
    settings = job.settings
    if phase in job.loras:
        (model,) = graph.add(
            "LoraLoaderModelOnly",
            title=f"{phase.value.capitalize()} LoRA",
            model=model,
            lora_name=job.loras[phase],
            strength_model=settings.scale(phase),
        )
    positive, negative = conditions.positive, conditions.negative
    if job.family.text.negative is Negative.NONE:  # a number that the model is told
        told = settings.guidance(phase)
        (positive,) = graph.add("FluxGuidance", conditioning=positive, guidance=told)
        if negative is not None:
            (negative,) = graph.add("FluxGuidance", conditioning=negative, guidance=told)
        scale = settings.true_cfg or 1.0
    else:
        # ComfyUI's scale is 1 where nothing is guided; some pipelines count from 0
        scale = settings.guidance(phase) + 1 - job.family.guidance.off
    if negative is None or scale <= 1:
        return graph.add("BasicGuider", model=model, conditioning=positive)[0]
    return graph.add("CFGGuider", model=model, positive=positive, negative=negative, cfg=scale)[0]
