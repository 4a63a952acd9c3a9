"""Are the workflows what ComfyUI takes, and do they say what glance does?"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from fakes.comfyui import RECORDING, WIDGETS, every_way, make_job, ports, recorded_nodes

from glance.core.phase import Phase
from glance.models.families import FAMILIES, find_family
from glance.models.families.family import ComfyFile
from glance.sampling.comfyui import NODES, Graph, build_workflow, format_sigmas, guess_model
from glance.schedule.lists import PRESETS, Schedule

Api = dict[str, dict[str, Any]]
WEIGHING = ("flux", "sd3", "auraflow", "lumina2", "chroma", "hidream")
"""Families whose tokenizers take (words:1.2) for a weight (comfy/text_encoders)."""
EDITING = [name for name, family in FAMILIES.items() if family.edits]


def workflow(name: str = "flux", **changes: Any) -> Api:
    return build_workflow(make_job(name, **changes)).to_api()


def find(api: Api, kind: str) -> list[str]:
    return [number for number, node in api.items() if node["class_type"] == kind]


def inputs(api: Api, kind: str) -> dict[str, Any]:
    """Return those of the only node of its kind."""
    (number,) = find(api, kind)
    return dict(api[number]["inputs"])


def follow(api: Api, link: list[Any]) -> tuple[str, dict[str, Any]]:
    """Return the kind and the inputs of the node that a link comes from."""
    node = api[link[0]]
    return node["class_type"], node["inputs"]


def guider(api: Api, phase: Phase) -> tuple[str, dict[str, Any]]:
    sampler = api[find(api, "SamplerCustomAdvanced")[list(Phase).index(phase)]]
    return follow(api, sampler["inputs"]["guider"])


def chain(api: Api, link: list[Any]) -> list[str]:
    """Return the kinds of the nodes that a conditioning or a model goes through, the first last."""
    kind, given = follow(api, link)
    before = given.get("conditioning") or given.get("model")
    return [kind, *(chain(api, before) if before else [])]


# --- nodes ---------------------------------------------------------------------------------------


def test_the_recording_lacks_one_node_alone() -> None:
    """It is of 0.3.64, from before FLUX.2; fakes.comfyui lends that node a description."""
    recorded = json.loads(RECORDING.read_text())

    assert recorded["comfyui"] == "0.3.64"
    assert set(NODES) - set(recorded["nodes"]) == {"EmptyFlux2LatentImage"}
    assert set(recorded["nodes"]) <= set(NODES)


def test_the_recordings_manual_sigmas_is_the_scripts_own() -> None:
    """It came after the recorded version: `python -m scripts.comfyui` supplies it."""
    from scripts.comfyui.checkout import ManualSigmas

    recorded = recorded_nodes()["ManualSigmas"]

    said = {name: spec[0] for name, spec in ManualSigmas.INPUT_TYPES()["required"].items()}
    assert recorded["input"] == {"required": said, "optional": {}}
    assert recorded["output"] == list(ManualSigmas.RETURN_TYPES)


@pytest.mark.parametrize("name", NODES)
def test_a_nodes_inputs_are_comfyuis_in_its_order(name: str) -> None:
    recorded = recorded_nodes()[name]
    ours = [(port.name, port.type) for port in NODES[name].inputs]

    assert ours == [pair for pair in ports(recorded).items() if pair in ours]
    assert set(recorded["input"]["required"].items()) <= set(ours)


@pytest.mark.parametrize("name", NODES)
def test_a_nodes_outputs_are_comfyuis(name: str) -> None:
    recorded = recorded_nodes()[name]

    assert [port.type for port in NODES[name].outputs] == recorded["output"]
    assert [port.name for port in NODES[name].outputs] == recorded["output_name"]


def test_what_is_typed_in_is_what_no_node_gives_out() -> None:
    given_out = {kind for node in recorded_nodes().values() for kind in node["output"]}
    taken = [port for kind in NODES.values() for port in kind.inputs]

    assert {port.type for port in taken if port.is_widget} == set(WIDGETS)
    assert {port.type for port in taken if not port.is_widget} <= given_out
    assert given_out.isdisjoint(WIDGETS)


def test_an_input_that_a_node_has_not_got_is_a_bug() -> None:
    with pytest.raises(KeyError, match="VAELoader has no input device"):
        Graph().add("VAELoader", vae_name="ae.safetensors", device="cpu")


# --- what ComfyUI validates -------------------------------------------------------------------


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


@pytest.mark.parametrize(("name", "asked"), every_way(), ids=str)
def test_every_familys_workflow_is_valid(name: str, asked: dict[str, Any]) -> None:
    api = workflow(name, **asked)

    assert list(faults(api, recorded_nodes())) == []
    assert len(find(api, "SaveImage")) == 1  # ComfyUI refuses a workflow that gives nothing out


@pytest.mark.parametrize(("name", "asked"), every_way(), ids=str)
def test_no_node_is_idle(name: str, asked: dict[str, Any]) -> None:
    api = workflow(name, **asked)

    links = [value for node in api.values() for value in node["inputs"].values()]
    used = {value[0] for value in links if isinstance(value, list)}
    assert set(api) - used == set(find(api, "SaveImage"))


@pytest.mark.parametrize(("name", "asked"), every_way(), ids=str)
def test_each_node_stands_after_those_that_it_takes_from(name: str, asked: dict[str, Any]) -> None:
    api = workflow(name, **asked)

    for number, node in api.items():
        links = [value for value in node["inputs"].values() if isinstance(value, list)]
        assert all(int(link[0]) < int(number) for link in links)


def put(kind: str, **values: Any) -> Callable[[Api], object]:
    return lambda api: api[find(api, kind)[0]]["inputs"].update(values)


def drop(kind: str, name: str) -> Callable[[Api], object]:
    return lambda api: api[find(api, kind)[0]]["inputs"].pop(name)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (drop("VAEDecode", "vae"), "VAEDecode lacks vae"),
        (put("VAEDecode", device="cpu"), "VAEDecode has no device"),
        (put("VAEDecode", samples=["1", 0]), "samples takes LATENT and gets MODEL"),
        (put("VAEDecode", vae=["99", 0]), "which is no output"),
        (put("VAEDecode", vae=["1", 1]), "which is no output"),
        (put("VAEDecode", vae="ae.safetensors"), "vae is 'ae.safetensors' and no VAE"),
        (put("SplitSigmas", step=5.0), "step is 5.0 and no INT"),
        (put("SplitSigmas", step=True), "step is True and no INT"),
        (put("FluxGuidance", guidance="3.5"), "guidance is '3.5' and no FLOAT"),
        (put("ManualSigmas", sigmas=[1.0, 0.5]), "sigmas comes from"),
        (lambda api: api["1"].update(class_type="LoadUNET"), "there is no LoadUNET"),
    ],
)
def test_a_broken_workflow_is_found_out(harm: Callable[[Api], object], told: str) -> None:
    api = workflow()

    harm(api)

    assert told in "\n".join(faults(api, recorded_nodes()))


# --- noise and sigmas -------------------------------------------------------------------------


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
def test_comfyui_reads_exactly_the_schedules_sigmas(
    slow: tuple[float, ...], fast: tuple[float, ...]
) -> None:
    schedule = Schedule("own", slow, fast)

    sigmas = parse_sigmas(format_sigmas(schedule))

    expected = [*(step / 1000 for step in (*slow, *fast)), 0.0]
    assert np.float32(sigmas).tolist() == np.float32(expected).tolist()


def test_the_sigmas_are_as_people_write_them() -> None:
    sigmas = format_sigmas(PRESETS["guide"].schedule)

    assert sigmas == (
        "1, 0.9791915, 0.9575157, 0.9349171, 0.9113354, "
        "0.8867053, 0.7450728, 0.5629505, 0.3200802, 0.02, 0"
    )


def test_the_phases_meet_where_the_slow_steps_end() -> None:
    slow, fast = (1000.0, 900.0, 800.0), (700.0, 600.0, 500.0, 400.0, 300.0, 200.0, 100.0)

    api = workflow(schedule=Schedule("own", slow, fast))

    split = inputs(api, "SplitSigmas")
    assert split["step"] == 3
    # as ComfyUI's SplitSigmas does it: the sigma where they meet is in both halves
    sigmas = parse_sigmas(follow(api, split["sigmas"])[1]["sigmas"])
    assert (sigmas[: 3 + 1][-1], sigmas[3:][0], len(sigmas[3:])) == (0.7, 0.7, 8)


def test_each_sampler_takes_its_own_half() -> None:
    api = workflow()

    (split,) = find(api, "SplitSigmas")
    halves = [api[number]["inputs"]["sigmas"] for number in find(api, "SamplerCustomAdvanced")]
    assert halves == [[split, 0], [split, 1]]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_second_sampler_goes_on_with_the_firsts_noisy_latents(name: str) -> None:
    api = workflow(name, seed=7)

    first, second = find(api, "SamplerCustomAdvanced")
    start, goes_on = (api[number]["inputs"] for number in (first, second))
    assert follow(api, start["noise"]) == ("RandomNoise", {"noise_seed": 7})
    assert follow(api, goes_on["noise"]) == ("DisableNoise", {})
    assert goes_on["latent_image"] == [first, 0]  # 1 would be the picture that it foresees
    assert inputs(api, "VAEDecode")["samples"] == [second, 0]


@pytest.mark.parametrize("name", FAMILIES)
def test_it_begins_with_empty_latents_of_the_size(name: str) -> None:
    api = workflow(name, width=512, height=768)

    first = api[find(api, "SamplerCustomAdvanced")[0]]["inputs"]
    kind, empty = follow(api, first["latent_image"])
    assert kind == find_family(name).comfyui.latent
    assert empty == {"width": 512, "height": 768, "batch_size": 1}


def test_both_samplers_are_eulers() -> None:
    api = workflow()

    used = [api[number]["inputs"]["sampler"] for number in find(api, "SamplerCustomAdvanced")]
    assert [follow(api, link) for link in used] == [
        ("KSamplerSelect", {"sampler_name": "euler"})
    ] * 2


# --- guidance ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("phase", "told"), [(Phase.SLOW, 3.5), (Phase.FAST, 1.0)])
@pytest.mark.parametrize("name", ["flux", "flux2"])
def test_an_embedded_scale_is_told_in_each_phase(name: str, phase: Phase, told: float) -> None:
    api = workflow(name, slow_guidance=3.5)

    kind, given = guider(api, phase)
    assert kind == "BasicGuider"
    assert chain(api, given["conditioning"]) == ["FluxGuidance", "CLIPTextEncode"]
    assert follow(api, given["conditioning"])[1]["guidance"] == told


@pytest.mark.parametrize("phase", Phase)
def test_true_cfg_guides_beside_the_embedded_scale(phase: Phase) -> None:
    api = workflow("flux", true_cfg=2.5, negative_prompt="blurry")

    kind, given = guider(api, phase)
    assert (kind, given["cfg"]) == ("CFGGuider", 2.5)
    for part, text in (("positive", "a lighthouse at dusk"), ("negative", "blurry")):
        told, conditioning = follow(api, given[part])
        assert told == "FluxGuidance"
        assert conditioning["guidance"] == {Phase.SLOW: 3.5, Phase.FAST: 1.0}[phase]
        assert follow(api, conditioning["conditioning"])[1]["text"] == text


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_without_guidance_nothing_is_led_away_from(name: str) -> None:
    asked: dict[str, Any] = {"true_cfg": 1.0} if name == "flux" else {"slow_guidance": 1.0}

    api = workflow(name, **asked)

    assert [guider(api, phase)[0] for phase in Phase] == ["BasicGuider", "BasicGuider"]
    assert len(find(api, "CLIPTextEncode")) == 1


def test_a_guided_phase_takes_both_prompts_and_an_unguided_one_its_own() -> None:
    api = workflow("sd3", negative_prompt="blurry")

    kind, slow = guider(api, Phase.SLOW)
    assert (kind, slow["cfg"]) == ("CFGGuider", 7.0)
    assert follow(api, slow["positive"])[1]["text"] == "a lighthouse at dusk"
    assert follow(api, slow["negative"])[1]["text"] == "blurry"
    kind, fast = guider(api, Phase.FAST)
    assert (kind, fast["conditioning"]) == ("BasicGuider", slow["positive"])


@pytest.mark.parametrize(("name", "cfg"), [("z_image", 6.0), ("krea2", 5.5)])
def test_a_scale_that_counts_from_zero_is_comfyuis_less_one(name: str, cfg: float) -> None:
    api = workflow(name)

    assert (guider(api, Phase.SLOW)[0], guider(api, Phase.SLOW)[1]["cfg"]) == ("CFGGuider", cfg)
    assert guider(api, Phase.FAST)[0] == "BasicGuider"


@pytest.mark.parametrize("name", ["z_image", "sd3"])
def test_both_phases_may_be_guided(name: str) -> None:
    api = workflow(name, slow_guidance=3.0, fast_guidance=1.5)

    off = find_family(name).guidance.off
    scales = [guider(api, phase)[1]["cfg"] for phase in Phase]
    assert scales == [3.0 + 1 - off, 1.5 + 1 - off]


# --- LoRAs, models, text, references --------------------------------------------------------


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


def test_lumina_reads_what_its_pipeline_puts_before_the_prompt() -> None:
    api = workflow("lumina2", negative_prompt="blurry")

    positive = follow(api, guider(api, Phase.SLOW)[1]["positive"])[1]["text"]
    assert positive.startswith("You are an assistant designed to generate superior images")
    assert positive.endswith(" <Prompt Start> a lighthouse at dusk")


@pytest.mark.parametrize("negative", ["", "blurry"])
def test_nothing_is_put_before_luminas_negative_prompt(negative: str) -> None:
    """As in diffusers' Lumina2Pipeline.encode_prompt."""
    api = workflow("lumina2", negative_prompt=negative)

    assert follow(api, guider(api, Phase.SLOW)[1]["negative"])[1]["text"] == negative


def read_weights(text: str) -> list[tuple[str, float]]:
    """Read (words:1.2) as comfy/sd1_clip.py does, with one pair of brackets inside no other."""
    text = text.replace("\\(", "\0").replace("\\)", "\1")
    parts = [part for part in re.split(r"(\([^()]*\))", text) if part]
    weights = [(part.strip("()"), 1.1 if part.startswith("(") else 1.0) for part in parts]
    return [(part.replace("\0", "(").replace("\1", ")"), weight) for part, weight in weights]


def test_the_weights_of_words_are_read_as_comfyui_does() -> None:
    assert read_weights("a (black) cat") == [("a ", 1.0), ("black", 1.1), (" cat", 1.0)]
    assert read_weights(r"a \(black\) cat") == [("a (black) cat", 1.0)]


@pytest.mark.parametrize("name", WEIGHING)
def test_brackets_in_a_prompt_are_brackets_and_no_weights(name: str) -> None:
    prompt = r"a (black) cat, ((old)) \(sic\)"

    api = workflow(name, prompt=prompt)

    text = api[find(api, "CLIPTextEncode")[0]]["inputs"]["text"]
    ((read, weight),) = read_weights(text)
    assert read.endswith(prompt)
    assert weight == 1.0


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {*WEIGHING}))
def test_where_comfyui_reads_no_weights_brackets_stay_as_they_are(name: str) -> None:
    """Their tokenizers are called with disable_weights=True."""
    api = workflow(name, prompt="a (black) cat")

    texts = [node["inputs"].get("text", node["inputs"].get("prompt")) for node in api.values()]
    assert "a (black) cat" in texts


@pytest.mark.parametrize("name", EDITING)
def test_what_is_edited_is_read_with_both_prompts(name: str) -> None:
    api = workflow(name, negative_prompt="blurry")

    encoders = [api[number]["inputs"] for number in find(api, "TextEncodeQwenImageEditPlus")]
    assert [given["prompt"] for given in encoders] == ["a lighthouse at dusk", "blurry"]
    (picture,) = find(api, "LoadImage")
    assert [given["image1"] for given in encoders] == [[picture, 0]] * 2
    assert encoders[0]["vae"] == inputs(api, "VAEDecode")["vae"]
    assert find(api, "CLIPTextEncode") == []


@pytest.mark.parametrize(
    ("name", "methods"),
    [("qwen_image_edit_2509", []), ("qwen_image_edit_2511", ["index_timestep_zero"] * 2)],
)
def test_only_2511_is_told_how_references_are_meant(name: str, methods: list[str]) -> None:
    api = workflow(name)

    told = [api[number]["inputs"] for number in find(api, "FluxKontextMultiReferenceLatentMethod")]
    assert [given["reference_latents_method"] for given in told] == methods
    guided = guider(api, Phase.SLOW)[1]
    ends = {chain(api, guided[part])[-1] for part in ("positive", "negative")}
    assert ends == {"TextEncodeQwenImageEditPlus"}
    assert len(chain(api, guided["positive"])) == 1 + bool(methods)


# --- the base model's file --------------------------------------------------------------------


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
    ],
)
def test_the_models_file_is_found_by_its_name(name: str, model: str, file: str) -> None:
    assert guess_model(find_family(name), model).name == file


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("flux", "../../flux.1-dev-trials/mine"),
        ("flux", "acme/FLUX.1-dev-sketches"),
        ("z_image", "Tongyi-MAI/Z-Image-Turbo"),
        ("sd3", "stabilityai/stable-diffusion-3.5-large-turbo"),
    ],
)
def test_a_model_that_is_only_called_alike_is_not_taken_for_a_known_one(
    name: str, model: str
) -> None:
    assert guess_model(find_family(name), model).url is None


@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_default_model_is_known(name: str) -> None:
    family = find_family(name)

    assert guess_model(family, family.default_model) == family.comfyui.model
    assert family.comfyui.model.url is not None


def test_a_single_file_keeps_its_name() -> None:
    found = guess_model(find_family("sd3"), "stabilityai/x", "../models/sd35-mine.safetensors")

    assert found == ComfyFile("sd35-mine.safetensors", "diffusion_models")
