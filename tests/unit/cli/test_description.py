"""What `glance info` finds: in anybody's LoRA, in a run at any stage, in a picture of glance's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.pairs import LAYER, glance_header, write_lora
from fakes.records import make_record
from fakes.runs import RUN
from PIL import Image
from safetensors.numpy import save_file

from glance.cli._description import describe
from glance.core.errors import RunError
from glance.core.phase import Phase
from glance.models.lora.file import hash_data, hash_file, read_header, rewrite_metadata
from glance.runs.manifest import load_manifest
from glance.sampling.provenance import ExtraUse, LoraUse, write_image

FILE = Path("x.safetensors")
SLOW, FAST = Phase

type Tensors = dict[str, np.ndarray[Any, Any]]


def pair(stem: str, *, rank: int = 2, down: str = "lora_A", up: str = "lora_B") -> Tensors:
    return {
        f"{stem}.{down}.weight": np.ones((rank, 6), np.float32),
        f"{stem}.{up}.weight": np.ones((5, rank), np.float32),
    }


def write(tensors: Tensors, metadata: dict[str, str] | None = None) -> dict[str, Any]:
    """Write a file and return its document."""
    save_file(tensors, FILE, metadata)
    return dict(describe(FILE).document)


def lines(path: Path) -> str:
    return "\n".join(describe(path).lines)


@pytest.mark.parametrize(
    ("tensors", "style"),
    [
        (pair("transformer.a"), "diffusers"),
        (pair("diffusion_model.a"), "ComfyUI"),
        (pair("model.diffusion_model.a"), "ComfyUI, of a whole checkpoint"),
        (pair("lora_unet_a", down="lora_down", up="lora_up"), "kohya"),
        (pair("lora_transformer_a", down="lora_down", up="lora_up"), "OneTrainer"),
        (pair("base_model.model.a"), "PEFT"),
        (pair("a"), "bare names of layers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_spelling_of_the_keys_is_named(tensors: Tensors, style: str) -> None:
    document = write(tensors)

    assert (document["kind"], document["keys"], document["layers"]) == ("lora", [style], 1)
    assert f"  keys     {style}" in describe(FILE).lines


def test_ranks_types_sizes_and_hashes_are_those_that_others_know() -> None:
    tensors = pair("transformer.a") | pair("transformer.b", rank=8) | pair("transformer.c", rank=8)

    document = write(tensors)

    assert document["ranks"] == {"2": 1, "8": 2}
    assert document["dtypes"] == {"F32": 6}
    assert document["parameters"] == 11 * (2 + 8 + 8)
    assert document["bytes"] == FILE.stat().st_size
    assert "LoRA of 3 layers, rank 2 (1), 8 (2), F32, 198 parameters" in lines(FILE)
    assert document["sha256"] == hash_file(FILE)
    assert document["autov2"] == hash_file(FILE)[:10]
    assert document["autov3"] == hash_data(read_header(FILE))[:12]


@pytest.mark.parametrize(
    ("alphas", "metadata", "scales", "said"),
    [
        ({}, {}, {"1": 2}, None),
        ({"a": np.full((), 8, np.float32)}, {}, {"4": 1, "1": 1}, "alpha is in its tensors"),
        ({"a": np.full(1, 1, np.int64)}, {}, {"0.5": 1, "1": 1}, "alpha is in its tensors"),
        ({}, {"transformer.lora_alpha": 8}, {"4": 2}, "alpha is in its header"),
        (
            {"a": np.full((), 1, np.float32)},
            {"lora_alpha": 8},
            {"0.5": 1, "4": 1},
            "alpha is in its tensors",
        ),
    ],
    ids=["nowhere", "tensor", "integer", "header", "both"],
)
def test_scale_is_what_it_is_loaded_with(
    alphas: Tensors, metadata: dict[str, Any], scales: dict[str, int], said: str | None
) -> None:
    tensors = pair("a") | pair("b") | {f"{name}.alpha": value for name, value in alphas.items()}
    header = {"lora_adapter_metadata": json.dumps(metadata)} if metadata else None

    document = write(tensors, header)

    assert (document["scales"], document["alpha"]) == (scales, said)
    assert f"({said or 'alpha is not recorded; taken as the rank'})" in lines(FILE)


def test_what_glance_wrote_is_read_back() -> None:
    header = glance_header(FAST, **{"glance.boundary": "0.8867", "glance.pair_id": "abc"})

    document = write(pair("transformer.a"), header)

    assert (document["phase"], document["family"]) == ("fast", "flux")
    assert document["timesteps"][0] == 886.7053
    assert document["sigmas"][-1] == 0.02
    assert (document["boundary"], document["pair_id"]) == (0.8867, "abc")
    assert document["alpha"] == "glance folded 4.0 into lora_B"
    assert "  boundary   sigma 0.8867" in describe(FILE).lines


def test_all_metadata_are_whole_as_json_and_cut_for_people() -> None:
    long = "tag " * 1000

    document = write(pair("a"), {"modelspec.title": "A cat", "ss_tags": long})

    assert document["modelspec"] == {"title": "A cat"}
    assert document["metadata"] == {"modelspec.title": "A cat", "ss_tags": long}
    assert "  title  A cat" in describe(FILE).lines
    assert "... (4,000 characters)" in lines(FILE)
    assert max(map(len, describe(FILE).lines)) < 300


def test_nothing_in_it_moves_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x9b2J\r\u202e\u2066\n"
    header = {"modelspec.title": evil, f"k{evil}": "x", "glance.family": evil, "glance.phase": evil}
    document = write(pair("a") | {f"text_encoder.{evil}": np.ones(1, np.float32)}, header)

    assert all(character.isprintable() for line in describe(FILE).lines for character in line)
    assert document["modelspec"]["title"] == evil
    assert r"\x1b]0;owned\x07" in lines(FILE)


@pytest.mark.parametrize(
    ("tensors", "metadata", "problem"),
    [
        ({**pair("a"), "a.lora_B.weight": np.zeros((5, 2), np.float32)}, {}, "every lora_B"),
        ({**pair("a"), "a.lora_A.weight": np.full((2, 6), np.nan, np.float32)}, {}, "NaN"),
        ({**pair("a"), "a.lora_A.weight": np.ones((3, 6), np.float32)}, {}, "has rank 3"),
        ({"a.hada_w1_a": np.ones((3, 6), np.float32)}, {}, "LoHa"),
        (pair("a"), {"lora_adapter_metadata": "]"}, "cannot be read"),
        (pair("a"), {"glance.timesteps": "soon", "glance.phase": "later"}, "says phase later"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_problems_are_told_beside_what_is_there(
    tensors: Tensors, metadata: dict[str, str], problem: str
) -> None:
    document = write(tensors, metadata)

    assert problem in document["problems"][0]["message"]
    assert "x.safetensors" not in document["problems"][0]["message"]
    assert document["metadata"] == metadata
    assert hash_file(FILE) in lines(FILE)


def test_a_file_that_is_no_lora_is_said_to_be_none() -> None:
    empty = write({})
    document = write({"a.weight": np.ones((3, 6), np.float32)})

    assert (empty["kind"], empty["parameters"]) == ("safetensors", 0)
    assert empty["problems"][0]["message"] == "it holds no LoRA pair"
    assert (document["kind"], document["layers"], document["ranks"]) == ("safetensors", 0, {})
    assert "x.safetensors: safetensors, no LoRA: 1 tensor, F32, 18 parameters" in lines(FILE)


@pytest.mark.usefixtures("fully_trained")
def test_a_finished_run_is_one_pair_as_recorded() -> None:
    document = describe(RUN.path).document

    manifest = load_manifest(RUN)
    assert (document["kind"], document["is_pair"]) == ("run", True)
    assert document["pair_id"] == manifest.pair_id
    assert document["manifest"]["settings"]["steps"] == 5
    for phase in Phase:
        found = document["phases"][phase]
        assert (found["state"], found["is_recorded"], found["problems"]) == ("done", True, [])
        assert found["lora"]["pair_id"] == manifest.pair_id
    assert document["next"][0] == 'glance infer --run runs/cat --prompt "..."'


@pytest.mark.usefixtures("half_trained")
def test_an_unfinished_run_says_how_to_go_on() -> None:
    document = describe(RUN.path).document

    assert [document["phases"][phase]["state"] for phase in Phase] == ["done", "pending"]
    assert document["phases"]["fast"] == {
        "state": "pending",
        "attempts": [],
        "lora": None,
        "is_recorded": None,
        "problems": [],
    }
    assert document["next"] == ["glance train --resume runs/cat"]
    assert "glance infer" not in lines(RUN.path)


@pytest.mark.usefixtures("fully_trained")
def test_another_file_in_its_place_is_noticed() -> None:
    write_lora(RUN.lora(FAST), glance_header(FAST, **{"glance.pair_id": "another"}))

    document = describe(RUN.path).document

    assert document["is_pair"] is False
    assert document["phases"]["fast"]["is_recorded"] is False
    assert (
        "not the file that the run recorded" in document["phases"]["fast"]["problems"][0]["message"]
    )
    assert "but its LoRAs are of another pair" in lines(RUN.path)


def test_a_folder_that_holds_one_lora_is_that_lora() -> None:
    write_lora(Path("lora/peft_slow/adapter_model.safetensors"))
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8}
    Path("lora/peft_slow/adapter_config.json").write_text(json.dumps(config))

    found = describe(Path("lora/peft_slow"))

    assert found.document["path"] == "lora/peft_slow/adapter_model.safetensors"
    assert found.document["scales"] == {"4": 1}
    assert "  scale    4 (alpha is in adapter_config.json beside it)" in found.lines


def test_a_folder_of_none_or_several_is_refused() -> None:
    Path("none").mkdir()
    with pytest.raises(RunError, match="not a run folder") as caught:
        describe(Path("none"))
    for name in "ab":
        write_lora(Path(f"loras/{name}.safetensors"))

    (problem,) = caught.value.problems
    assert problem.hint == "give a .safetensors file, a folder that holds one LoRA, or a run"
    with pytest.raises(RunError, match=r"loras holds 2 LoRAs: a\.safetensors, b\.safetensors"):
        describe(Path("loras"))


def paint(path: Path, prompt: str = "a cat", **changes: Any) -> Path:
    """Write a picture whose LoRAs are slow.safetensors, here, and one on the Hub."""
    slow = write_lora(Path("slow.safetensors"))
    uses = (
        LoraUse(phase=SLOW, file=slow.name, sha256=hash_file(slow), scale=1.0),
        LoraUse(phase=FAST, file="me/cat:fast.safetensors", sha256="b" * 64, scale=0.8),
    )
    write_image(Image.new("RGB", (64, 64)), path, make_record(prompt, loras=uses, **changes))
    return path


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp"])
def test_a_picture_says_how_it_is_made_again(name: str) -> None:
    document = describe(paint(Path(name))).document

    assert (document["kind"], document["record"]["settings"]["seed"]) == ("picture", 7)
    assert [lora["state"] for lora in document["loras"]] == ["there", "on the Hub"]
    assert document["command"] == f"glance infer --from-image {name}"
    assert f"{name}: image, 64x64, 10 steps, seed 7" in lines(Path(name))
    assert f"again: glance infer --from-image {name}" in describe(Path(name)).lines


def test_its_loras_are_looked_for() -> None:
    path = paint(Path("x.png"))

    rewrite_metadata(read_header(Path("slow.safetensors")), {}, Path("slow.safetensors"))
    changed = describe(path).document["loras"][0]
    style = ExtraUse(
        name="style.safetensors", file="style.safetensors", sha256="c" * 64, strength=0.7
    )
    assert "  further: style.safetensors, strength 0.7, missing" in lines(
        paint(Path("y.png"), extra_loras=(style,))
    )
    Path("slow.safetensors").unlink()
    gone = describe(path).document["loras"][0]

    assert (changed["state"], gone["state"]) == ("another file by now", "missing")
    assert changed["sha256"] == gone["sha256"]


def test_a_picture_of_saved_latents_needs_them_again_and_moves_no_terminal() -> None:
    path = paint(Path("x y.png"), prompt="a \x1b[31mred\x1b[0m\ncat", init_latents_sha256="c" * 64)

    found = describe(path)

    command = "glance infer --from-image 'x y.png' --init-latents FILE"
    assert found.document["command"] == command
    assert all(character.isprintable() for line in found.lines for character in line)


def test_saved_latents_are_known() -> None:
    record = json.loads(json.dumps(describe(paint(Path("x.png"))).document["record"]))
    save_file({"latents": np.ones((1, 4, 4), np.float32)}, FILE, {"glance": json.dumps(record)})

    document = describe(FILE).document

    assert (document["kind"], document["record"]) == ("latents", record)
    assert document["command"] == "glance infer --init-latents x.safetensors"
    assert LAYER not in lines(FILE)
