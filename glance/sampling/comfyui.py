"""Two-phase sampling as ComfyUI's nodes: its API's JSON, and the page's with a tidy layout."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from glance.core.phase import Phase
from glance.models.families import Family, Negative
from glance.models.families.family import ComfyFile
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import MAX_TIMESTEP, Schedule

Value = str | int | float
_TEXT_LOADERS: Final = {1: "CLIPLoader", 2: "DualCLIPLoader", 4: "QuadrupleCLIPLoader"}
_MODELS, _PROMPT, _PICTURE = "Models", "Prompt, noise and sigmas", "Picture"
_VERSION: Final = 0.4  # of the page's format
_WIDTH: Final = 340
_NOTE_WIDTH: Final = 520  # long enough for the names of files
_GAP: Final = 40
_TITLE: Final = 50  # pixels of a group above its nodes
_TALL: Final = {"text": 130, "prompt": 130, "sigmas": 40}
"""Pixels that a text takes: several lines, or one in the page's design of Nodes 2.0."""
_PREVIEW: Final = {"LoadImage": 220, "SaveImage": 220}
"""Pixels by which the page lengthens a node that shows a picture."""
_COLOURS: Final = ("#3f789e", "#a1309b", "#b58b2a", "#8A8", "#88A")
_WIDGETS: Final = ("INT", "FLOAT", "STRING", "COMBO")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is generated, by the names that ComfyUI's folders have for it."""

    family: Family
    model: ComfyFile
    loras: Mapping[Phase, str]
    """File names in models/loras; a phase that has none runs on the base model."""
    schedule: Schedule
    settings: SampleSettings
    extra_loras: Mapping[str, float] = field(default_factory=dict)
    """Further files in models/loras, at work in both phases, with their strengths."""
    name: str = "glance"
    """Begins the images' file names."""
    reference: str | None = None
    """File name in ComfyUI's input folder, for a family that edits."""


class Port(NamedTuple):
    """An input or an output."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class NodeKind:
    """One class of nodes; its ports are in ComfyUI's order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    extra_widgets: tuple[str, ...] = ()
    """Values that the page's own widgets add behind those of the inputs."""

    @property
    def sockets(self) -> list[Port]:
        """The inputs that links go to."""
        return [port for port in self.inputs if port.type not in _WIDGETS]

    @property
    def widgets(self) -> list[str]:
        """The names of the inputs that a value is typed into."""
        return [port.name for port in self.inputs if port.type in _WIDGETS]


class Link(NamedTuple):
    """An output of a node, as another one's input."""

    node: int
    slot: int


@dataclass(frozen=True, slots=True)
class Node:
    """One node: values and links by the names of its inputs."""

    id: int
    kind: str
    title: str
    group: str
    inputs: Mapping[str, Value | Link]
    files: tuple[ComfyFile, ...] = ()
    """The model files that it opens, for whoever has to fetch them."""

    @property
    def shape(self) -> NodeKind:
        """The inputs and outputs that nodes of its kind have."""
        return NODES[self.kind]


@dataclass(slots=True)
class Graph:
    """Nodes in the order in which they were added: each after those that it takes from."""

    nodes: list[Node] = field(default_factory=list)
    group: str = ""
    """Where the next nodes stand on the page."""

    def add(
        self,
        kind: str,
        *,
        title: str = "",
        files: tuple[ComfyFile, ...] = (),
        **inputs: Value | Link,
    ) -> tuple[Link, ...]:
        """Add a node and return its outputs; raises KeyError for an input that it has not got."""
        shape = NODES[kind]
        unknown = set(inputs) - {port.name for port in shape.inputs}
        if unknown:
            raise KeyError(f"{kind} has no input {', '.join(sorted(unknown))}")
        node = Node(len(self.nodes) + 1, kind, title or kind, self.group, inputs, files)
        self.nodes.append(node)
        return tuple(Link(node.id, slot) for slot in range(len(shape.outputs)))

    def to_api(self) -> dict[str, Any]:
        """Return what ComfyUI's POST /prompt takes as `prompt`, and its page opens as well."""
        return {
            str(node.id): {
                "class_type": node.kind,
                "inputs": {
                    name: [str(value.node), value.slot] if isinstance(value, Link) else value
                    for name, value in node.inputs.items()
                },
                "_meta": {"title": node.title},
            }
            for node in self.nodes
        }


class _Loaded(NamedTuple):
    model: Link
    clip: Link
    vae: Link


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
    for file, strength in job.extra_loras.items():
        model = _add_lora(graph, loaded.model, file, strength, title="Further LoRA")
        loaded = loaded._replace(model=model)
    graph.group = _PROMPT
    conditions = _encode(graph, job, loaded)
    width, height = job.settings.width, job.settings.height
    (latent,) = graph.add(job.family.comfyui.latent, width=width, height=height, batch_size=1)
    (noise,) = graph.add("RandomNoise", noise_seed=job.settings.seed)
    (sampler,) = graph.add("KSamplerSelect", sampler_name="euler")
    (sigmas,) = graph.add("ManualSigmas", title="Sigmas", sigmas=format_sigmas(job.schedule))
    steps = len(job.schedule.phase(Phase.SLOW).timesteps)
    halves = graph.add("SplitSigmas", title="Phase boundary", sigmas=sigmas, step=steps)
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
    encoders = facts.find_text_encoders(file.name)
    number = (str(one) if len(encoders) > 1 else "" for one in range(1, len(encoders) + 1))
    inputs = {f"clip_name{one}": it.name for one, it in zip(number, encoders, strict=True)}
    if facts.text_type:
        inputs |= {"type": facts.text_type, "device": "default"}
    loader = _TEXT_LOADERS[len(encoders)]
    (clip,) = graph.add(loader, title="Text encoder", files=encoders, **inputs)
    assert facts.vae is not None  # only a checkpoint brings its own
    (vae,) = graph.add("VAELoader", files=(facts.vae,), vae_name=facts.vae.name)
    return _Loaded(model, clip, vae)


def _encode(graph: Graph, job: Job, loaded: _Loaded) -> tuple[Link, Link | None]:
    settings, facts, image = job.settings, job.family.comfyui, None
    if job.family.edits:
        image, _ = graph.add("LoadImage", title="Reference", image=job.reference or "reference.png")

    def encode(title: str, text: str) -> Link:
        if facts.weighs_words:
            text = text.replace("(", r"\(").replace(")", r"\)")
        if image is None:
            return graph.add("CLIPTextEncode", title=title, text=text, clip=loaded.clip)[0]
        shown: dict[str, Any] = {"clip": loaded.clip, "vae": loaded.vae, "image1": image}
        (link,) = graph.add("TextEncodeQwenImageEditPlus", title=title, prompt=text, **shown)
        if facts.reference_method:
            (link,) = graph.add(
                "FluxKontextMultiReferenceLatentMethod",
                conditioning=link,
                reference_latents_method=facts.reference_method,
            )
        return link

    positive = encode("Prompt", facts.prompt_prefix + settings.prompt)
    if not settings.needs_negative(job.family):
        return positive, None
    return positive, encode("Negative prompt", settings.negative_prompt)  # nothing stands before it


def _add_lora(graph: Graph, model: Link, file: str, strength: float, *, title: str) -> Link:
    return graph.add(
        "LoraLoaderModelOnly", title=title, model=model, lora_name=file, strength_model=strength
    )[0]


def _guide(
    graph: Graph, job: Job, phase: Phase, model: Link, conditions: tuple[Link, Link | None]
) -> Link:
    """Add a phase's LoRA and guidance, and return the guider."""
    settings = job.settings
    if phase in job.loras:
        title = f"{phase.value.capitalize()} LoRA"
        model = _add_lora(graph, model, job.loras[phase], settings.scale(phase), title=title)
    positive, negative = conditions
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


def lay_out_page(graph: Graph, *, note: str = "") -> dict[str, Any]:
    """Return the JSON that ComfyUI's page opens with a tidy layout.

    Groups stand side by side in the order in which the graph entered them, their nodes below each
    other; `note`, Markdown, stands before them.
    """
    links = list(_links(graph))
    places = dict(_places(graph, left=_NOTE_WIDTH + 2 * _GAP if note else 0))
    nodes = [_page_node(node, order, links, places) for order, node in enumerate(graph.nodes)]
    if note:
        nodes.append(_note(note, len(nodes) + 1))
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": list(_groups(graph, places)),
        "config": {},
        "extra": {},
        "version": _VERSION,
    }


def _links(graph: Graph) -> Iterator[list[Any]]:
    """Yield [id, from node, its output, to node, its input, type]."""
    number = 0
    by_id = {node.id: node for node in graph.nodes}
    for node in graph.nodes:
        for slot, port in enumerate(node.shape.sockets):
            value = node.inputs.get(port.name)
            if isinstance(value, Link):
                number += 1
                kind = by_id[value.node].shape.outputs[value.slot].type
                yield [number, value.node, value.slot, node.id, slot, kind]


def _page_node(
    node: Node, order: int, links: list[list[Any]], places: Mapping[int, tuple[int, int]]
) -> dict[str, Any]:
    into = {link[4]: link[0] for link in links if link[3] == node.id}
    out_of = [(link[2], link[0]) for link in links if link[1] == node.id]
    models = [
        {"name": file.name, "url": file.url, "directory": file.folder}
        for file in node.files
        if file.url is not None
    ]
    return {
        "id": node.id,
        "type": node.kind,
        "title": node.title,
        "pos": list(places[node.id]),
        "size": [_WIDTH, _height(node)],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [
            {"name": port.name, "type": port.type, "link": into.get(slot)}
            for slot, port in enumerate(node.shape.sockets)
        ],
        "outputs": [
            {
                "name": port.name,
                "type": port.type,
                "slot_index": slot,
                "links": [link for from_slot, link in out_of if from_slot == slot],
            }
            for slot, port in enumerate(node.shape.outputs)
        ],
        # the page offers to fetch models that are missing
        "properties": {"Node name for S&R": node.kind, **({"models": models} if models else {})},
        "widgets_values": [
            *(_typed(name, node.inputs[name]) for name in node.shape.widgets),
            *node.shape.extra_widgets,
        ],
    }


def _typed(name: str, value: Value | Link) -> Value | Link:
    is_prompt = name in ("text", "prompt") and isinstance(value, str)
    return escape_prompt(str(value)) if is_prompt else value


def escape_prompt(text: str) -> str:
    r"""Return what the page reads as `text`; the API takes a prompt as it is.

    The page takes {a|b} for a choice, // and /* for the start of a comment, and a backslash
    together with the character behind it (processDynamicPrompt). A choice of one thing is that.
    """
    text = re.sub(r"(\\*)([{|}])", _escape_brace, text)
    text = re.sub(r"(?<=/)[/*]", r"{\g<0>}", text)
    backslashes = len(text) - len(text.rstrip("\\"))
    return f"{text} " if backslashes % 2 else text  # the last would take what is not there


def _escape_brace(found: re.Match[str]) -> str:
    backslashes, brace = found.groups()
    if len(backslashes) % 2 == 0:
        return f"{backslashes}\\{brace}"
    # the last one would escape ours: a further one takes it, and the page drops it before a brace
    return f"{backslashes}\\{{\\{brace}}}"


def _height(node: Node) -> int:
    shape = node.shape
    sockets = 20 * max(len(shape.sockets), len(shape.outputs))
    widgets = sum(_TALL.get(name, 28) for name in (*shape.widgets, *shape.extra_widgets))
    return 10 + sockets + widgets + _PREVIEW.get(node.kind, 0)


def _places(graph: Graph, *, left: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield each node's id and upper left corner, in pixels."""
    tops: dict[str, int] = {}
    for node in graph.nodes:
        top = tops.setdefault(node.group, _TITLE)
        column = list(tops).index(node.group)
        yield node.id, (left + column * (_WIDTH + 2 * _GAP), top)
        tops[node.group] = top + _height(node) + _GAP


def _groups(graph: Graph, places: Mapping[int, tuple[int, int]]) -> Iterator[dict[str, Any]]:
    names = list(dict.fromkeys(node.group for node in graph.nodes))
    for number, name in enumerate(names):
        nodes = [node for node in graph.nodes if node.group == name]
        bottom = max(places[node.id][1] + _height(node) for node in nodes)
        left = places[nodes[0].id][0]
        yield {
            "id": number + 1,
            "title": name,
            "bounding": [left - _GAP // 2, -_GAP // 2, _WIDTH + _GAP, bottom + _GAP],
            "color": _COLOURS[number % len(_COLOURS)],
            "flags": {},
        }


def _note(text: str, number: int) -> dict[str, Any]:
    shown = re.sub(r"\]\(\S+\)", "]", text)  # of a link its name
    lines = sum(1 + len(line) // 80 for line in shown.splitlines() if line)
    return {
        "id": number,
        "type": "MarkdownNote",
        "title": "glance",
        "pos": [0, _TITLE],
        "size": [_NOTE_WIDTH, 60 + 24 * lines],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [text],
        "color": "#222",
        "bgcolor": "#000",
    }


def _kind(inputs: str, outputs: str, *extra_widgets: str) -> NodeKind:
    """Read `name:TYPE name:TYPE` for each; a type alone is its own name."""

    def ports(text: str) -> tuple[Port, ...]:
        pairs = (word.partition(":") for word in text.split())
        return tuple(Port(name, kind or name) for name, _, kind in pairs)

    return NodeKind(ports(inputs), ports(outputs), extra_widgets)


NODES: Final[Mapping[str, NodeKind]] = MappingProxyType(
    {
        "UNETLoader": _kind("unet_name:COMBO weight_dtype:COMBO", "MODEL"),
        "CheckpointLoaderSimple": _kind("ckpt_name:COMBO", "MODEL CLIP VAE"),
        "CLIPLoader": _kind("clip_name:COMBO type:COMBO device:COMBO", "CLIP"),
        "DualCLIPLoader": _kind(
            "clip_name1:COMBO clip_name2:COMBO type:COMBO device:COMBO", "CLIP"
        ),
        "QuadrupleCLIPLoader": _kind(
            "clip_name1:COMBO clip_name2:COMBO clip_name3:COMBO clip_name4:COMBO", "CLIP"
        ),
        "VAELoader": _kind("vae_name:COMBO", "VAE"),
        "LoraLoaderModelOnly": _kind("model:MODEL lora_name:COMBO strength_model:FLOAT", "MODEL"),
        "CLIPTextEncode": _kind("text:STRING clip:CLIP", "CONDITIONING"),
        "FluxGuidance": _kind("conditioning:CONDITIONING guidance:FLOAT", "CONDITIONING"),
        "BasicGuider": _kind("model:MODEL conditioning:CONDITIONING", "GUIDER"),
        "CFGGuider": _kind(
            "model:MODEL positive:CONDITIONING negative:CONDITIONING cfg:FLOAT", "GUIDER"
        ),
        # the page adds what happens to the seed after each picture
        "RandomNoise": _kind("noise_seed:INT", "NOISE", "fixed"),
        "DisableNoise": _kind("", "NOISE"),
        "KSamplerSelect": _kind("sampler_name:COMBO", "SAMPLER"),
        "ManualSigmas": _kind("sigmas:STRING", "SIGMAS"),
        "SplitSigmas": _kind("sigmas:SIGMAS step:INT", "high_sigmas:SIGMAS low_sigmas:SIGMAS"),
        "EmptySD3LatentImage": _kind("width:INT height:INT batch_size:INT", "LATENT"),
        "EmptyLatentImage": _kind("width:INT height:INT batch_size:INT", "LATENT"),
        "EmptyFlux2LatentImage": _kind("width:INT height:INT batch_size:INT", "LATENT"),
        "SamplerCustomAdvanced": _kind(
            "noise:NOISE guider:GUIDER sampler:SAMPLER sigmas:SIGMAS latent_image:LATENT",
            "output:LATENT denoised_output:LATENT",
        ),
        "VAEDecode": _kind("samples:LATENT vae:VAE", "IMAGE"),
        "SaveImage": _kind("images:IMAGE filename_prefix:STRING", ""),
        # the page adds the button that uploads
        "LoadImage": _kind("image:COMBO", "IMAGE MASK", "image"),
        "TextEncodeQwenImageEditPlus": _kind(
            "clip:CLIP prompt:STRING vae:VAE image1:IMAGE", "CONDITIONING"
        ),
        "FluxKontextMultiReferenceLatentMethod": _kind(
            "conditioning:CONDITIONING reference_latents_method:COMBO", "CONDITIONING"
        ),
    }
)
"""By ComfyUI's names, as `/object_info` describes them: a test holds them to a recording of that.

Optional inputs that are never used are left out.
"""
