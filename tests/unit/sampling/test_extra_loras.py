"""LoRAs besides the pair's: what is said of them, what is refused, and what an image keeps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.pairs import LAYER, glance_header, write_lora, write_run
from fakes.plans import plan, pretend
from safetensors.numpy import save_file

from glance.core.errors import InputError, LoraError, Problem, SettingsError
from glance.core.phase import Phase
from glance.models.families import find_family
from glance.runs.folder import RunFolder
from glance.runs.manifest import load_manifest
from glance.runs.settings import Teacher
from glance.sampling.extra_loras import extra_notes, file_names, find_extras
from glance.sampling.generate import describe_workflow
from glance.sampling.provenance import format_parameters, read_record
from glance.sampling.request import ExtraLora

FINAL = {"glance.folded_scale": "1.0"}
STYLE = "styles/style.safetensors"


@pytest.fixture(autouse=True)
def _made() -> None:
    write_run(Path("runs/cat"))
    write_lora(Path(STYLE), FINAL, fill=3)


def problems(*said: str) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        find_extras(said)
    return caught.value.problems


@pytest.mark.parametrize(
    ("said", "file", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1.5e-1", "a.safetensors", -0.15),
        ("a.safetensors:.5", "a.safetensors", 0.5),
        ("me/style", "me/style", 1),
        ("me/style:2", "me/style", 2),
        ("me/style:a.safetensors", "me/style:a.safetensors", 1),
        ("me/style:a.safetensors:0.8", "me/style:a.safetensors", 0.8),
        (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1),
        (r"C:\loras\a.safetensors:0.8", r"C:\loras\a.safetensors", 0.8),
    ],
)
def test_a_strength_is_a_number_after_the_last_colon(said: str, file: str, strength: float) -> None:
    found = ExtraLora.parse(said)

    assert found == ExtraLora(file, strength) == ExtraLora.parse(str(found))


@pytest.mark.parametrize("strength", ["nan", "-inf", "10.1", "1e9"])
def test_a_strength_is_finite_and_no_stronger_than_the_pairs_may_be(strength: str) -> None:
    with pytest.raises(SettingsError, match="the strength must be from -10 to 10"):
        ExtraLora.parse(f"a.safetensors:{strength}")


def test_all_that_is_wrong_is_said_at_once() -> None:
    tensors = {f"{LAYER}.{half}.weight": np.ones((2, 2), "f4") for half in ("lora_A", "lora_B")}
    save_file({**tensors, f"{LAYER}.dora_scale": np.ones(2, "f4")}, "dora.safetensors")

    wrong = [
        one.message for one in problems(f"{STYLE}:strong", "no.safetensors", "dora.safetensors")
    ]

    assert wrong[:2] == [
        f"--lora {STYLE}:strong: 'strong' is no strength",
        "LoRA not found: no.safetensors",
    ]
    assert "DoRA" in wrong[2]


def test_a_lora_that_is_given_twice_is_refused_and_one_at_0_left_out() -> None:
    (twice,) = problems(STYLE, f"{STYLE}:0.5")

    assert "are the same LoRA" in twice.message
    assert find_extras([f"{STYLE}:0"]) == ()


def test_what_a_file_leaves_open_and_what_does_not_fit_is_said() -> None:
    write_lora(
        Path("open.safetensors"), {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}
    )
    write_lora(Path("half.safetensors"), glance_header(Phase.FAST), fill=2)
    save_file(
        {f"lora_te1_text_model.{half}.weight": np.ones((2, 2), "f4") for half in ("lora_up", "x")}
        | {f"{LAYER}.{half}.weight": np.ones((2, 2), "f4") for half in ("lora_A", "lora_B")},
        "text.safetensors",
        FINAL,
    )
    found = find_extras(["open.safetensors", "half.safetensors", "text.safetensors", STYLE])

    alpha, other, half, text = extra_notes(found, find_family("flux"))

    assert "open.safetensors says nothing of alpha: it is taken at scale 1" in alpha
    assert other.endswith("trained for stable-diffusion-xl-v1-base, the model is flux")
    assert half.endswith("is the fast LoRA of a pair: as --lora it works in both phases")
    assert "its 2 keys for a text encoder are left out" in text


def test_no_two_files_have_one_name_elsewhere() -> None:
    names = ("a/Style.safetensors", "b/style.safetensors", "ink/pytorch_lora_weights.safetensors")
    for fill, name in enumerate(names, 5):
        write_lora(Path(name), FINAL, fill=fill)

    found = file_names(find_extras(names), taken=("ink.safetensors",))

    assert found == ("Style.safetensors", "style-2.safetensors", "ink-2.safetensors")


def test_what_the_pair_was_taught_with_is_in_it_already() -> None:
    run = RunFolder(Path("runs/cat"))
    (style,) = find_extras([STYLE])
    manifest, loras = load_manifest(run), {"style.safetensors": style.facts.sha256}
    guided = dict.fromkeys(("guidance", "slow_guidance", "fast_guidance"), 3.5)
    told = {"prompts": ("x",), "sizes": ((64, 64),), "steps": 9, "noises": 1, "loras": loras}
    teacher = Teacher(**told, **guided)
    settings = manifest.settings.model_copy(update={"teacher": teacher})
    manifest.model_copy(update={"settings": settings}).save(run)

    notes = {loras: plan(extra_loras=(STYLE,), loras=loras).notes for loras in (None, ())}

    assert [any("in the pair already" in one for one in n) for n in notes.values()] == [True, False]


# --- what an image keeps of them -----------------------------------------------------------------


def test_an_image_keeps_them_without_naming_a_folder_and_is_another_one_for_it() -> None:
    asked = {"output": Path("out.png"), "extra_loras": (f"{STYLE}:0.7",)}
    source = pretend(plan(**asked).images[0])

    record = read_record(source)

    (kept,) = record.extra_loras
    assert (kept.name, kept.strength) == ("style.safetensors", 0.7)
    assert str(Path.cwd()) not in record.model_dump_json()
    assert format_parameters(record).startswith("A hill. <lora:style:0.7>\nSteps")
    assert f"style: {kept.sha256[:10]}" in format_parameters(record)
    for extra_loras, is_done in ((asked["extra_loras"], True), ((STYLE,), False), ((), False)):
        assert plan(**{**asked, "extra_loras": extra_loras}).images[0].is_done is is_done


def again(source: Path, **request: Any) -> Any:
    return plan(prompts=(), from_image=source, **request)


def test_an_image_is_repeated_with_them_or_with_others() -> None:
    write_lora(Path("ink.safetensors"), FINAL, fill=4)
    wanted = plan(extra_loras=(f"{STYLE}:0.7", "ink.safetensors:-0.25")).images[0]
    source = pretend(wanted)

    found = again(source, extra_loras=("ink.safetensors",))

    assert again(source).images[0].record.key() == wanted.record.key()
    assert list(found.extra_loras) == ["ink.safetensors"]
    assert any("the further LoRAs of" in note for note in found.notes)
    assert not again(source, extra_loras=(f"{STYLE}:0",)).extra_loras


@pytest.mark.parametrize("is_there", [True, False])
def test_a_file_that_is_gone_or_another_now_is_named_with_what_to_type(*, is_there: bool) -> None:
    write_lora(Path("ink.safetensors"), FINAL, fill=4)
    source = pretend(plan(extra_loras=(f"{STYLE}:0.7", "ink.safetensors")).images[0])
    if is_there:
        write_lora(Path(STYLE), FINAL, fill=9)
    else:
        Path(STYLE).rename("moved.safetensors")

    with pytest.raises(LoraError) as caught:
        again(source)

    (problem,) = caught.value.problems
    if is_there:
        assert "is not the file that" in problem.message
    else:
        assert "made with style.safetensors at strength 0.7" in problem.message
        assert (problem.hint or "").endswith("--lora FILE:0.7 --lora ink.safetensors:1")
        given = ("moved.safetensors:0.7", "ink.safetensors:1")
        assert not any("others" in note for note in again(source, extra_loras=given).notes)


def test_they_stand_before_both_phases_in_comfyuis_workflow_with_the_strength_it_cannot_read() -> (
    None
):
    write_lora(Path(STYLE), {"lora_alpha": "8"})  # of rank 2
    planned = plan(extra_loras=(f"{STYLE}:0.5",))

    nodes = describe_workflow(planned, planned.images[0]).to_api()

    loaders = {at: it for at, it in nodes.items() if it["class_type"] == "LoraLoaderModelOnly"}
    (style, *pair) = loaders
    assert loaders[style]["inputs"]["lora_name"] == "style.safetensors"
    assert loaders[style]["inputs"]["strength_model"] == 2
    assert [loaders[one]["inputs"]["model"] for one in pair] == [[style, 0]] * 2
