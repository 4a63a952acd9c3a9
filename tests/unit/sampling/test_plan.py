"""What is decided before anything is loaded: the schedule; an image again, from its record."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.pairs import glance_header, write_lora, write_pair, write_run
from fakes.plans import plan, pretend
from PIL import Image
from safetensors.numpy import save_file

from glance.core.device import Quantize
from glance.core.errors import InputError, LoraError, ScheduleError, UsageError
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.families import find_family
from glance.sampling.lora_pair import LoraPair
from glance.sampling.plan import GenerationPlan, decide_schedule
from glance.sampling.provenance import read_record
from glance.sampling.request import InferRequest
from glance.sampling.settings import resolve_sample_settings
from glance.schedule.lists import PRESETS, Schedule
from glance.schedule.options import ScheduleOptions
from glance.schedule.shift import derive_schedule

GUIDE, PAPER = PRESETS["guide"].schedule, PRESETS["paper"].schedule


def decided(
    trained: Schedule | None,
    *sizes: tuple[int, int],
    family: str = "flux",
    loras: tuple[Phase, ...] = tuple(Phase),
    **request: Any,
) -> tuple[Schedule, list[str]]:
    row = find_family(family)
    pictures = [
        resolve_sample_settings(row, prompt="x", width=width, height=height, loras=loras)
        for width, height in sizes or ((1024, 1024),)
    ]
    pair = LoraPair(base=BaseModel(row, row.default_model), schedule=trained, side=1024)
    return decide_schedule(InferRequest(**request), pair, pictures)


def test_what_was_trained_is_run_else_the_guides() -> None:
    assert decided(PAPER) == (PAPER, [])
    assert decided(None)[0] is GUIDE


def test_timesteps_that_a_lora_was_not_trained_on_are_warned_of() -> None:
    found, notes = decided(GUIDE, schedule=ScheduleOptions(fast_timesteps="886.7053,500,20"))

    assert found.fast_timesteps == (886.7053, 500, 20)
    assert notes == [
        "the fast LoRA runs at timesteps 886.705 500 20, "
        "it was trained on 886.705 745.073 562.951 320.08 20"
    ]


def test_nobody_is_warned_of_a_part_of_the_list_or_of_a_lora_that_is_not_used() -> None:
    assert decided(GUIDE, schedule=ScheduleOptions(fast_timesteps="886.7053,20"))[1] == []
    assert decided(GUIDE, schedule="paper", loras=())[1] == []


@pytest.mark.parametrize(
    ("trained", "family", "size", "within"),
    [
        (PAPER, "flux", (512, 512), 3e-4),
        (GUIDE, "qwen_image", (512, 768), 2e-3),  # a schedule that is stretched to its end, 20
        (GUIDE, "qwen_image", (1024, 1024), 2e-3),
    ],
)
def test_reshift_moves_the_teachers_steps_to_those_of_another_size(
    trained: Schedule, family: str, size: tuple[int, int], within: float
) -> None:
    found = decided(trained, size, family=family, reshift=True)[0]

    there = derive_schedule(find_family(family).shift, size)
    assert found.slow_timesteps == pytest.approx(there.slow_timesteps, abs=within)
    assert found.fast_timesteps == pytest.approx(there.fast_timesteps, abs=within)
    assert found.name == f"{trained.name} for {size[0]}x{size[1]}"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"family": "sd3", "reshift": True}, "has the same schedule at every size"),
        ({"reshift": True}, "several sizes: 256x512, 512x512"),
        ({"schedule": "auto"}, "--schedule auto gives one schedule"),
        ({"schedule": "own"}, "--schedule own gives one schedule"),
    ],
)
def test_a_schedule_of_one_size_is_refused_for_more(asked: dict[str, Any], message: str) -> None:
    sizes = [(512, 512), (256, 512)][: 1 if "family" in asked else 2]

    with pytest.raises(ScheduleError, match=message):
        decided(GUIDE, *sizes, **asked)


def test_the_models_own_schedule_is_that_of_the_images_size() -> None:
    options = ScheduleOptions(name="auto", slow_steps=2, fast_steps=3)
    found = decided(None, (512, 512), schedule=options)[0]

    shift = find_family("flux").shift
    assert shift is not None
    assert found == derive_schedule(shift, (512, 512), slow_steps=2, fast_steps=3)


def test_sampling_at_another_size_than_trained_says_what_that_changes() -> None:
    (note,) = decided(PAPER, (512, 512))[1]

    assert "trained at 1024x1024" in note
    assert "stays less in the noise (shift 1.88 instead of 3.16)" in note
    assert "--reshift" in note


def test_nothing_is_said_where_size_changes_nothing_or_nobody_knows_it_or_no_lora_runs() -> None:
    for family, size in (("sd3", (512, 512)), ("flux", (1024, 1024)), ("flux", (1008, 1024))):
        assert decided(GUIDE, size, family=family)[1] == []
    row = find_family("flux")
    picture = resolve_sample_settings(row, prompt="x", width=512, height=512)
    unknown = LoraPair(base=BaseModel(row, row.default_model), schedule=PAPER)

    assert decide_schedule(InferRequest(), unknown, [picture]) == (PAPER, [])
    assert decided(PAPER, (512, 512), loras=())[1] == []


@pytest.fixture(autouse=True)
def _run() -> None:
    write_run(Path("runs/cat"))


def again(source: Path, **request: Any) -> GenerationPlan:
    return plan(prompts=(), from_image=source, **request)


def test_a_image_is_repeated_in_every_setting() -> None:
    wanted = plan(
        seeds=(7,),
        slow_guidance=2.0,
        fast_scale=0.5,
        width=128,
        schedule=ScheduleOptions(fast_timesteps="886,500"),
        loras=(Phase.FAST,),
        quantize=Quantize.FP8,
    )

    found = again(pretend(wanted.images[0]))

    assert found.images[0].record.key() == wanted.images[0].record.key()
    assert found.settings == wanted.settings
    assert (found.schedule, found.quantize) == (wanted.schedule, Quantize.FP8)
    assert found.loras.keys() == {Phase.FAST}


def test_flags_go_over_what_a_image_says() -> None:
    source = pretend(plan(seeds=(7,), slow_guidance=2.0).images[0])

    found = plan(prompts=("a sea",), from_image=source, width=128).settings

    assert (found.prompt, found.seed, found.slow_guidance, found.width) == ("a sea", 7, 2.0, 128)


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_image_names_no_folder_and_finds_all_that_is_moved_with_it(*, by_hand: bool) -> None:
    Path("anna/a customer").mkdir(parents=True)
    Path("runs").rename("anna/a customer/runs")
    loras = write_pair(Path("anna/a customer/loras")) if by_hand else {}
    given = (
        {**loras, "model": "acme/tiny"} if by_hand else {"run": Path("anna/a customer/runs/cat")}
    )
    picture = pretend(plan(output=Path("anna/pictures/x.png"), **given).images[0])
    Path("anna").rename("ben")
    picture = Path("ben/pictures/x.png")

    record = read_record(picture)
    found = again(picture)

    assert b"customer" not in picture.read_bytes()
    assert set(record.run or "..") <= set("./~0123456789abcdefcat")
    if not by_hand:  # within the run, which is given away with the picture, names stay
        assert record.loras[0].file.endswith("/output/glance-slow/pytorch_lora_weights.safetensors")
    assert found.images[0].record.key() == record.key()
    assert {path.resolve().parts[-3:-2] for path in found.loras.values()} <= {
        ("output",),
        ("a customer",),
    }


def test_a_image_whose_lora_was_trained_again_is_refused() -> None:
    source = pretend(plan().images[0])
    lora = Path("runs/cat/output/glance-slow/pytorch_lora_weights.safetensors")
    write_lora(lora, glance_header(Phase.SLOW), fill=2.0)

    with pytest.raises(LoraError, match=r"is not the file that .* was made with") as caught:
        again(source)

    assert "--run, or --slow-lora and --fast-lora" in (caught.value.problems[0].hint or "")


def test_another_lora_that_is_asked_for_is_taken_and_mentioned() -> None:
    source = pretend(plan().images[0])
    files = write_pair(Path("other"))
    write_lora(Path(files["slow_lora"]), glance_header(Phase.SLOW), fill=2.0)

    found = again(source, **files, model="acme/tiny")

    assert f"the slow LoRA is not that of {source}" in found.notes


def test_other_versions_are_mentioned() -> None:
    picture = plan().images[0]
    old = picture.record.model_copy(update={"versions": {"torch": "1.0"}})
    source = pretend(replace(picture, record=old))

    assert any("was made with torch 1.0, here is" in note for note in again(source).notes)


def write_latents(**request: Any) -> Path:
    record = plan(**request).images[0].record
    path = Path("runs/cat/images/x.latents.safetensors")
    path.parent.mkdir()
    save_file({"latents": np.zeros((1, 16, 64))}, path, {"glance": record.model_dump_json()})
    return path


def test_latents_bring_prompt_seed_and_size() -> None:
    path = write_latents(seeds=(5,), width=128)

    found = plan(prompts=(), init_latents=path)

    assert (found.settings.prompt, found.settings.seed, found.settings.width) == ("A hill.", 5, 128)
    assert found.loras.keys() == {Phase.FAST}


def test_latents_that_went_elsewhere_alone_ask_for_the_lora() -> None:
    path = write_latents().rename("x.latents.safetensors")
    lora = write_pair(Path("loras"))["fast_lora"]

    with pytest.raises(LoraError, match="which is not there any more"):
        plan(init_latents=path)
    assert plan(init_latents=path, fast_lora=lora, model="acme/tiny").loras == {
        Phase.FAST: Path(lora)
    }


@pytest.mark.parametrize("flags", [{"seeds": (3,)}, {"count": 2}])
def test_latents_have_their_noise_already(flags: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="saved latents are past that"):
        plan(init_latents=write_latents(), **flags)


def test_latents_that_do_not_fit_are_refused_with_every_reason() -> None:
    path = write_latents()

    with pytest.raises(InputError) as caught:
        plan(init_latents=path, width=128, schedule="paper")

    assert [one.message for one in caught.value.problems] == [
        f"{path} holds latents at timestep 886.705, the fast phase begins at 926.647",
        f"{path} holds latents of 64x64 pixels, not of 128x64",
    ]


def test_what_holds_no_latents_or_others_than_an_image_began_from_is_refused() -> None:
    source = pretend(plan(init_latents=write_latents()).images[0])
    other = write_lora(Path("x.safetensors"))

    with pytest.raises(InputError, match="holds no latents of glance's"):
        plan(init_latents=other)
    with pytest.raises(InputError, match="was generated from saved latents"):
        again(source)
    with pytest.raises(InputError, match="holds other latents than"):
        again(source, init_latents=other)


def test_a_image_finds_what_it_was_made_of_and_a_changed_one_is_another_picture() -> None:
    Path("model/transformer").mkdir(parents=True)
    Path("model/transformer/config.json").write_text('{"zero_cond_t": true}')
    Path("model/model_index.json").write_text('{"_class_name": "QwenImageEditPlusPipeline"}')
    write_run(Path("runs/edit"), family="qwen_image_edit_2511", model="../../model")
    Image.new("RGB", (64, 64), "red").save("before.png")
    wanted = {"run": Path("runs/edit"), "reference": Path("before.png"), "seeds": (1, 2)}
    picture = plan(**wanted).images[0]
    source = pretend(picture)

    found = again(source).images[0]

    assert found.settings.reference == Path("before.png")
    assert found.record.key() == picture.record.key()
    Image.new("RGB", (64, 64), "blue").save("before.png")
    assert [one.is_done for one in plan(**wanted).images] == [False, False]
    assert any("the reference is not that of" in note for note in again(source).notes)
