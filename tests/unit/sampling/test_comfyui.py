"""Are the workflows what ComfyUI takes, and what glance does? Does the page hide nothing?"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pytest
from fakes.comfyui import WIDGETS, every_way, make_job, ports, recorded_nodes

from glance.core.phase import Phase
from glance.models.families import FAMILIES, find_family
from glance.models.families.family import ComfyFile
from glance.sampling.comfyui import (
    NODES,
    Graph,
    build_workflow,
    format_sigmas,
    guess_model,
    lay_out_page,
)
from glance.schedule.lists import PRESETS, Schedule

Api = dict[str, dict[str, Any]]
WEIGHING = ("flux", "sd3", "auraflow", "lumina2", "chroma", "hidream")
"""Families whose tokenizers take (words:1.2) for a weight (comfy/text_encoders)."""
EDITING = [name for name, family in FAMILIES.items() if family.edits]
PROMPT = "a lighthouse at dusk"
each_way = pytest.mark.parametrize(("name", "asked"), every_way(), ids=str)


def workflow(name: str = "flux", **changes: Any) -> Api:
    return build_workflow(make_job(name, **changes)).to_api()


def find(api: Api, kind: str) -> list[str]:
    return [number for number, node in api.items() if node["class_type"] == kind]


def all_inputs(api: Api, kind: str) -> list[dict[str, Any]]:
    return [api[number]["inputs"] for number in find(api, kind)]


def follow(api: Api, link: list[Any]) -> tuple[str, dict[str, Any]]:
    """Return the kind and the inputs of the node that a link comes from."""
    node = api[link[0]]
    return node["class_type"], node["inputs"]


def guider(api: Api, phase: Phase) -> tuple[str, dict[str, Any]]:
    sampler = all_inputs(api, "SamplerCustomAdvanced")[list(Phase).index(phase)]
    return follow(api, sampler["guider"])


def conditioning(api: Api, link: list[Any]) -> tuple[float | None, str]:
    """Return the embedded guidance and the text that a conditioning tells the model."""
    told = None
    kind, given = follow(api, link)
    while "conditioning" in given:
        told = given.get("guidance", told)
        kind, given = follow(api, given["conditioning"])
    return told, given["text" if kind == "CLIPTextEncode" else "prompt"]


@pytest.mark.parametrize("name", NODES)
def test_a_nodes_ports_are_comfyuis_in_its_order(name: str) -> None:
    recorded = recorded_nodes()[name]
    ours = [(port.name, port.type) for port in NODES[name].inputs]

    assert ours == [pair for pair in ports(recorded).items() if pair in ours]
    assert set(recorded["input"]["required"].items()) <= set(ours)
    assert [port.type for port in NODES[name].outputs] == recorded["output"]
    assert [port.name for port in NODES[name].outputs] == recorded["output_name"]


def faults(api: Api, nodes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what ComfyUI's POST /prompt would refuse."""
    for number, node in api.items():
        kind = node["class_type"]
        if kind not in nodes:
            yield f"{number}: there is no {kind}"
            continue
        known = ports(nodes[kind])
        missing = set(nodes[kind]["input"]["required"]) - set(node["inputs"])
        yield from (f"{number}: {kind} lacks {name}" for name in sorted(missing))
        for name, value in node["inputs"].items():
            if name not in known:
                yield f"{number}: {kind} has no {name}"
            elif (fault := misfit(api, nodes, value, known[name])) is not None:
                yield f"{number}: {kind}'s {name} {fault}"


def misfit(api: Api, nodes: Mapping[str, Any], value: Any, wanted: str) -> str | None:
    if not isinstance(value, list):
        kinds = WIDGETS.get(wanted, ())
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        return None if fits else f"is {value!r} and no {wanted}"
    number, slot = value
    outputs = nodes.get(api.get(number, {}).get("class_type"), {}).get("output", [])
    if not isinstance(slot, int) or not 0 <= slot < len(outputs):
        return f"comes from {value}, which is no output"
    return None if outputs[slot] == wanted else f"takes {wanted} and gets {outputs[slot]}"


@each_way
def test_a_workflow_is_valid_and_no_node_idle_or_before_what_it_takes_from(
    name: str, asked: dict[str, Any]
) -> None:
    api = workflow(name, **asked)

    links = [
        (int(number), int(value[0]))
        for number, node in api.items()
        for value in node["inputs"].values()
        if isinstance(value, list)
    ]
    assert list(faults(api, recorded_nodes())) == []
    (end,) = find(api, "SaveImage")  # ComfyUI refuses a workflow that gives nothing out
    assert set(map(int, api)) - {source for _, source in links} == {int(end)}
    assert all(source < target for target, source in links)


def parse_sigmas(text: str) -> list[float]:
    """Read them as ManualSigmas does: whatever looks like a number, without an exponent."""
    return [float(number) for number in re.findall(r"[-+]?(?:\d*\.*\d+)", text)]


@pytest.mark.parametrize(
    ("slow", "fast"),
    [
        ((1000.0, 979.1915, 957.5157, 934.9171, 911.3354), (886.7053, 20.0)),
        ((1000.0, 333.3333333333333), (0.1, 0.01)),  # a sigma of 1e-05
        ((999.9999999999999,), (1e-7,)),
    ],
)
def test_comfyui_reads_the_exact_sigmas(slow: tuple[float, ...], fast: tuple[float, ...]) -> None:
    sigmas = parse_sigmas(format_sigmas(Schedule("own", slow, fast)))

    expected = [*(step / 1000 for step in (*slow, *fast)), 0.0]
    assert np.float32(sigmas).tolist() == np.float32(expected).tolist()


def test_the_sigmas_are_as_people_write_them() -> None:
    assert format_sigmas(PRESETS["guide"].schedule) == (
        "1, 0.9791915, 0.9575157, 0.9349171, 0.9113354, "
        "0.8867053, 0.7450728, 0.5629505, 0.3200802, 0.02, 0"
    )


def test_the_phases_meet_where_the_slow_steps_end() -> None:
    slow, fast = (1000.0, 900.0, 800.0), (700.0, 600.0, 500.0, 400.0, 300.0, 200.0, 100.0)

    api = workflow(schedule=Schedule("own", slow, fast))

    (split,) = all_inputs(api, "SplitSigmas")
    assert split["step"] == 3
    # as ComfyUI's SplitSigmas does it: the sigma where they meet is in both halves
    sigmas = parse_sigmas(follow(api, split["sigmas"])[1]["sigmas"])
    assert (sigmas[: 3 + 1][-1], sigmas[3:][0], len(sigmas[3:])) == (0.7, 0.7, 8)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_second_sampler_goes_on_with_the_firsts_noisy_latents(name: str) -> None:
    api = workflow(name, seed=7, width=512, height=768)

    (first, second), (split,) = find(api, "SamplerCustomAdvanced"), find(api, "SplitSigmas")
    start, goes_on = (api[number]["inputs"] for number in (first, second))
    assert follow(api, start["noise"]) == ("RandomNoise", {"noise_seed": 7})
    empty = {"width": 512, "height": 768, "batch_size": 1}
    assert follow(api, start["latent_image"]) == (find_family(name).comfyui.latent, empty)
    assert follow(api, goes_on["noise"]) == ("DisableNoise", {})
    assert goes_on["latent_image"] == [first, 0]  # 1 would be the picture that it foresees
    assert all_inputs(api, "VAEDecode")[0]["samples"] == [second, 0]
    assert (start["sigmas"], goes_on["sigmas"]) == ([split, 0], [split, 1])
    euler = ("KSamplerSelect", {"sampler_name": "euler"})
    assert [follow(api, one["sampler"]) for one in (start, goes_on)] == [euler] * 2


BOTH = {"slow_guidance": 3.0, "fast_guidance": 1.5}


@pytest.mark.parametrize(
    ("name", "asked", "told", "scales"),
    [  # what the model is told, and CFGGuider's scale: None where BasicGuider is enough
        ("flux", {}, (3.5, 1.0), (None, None)),
        ("flux2", {"slow_guidance": 3.5}, (3.5, 1.0), (None, None)),
        ("flux", {"true_cfg": 2.5, "negative_prompt": "blurry"}, (3.5, 1.0), (2.5, 2.5)),
        ("flux", {"true_cfg": 1.0}, (3.5, 1.0), (None, None)),
        ("sd3", {"slow_guidance": 1.0}, (None, None), (None, None)),
        ("sd3", {"negative_prompt": "blurry"}, (None, None), (7.0, None)),
        ("sd3", BOTH, (None, None), (3.0, 1.5)),
        ("z_image", {}, (None, None), (6.0, None)),  # its scales count from 0, ComfyUI's from 1
        ("z_image", BOTH, (None, None), (4.0, 2.5)),
        ("krea2", {}, (None, None), (5.5, None)),
    ],
)
def test_each_phase_is_guided_as_in_its_pipeline(
    name: str,
    asked: dict[str, Any],
    told: tuple[float | None, ...],
    scales: tuple[float | None, ...],
) -> None:
    api = workflow(name, **asked)

    for phase, embedded, scale in zip(Phase, told, scales, strict=True):
        kind, given = guider(api, phase)
        assert (kind, given.get("cfg")) == ("CFGGuider" if scale else "BasicGuider", scale)
        assert conditioning(api, given["positive" if scale else "conditioning"]) == (
            embedded,
            PROMPT,
        )
        if scale:
            negative = asked.get("negative_prompt", "")
            assert conditioning(api, given["negative"]) == (embedded, negative)
    assert len(find(api, "CLIPTextEncode")) == 1 + any(scales)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_phase_puts_its_own_lora_on_the_base_model(name: str) -> None:
    api = workflow(name, slow_scale=0.75)

    loaders = [follow(api, guider(api, phase)[1]["model"]) for phase in Phase]
    assert [kind for kind, _ in loaders] == ["LoraLoaderModelOnly"] * 2
    slow, fast = (given for _, given in loaders)
    assert (slow["lora_name"], slow["strength_model"]) == ("pair-slow.safetensors", 0.75)
    assert (fast["lora_name"], fast["strength_model"]) == ("pair-fast.safetensors", 1.0)
    assert slow["model"] == fast["model"]
    assert follow(api, slow["model"])[0] in ("UNETLoader", "CheckpointLoaderSimple")


def test_a_phase_without_lora_runs_on_the_base_model() -> None:
    api = workflow(loras=("slow",))

    slow, fast = (guider(api, phase)[1]["model"] for phase in Phase)
    assert follow(api, slow)[1]["model"] == fast


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_are_read_by_the_familys_text_encoders(name: str) -> None:
    api, facts = workflow(name), find_family(name).comfyui

    text = find(api, "CLIPTextEncode") + find(api, "TextEncodeQwenImageEditPlus")
    kind, given = follow(api, api[text[0]]["inputs"]["clip"])
    if facts.model.folder == "checkpoints":
        assert kind == "CheckpointLoaderSimple"
    else:
        named = [value for key, value in given.items() if key.startswith("clip_name")]
        assert named == [file.name for file in facts.text_encoders]
        assert given.get("type", "") == facts.text_type


@pytest.mark.parametrize("negative", ["", "blurry"])
def test_lumina_reads_what_its_pipeline_puts_before_the_prompt_alone(negative: str) -> None:
    """As in diffusers' Lumina2Pipeline.encode_prompt."""
    api = workflow("lumina2", negative_prompt=negative)

    given = guider(api, Phase.SLOW)[1]
    positive = conditioning(api, given["positive"])[1]
    assert positive.startswith("You are an assistant designed to generate superior images")
    assert positive.endswith(f" <Prompt Start> {PROMPT}")
    assert conditioning(api, given["negative"])[1] == negative


def read_weights(text: str) -> list[tuple[str, float]]:
    """Read (words:1.2) as comfy/sd1_clip.py does, with one pair of brackets inside no other."""
    text = text.replace("\\(", "\0").replace("\\)", "\1")
    parts = [part for part in re.split(r"(\([^()]*\))", text) if part]
    weights = [(part.strip("()"), 1.1 if part.startswith("(") else 1.0) for part in parts]
    return [(part.replace("\0", "(").replace("\1", ")"), weight) for part, weight in weights]


@pytest.mark.parametrize("name", FAMILIES)
def test_brackets_in_a_prompt_are_brackets_and_no_weights(name: str) -> None:
    """Where no weights are read, a tokenizer is called with disable_weights=True."""
    prompt = r"a (black) cat, ((old)) \(sic\)"

    api = workflow(name, prompt=prompt)

    texts = [node["inputs"].get("text", node["inputs"].get("prompt")) for node in api.values()]
    text = next(text for text in texts if text)
    ((read, weight),) = read_weights(text) if name in WEIGHING else [(text, 1.0)]
    assert read.endswith(prompt)
    assert weight == 1.0
    assert len(read_weights(prompt)) > 1


@pytest.mark.parametrize("name", EDITING)
def test_what_is_edited_is_read_with_both_prompts(name: str) -> None:
    api = workflow(name, negative_prompt="blurry")

    encoders = all_inputs(api, "TextEncodeQwenImageEditPlus")
    assert [given["prompt"] for given in encoders] == [PROMPT, "blurry"]
    (picture,) = find(api, "LoadImage")
    assert [given["image1"] for given in encoders] == [[picture, 0]] * 2
    assert encoders[0]["vae"] == all_inputs(api, "VAEDecode")[0]["vae"]
    assert find(api, "CLIPTextEncode") == []
    # only 2511 is told how references are meant
    methods = ["index_timestep_zero"] * 2 if name == "qwen_image_edit_2511" else []
    told = all_inputs(api, "FluxKontextMultiReferenceLatentMethod")
    assert [given["reference_latents_method"] for given in told] == methods
    guided = guider(api, Phase.SLOW)[1]
    assert [conditioning(api, guided[part])[1] for part in ("positive", "negative")] == [
        PROMPT,
        "blurry",
    ]


@pytest.mark.parametrize(
    ("name", "model", "file"),
    [
        ("flux", "black-forest-labs/FLUX.1-dev", "flux1-dev.safetensors"),
        ("flux", "black-forest-labs/FLUX.1-Krea-dev", "flux1-krea-dev_fp8_scaled.safetensors"),
        ("flux", "acme/tiny", "tiny.safetensors"),
        ("flux", "../../bases/mine", "mine.safetensors"),
        ("flux", "../..", "flux.safetensors"),
        ("qwen_image", "Qwen/Qwen-Image", "qwen_image_fp8_e4m3fn.safetensors"),
        ("qwen_image", "Qwen/Qwen-Image-2512", "qwen_image_2512_fp8_e4m3fn.safetensors"),
        ("sd3", "stabilityai/stable-diffusion-3.5-large", "sd3.5_large_fp8_scaled.safetensors"),
        ("flux", "../../flux.1-dev-trials/mine", "mine.safetensors"),  # only called alike
        ("flux", "acme/FLUX.1-dev-sketches", "FLUX.1-dev-sketches.safetensors"),
        ("z_image", "Tongyi-MAI/Z-Image-Turbo", "Z-Image-Turbo.safetensors"),
        (
            "sd3",
            "stabilityai/stable-diffusion-3.5-large-turbo",
            "stable-diffusion-3.5-large-turbo.safetensors",
        ),
    ],
)
def test_the_models_file_is_found_by_its_name(name: str, model: str, file: str) -> None:
    found = guess_model(find_family(name), model)

    assert found.name == file
    assert (found.url is None) == (file == f"{model.split('/')[-1]}.safetensors" or ".." in model)


def test_a_single_file_keeps_its_name() -> None:
    found = guess_model(find_family("sd3"), "stabilityai/x", "../models/sd35-mine.safetensors")

    assert found == ComfyFile("sd35-mine.safetensors", "diffusion_models")


TITLE_BAR = 30  # LiteGraph draws it above a node's position
SOCKET, WIDGET, PREVIEW = 20, 24, 220  # pixels high, at least; setSizeForImage's minimum
EXTRA = {"RandomNoise": ["fixed"], "LoadImage": ["image"]}
"""What the page's own widgets keep behind a node's: control_after_generate, the upload button."""
NOTE = "# A note\n\nof two paragraphs.\n" * 3
Page = dict[str, Any]


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def holds(self, other: "Box") -> bool:
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom


def laid_out(name: str, **changes: Any) -> tuple[Graph, Page]:
    graph = build_workflow(make_job(name, **changes))
    return graph, lay_out_page(graph, note=NOTE)


def frame(node: Mapping[str, Any]) -> Box:
    """Return what a node covers, its title bar with it."""
    (left, top), (width, height) = node["pos"], node["size"]
    return Box(left, top - TITLE_BAR, left + width, top + height)


def bounding(group: Mapping[str, Any]) -> Box:
    left, top, width, height = group["bounding"]
    return Box(left, top, left + width, top + height)


def to_api(page: Page) -> Api:
    """Return what the page would send to POST /prompt: values by place, links by the table."""
    sources = {link[0]: [str(link[1]), link[2]] for link in page["links"]}
    found: Api = {}
    for node in page["nodes"]:
        if node["type"] == "MarkdownNote":  # the server has no such node
            continue
        linked = {one["name"]: sources[one["link"]] for one in node["inputs"] if one["link"]}
        meta = {"title": node["title"]}
        found[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": {**typed_in(node), **linked},
            "_meta": meta,
        }
    return found


def typed_in(node: Mapping[str, Any]) -> dict[str, Any]:
    known = ports(recorded_nodes()[node["type"]])
    names = [name for name, kind in known.items() if kind in WIDGETS]
    values, extra = node["widgets_values"][: len(names)], node["widgets_values"][len(names) :]
    assert extra == EXTRA.get(node["type"], [])
    return dict(zip(names, values, strict=True))


@each_way
def test_the_page_sends_the_workflow(name: str, asked: dict[str, Any]) -> None:
    graph, page = laid_out(name, **asked)

    assert to_api(page) == graph.to_api()
    assert json.loads(json.dumps(page)) == page
    nodes, links = {node["id"]: node for node in page["nodes"]}, page["links"]
    for link, source, output, target, socket, kind in links:
        out, into = nodes[source]["outputs"][output], nodes[target]["inputs"][socket]
        assert link in out["links"]
        assert (into["link"], out["type"], into["type"]) == (link, kind, kind)
    outgoing = Counter(
        link for n in nodes.values() for out in n["outputs"] for link in out["links"]
    )
    assert outgoing == Counter(link[0] for link in links)
    assert sorted(nodes) == list(range(1, page["last_node_id"] + 1))
    assert [link[0] for link in links] == list(range(1, page["last_link_id"] + 1))
    assert [node["order"] for node in page["nodes"]] == list(range(len(page["nodes"])))


@pytest.mark.parametrize(
    ("prompt", "typed"),
    [
        ("a {red|blue} house", r"a \{red\|blue\} house"),
        ("https://x /* y */ a/b", "https:/{/}x /{*} y */ a/b"),
        ("\\{x \\\\{x", "\\\\{\\{}x \\\\\\{x"),  # one backslash, then two
        ("to the end \\", "to the end \\ "),
    ],
    ids=["choice", "comment", "backslash", "last"],
)
def test_the_page_has_a_prompt_in_which_it_finds_no_choice_and_no_comment(
    prompt: str, typed: str
) -> None:
    """tests/browser/test_comfyui_page.py has it read by the page itself."""
    graph, page = laid_out("flux", prompt=prompt)

    (text,) = [node for node in page["nodes"] if node["type"] == "CLIPTextEncode"]
    assert text["widgets_values"] == [typed]
    assert all_inputs(graph.to_api(), "CLIPTextEncode")[0]["text"] == prompt


@each_way
def test_no_node_hides_another_and_groups_hold_their_own(name: str, asked: dict[str, Any]) -> None:
    graph, page = laid_out(name, **asked)

    pairs = combinations(page["nodes"], 2)
    assert [(a["id"], b["id"]) for a, b in pairs if frame(a).meets(frame(b))] == []
    groups = {group["title"]: bounding(group) for group in page["groups"]}
    assert not any(a.meets(b) for a, b in combinations(groups.values(), 2))
    *shown, note = page["nodes"]
    for node, place in zip(graph.nodes, map(frame, shown), strict=True):
        assert [title for title, box in groups.items() if box.meets(place)] == [node.group]
        assert groups[node.group].holds(place)
    assert (note["type"], note["widgets_values"]) == ("MarkdownNote", [NOTE])
    assert frame(note).right < min(group.left for group in groups.values())
    pictures = [node for node in shown if node["type"] in ("LoadImage", "SaveImage")]
    assert len(pictures) == 1 + FAMILIES[name].edits
    for node in pictures:  # else the page, once it is opened, lengthens it over the one below
        sockets = max(len(node["inputs"]), len(node["outputs"]))
        above = SOCKET * sockets + WIDGET * len(node["widgets_values"])
        assert node["size"][1] >= above + PREVIEW


@pytest.mark.parametrize("name", FAMILIES)
def test_the_page_offers_to_fetch_every_file_of_the_default_model(name: str) -> None:
    _, page = laid_out(name)

    models = []
    for node in page["nodes"]:
        offered = node["properties"].get("models", [])
        names = [model["name"] for model in offered]
        assert [value for value in node["widgets_values"] if value in names] == names
        models += offered
    facts = FAMILIES[name].comfyui
    opened = (facts.model, *facts.text_encoders, *filter(None, [facts.vae]))
    assert [model["name"] for model in models] == [file.name for file in opened]
    for model in models:
        assert set(model) == {"name", "url", "directory"}
        assert re.fullmatch(f"https://huggingface.co/.+/{re.escape(model['name'])}", model["url"])


def test_an_unknown_model_is_not_offered_and_without_a_note_there_is_none() -> None:
    mine = ComfyFile("mine.safetensors", "diffusion_models")

    page = lay_out_page(build_workflow(replace(make_job("flux"), model=mine)))

    loader = next(node for node in page["nodes"] if node["type"] == "UNETLoader")
    assert loader["widgets_values"][0] == "mine.safetensors"
    assert "models" not in loader["properties"]
    assert {node["type"] for node in page["nodes"]}.isdisjoint({"MarkdownNote"})
    assert min(node["pos"][0] for node in page["nodes"]) == 0
