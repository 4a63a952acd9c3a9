"""What a distillation is, decided from a folder that holds no weights."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.distillations import MODEL, distil, make_model
from fakes.pairs import write_lora
from PIL import Image

from glance.core.errors import GlanceError, InputError, Problem, UsageError
from glance.core.phase import Phase
from glance.models.base import find_packaged
from glance.models.families import find_family
from glance.sampling.prompts import judging_prompts, teaching_prompts
from glance.training.distillation import DistillationPlan, plan_distillation
from glance.training.request import DistillRequest

EDIT = "qwen_image_edit_2511"
BACKENDS = "config/multidatabackend.json"


@pytest.fixture(autouse=True)
def model() -> None:
    """A FLUX in the current folder."""
    make_model()


def usual(**changes: Any) -> DistillationPlan:
    """Plan with the defaults of the command."""
    return plan_distillation(DistillRequest(**{"model": str(MODEL), "device": "cpu", **changes}))


def configs(plan: DistillationPlan) -> list[Any]:
    return [plan.training.files[f"config/glance-{phase}/config.json"] for phase in Phase]


def targets(plan: DistillationPlan) -> list[Any]:
    return [plan.training.files[f"config/glance-{phase}/targets.json"] for phase in Phase]


def warnings(plan: DistillationPlan) -> list[str]:
    return [warning.message for warning in plan.training.warnings]


def problems(**changes: Any) -> list[Problem]:
    with pytest.raises(InputError) as caught:
        distil(**changes)
    return list(caught.value.problems)


def problem(**changes: Any) -> str:
    (only,) = problems(**changes)
    return only.message


# What is taken where nothing is said


def test_an_accelerator_is_given_a_batch_one_sample_at_a_time() -> None:
    config, _ = configs(usual(device="cuda"))

    assert (config["train_batch_size"], config["gradient_accumulation_steps"]) == (1, 4)


def test_without_prompts_those_of_the_package_are_learnt_from() -> None:
    plan = usual()

    assert plan.teacher.prompts == teaching_prompts(128, world=False)
    assert (plan.teacher.noises, plan.teacher.steps, len(plan.paths)) == (1, 50, 128)
    assert plan.judging == judging_prompts(16, world=False)
    assert plan.run.path == Path("runs/model-distilled")
    assert warnings(plan) == []


def test_the_packages_small_model_learns_captions_of_its_own_world_at_its_own_size() -> None:
    plan = usual(model=find_packaged("small-flux"))

    assert plan.teacher.prompts == teaching_prompts(128, world=True)
    assert plan.judging == judging_prompts(16, world=True)
    assert plan.teacher.sizes == ((64, 64),)


def test_the_usual_size_is_the_familys() -> None:
    assert usual().teacher.sizes == ((1024, 1024),)


def test_the_usual_schedule_is_what_diffusers_steps_in_four() -> None:
    plan = usual()
    many = plan.sigmas[1024, 1024]

    assert plan.training.schedule.name == "own"
    assert [len(plan.training.schedule.phase(phase).sigmas) for phase in Phase] == [2, 2]
    assert plan.kept_sigmas == pytest.approx((1, 0.9045, 0.7595, 0.5128, 0), abs=1e-4)
    assert (len(many), many[0]) == (50, 1.0)


def test_the_trainer_is_told_of_a_rank_that_is_alpha_and_of_every_layer_of_the_blocks() -> None:
    for config in configs(usual()):
        assert (config["lora_rank"], config["lora_alpha"]) == (16, 16)
        layers = json.loads(config["peft_lora_target_modules"])
        assert layers == list(find_family("flux").block_layers)
        assert (config["lr_scheduler"], config["learning_rate"]) == ("linear", 1e-3)
        assert (config["max_train_steps"], config["train_batch_size"]) == (400, 4)


def test_a_large_model_is_taught_at_a_lower_rate_than_a_small_one() -> None:
    config, _ = configs(usual(model=None, device="cuda"))

    assert config["learning_rate"] == 2e-4


def test_a_model_is_called_by_its_whole_name() -> None:
    run = usual(model=None, device="cuda").run

    assert run.path == Path("runs/FLUX.1-dev-distilled")


def test_the_device_need_not_be_here_to_plan_for_it() -> None:
    assert configs(usual(device="cuda"))[0]["mixed_precision"] == "bf16"


# Sizes


def test_each_size_has_pictures_of_its_own() -> None:
    plan = distil(sizes=("128x64", "64x192", "128X64"), noises=3, steps=10, batch_size=2)
    wide, tall, _ = plan.training.files[BACKENDS]

    assert plan.teacher.sizes == ((128, 64), (64, 192))
    assert len(plan.paths) == 2 * 3 * 2
    assert [wide["instance_data_dir"], tall["instance_data_dir"]] == ["data/128x64", "data/64x192"]
    assert [wide["cache_dir_vae"], tall["cache_dir_vae"]] == [
        "cache/vae-128x64",
        "cache/vae-64x192",
    ]
    # 20 samples of 6 pictures of each size
    assert [wide["repeats"], tall["repeats"]] == [4, 4]
    names = [one.picture(plan.run).relative_to(plan.run.path) for one in plan.paths]
    assert str(names[0]) == "data/128x64/0001-1-128x64.png"
    assert str(names[-1]) == "data/64x192/0002-3-64x192.png"
    assert set(plan.sigmas) == {(128, 64), (64, 192)}


def test_one_size_lies_in_the_one_data_folder() -> None:
    plan = distil()
    images, _ = plan.training.files[BACKENDS]

    assert (images["instance_data_dir"], images["repeats"]) == ("data", 2)  # 5 samples of 4
    assert plan.paths[0].picture(plan.run) == plan.run.data / "0001-1.png"


def test_no_noise_and_no_place_is_there_twice() -> None:
    plan = distil(sizes=("64x64", "64x128"), noises=3)

    assert len({one.settings.seed for one in plan.paths}) == len(plan.paths)
    assert len({one.recording(plan.run) for one in plan.paths}) == len(plan.paths)


@pytest.mark.parametrize(
    "size", ["64", "axb", "100x100", "0x64", "64x8256", "-64x64", "64x", "9" * 5000 + "x64"]
)
def test_what_is_no_size_is_refused(size: str) -> None:
    (refused,) = problems(sizes=("64x64", size))

    assert refused.message.startswith(f"--size {size[:40]}: not width x height in multiples of 64")
    assert refused.hint == "--size 1024x1024, or --size 832x1216"


# Guidance


def test_embedded_guidance_is_the_teachers_in_both_phases() -> None:
    plan = distil()

    assert plan.teacher.guidance == 3.5
    assert [plan.teacher.guidance_of(phase) for phase in Phase] == [3.5, 3.5]
    assert [config["flux_guidance_value"] for config in configs(plan)] == [3.5, 3.5]
    assert [one["guidance"] for one in targets(plan)] == [3.5, 3.5]
    assert distil(guidance=2).teacher.fast_guidance == 2


def test_classifier_free_guidance_is_learnt_and_off_afterwards() -> None:
    make_model("sd3")

    plan = distil()

    assert plan.teacher.guidance == 7
    assert [plan.teacher.guidance_of(phase) for phase in Phase] == [1, 1]
    assert plan.generation.settings.slow_guidance == plan.generation.settings.fast_guidance == 7
    assert ["guidance" in one for one in targets(plan)] == [False, False]


# What it costs


def test_a_guided_teacher_takes_two_passes_a_step() -> None:
    embedded = distil(teacher_steps=10)
    make_model("sd3")

    assert embedded.forwards == 2 * 2 * 10
    assert distil(teacher_steps=10).forwards == 2 * 2 * 10 * 2
    assert distil(teacher_steps=10, guidance=1).forwards == 2 * 2 * 10


def test_the_states_take_what_is_said() -> None:
    plan = distil(sizes=("64x64", "128x64"))

    # 4 paths a size, 5 states each of 16 channels at an eighth of the width and height, float32
    assert plan.recorded_bytes == 4 * 5 * 16 * (8 * 8 + 16 * 8) * 4


def test_ten_thousand_prompts_are_planned_and_what_is_never_seen_is_said() -> None:
    Path("many.txt").write_text("".join(f"picture {number}\n" for number in range(10_000)))

    plan = distil(prompts=(), prompt_file=Path("many.txt"), steps=600, batch_size=4)

    (warning,) = plan.training.warnings
    assert warning.message == "20,000 paths are recorded, of which 600 steps of batch 4 see 2,400"
    assert warning.hint is not None
    assert warning.hint.startswith("--steps 5000 sees each of them once")
    assert plan.to_json()["recording"]["forwards"] == 20_000 * 50


# What the trainer reads


def test_targets_name_all_sigmas_and_the_receipt_of_the_phase() -> None:
    plan = distil()
    slow, fast = targets(plan)

    assert slow["sigmas"] == fast["sigmas"] == list(plan.kept_sigmas)
    assert slow["folder"] == "cache/teacher"
    assert plan.run.path / slow["folder"] == plan.run.recordings
    assert fast["receipt"] == "config/glance-fast/targets-in-use.txt"


def test_the_batch_size_has_an_option_of_its_own() -> None:
    (refused,) = problems(overrides=["train_batch_size=3"])

    assert "use --batch-size" in (refused.hint or "")


def test_other_options_of_the_trainer_are_taken() -> None:
    plan = distil(overrides=["lora_dropout=0.1"])

    assert configs(plan)[0]["lora_dropout"] == 0.1
    assert "--set lora_dropout=0.1: replaces glance's 0.0" in warnings(plan)


# The teacher's LoRAs


def test_the_teachers_loras_are_known_by_name_and_content() -> None:
    for name in ("style", "face"):
        write_lora(Path(f"{name}.safetensors"), {"glance.folded_scale": "1.0"}, fill=len(name))
    paths = (Path("style.safetensors"), Path("face.safetensors"))

    plan = distil(teacher_loras=paths)

    assert list(plan.teacher.loras) == ["face.safetensors", "style.safetensors"]
    assert plan.generation.base_loras == paths
    assert plan.teacher == distil(teacher_loras=paths[::-1]).teacher
    assert "the base model with face.safetensors, style.safetensors, " in plan.teacher.describe()


def test_what_a_teachers_lora_leaves_open_is_said() -> None:
    write_lora(Path("x.safetensors"), {"glance.family": "sd3"})

    found = warnings(distil(teacher_loras=(Path("x.safetensors"),)))

    assert "x.safetensors records no alpha: the base model is sampled with it at scale 1" in found
    assert "x.safetensors was trained for sd3, the model is flux" in found


def test_what_is_no_lora_is_refused_each_by_its_name() -> None:
    Path("text.safetensors").write_text("a cat")
    write_lora(Path("a/x.safetensors"))
    write_lora(Path("b/x.safetensors"), fill=2)
    paths = ("text.safetensors", "nowhere.safetensors", "a/x.safetensors", "b/x.safetensors")

    found = problems(teacher_loras=tuple(map(Path, paths)))

    first, second, third = (one.message for one in found)
    assert first.startswith("text.safetensors: not a whole safetensors file")
    assert second == "LoRA not found: nowhere.safetensors"
    assert third == "--teacher-lora: 2 files are called x.safetensors"


# Families that edit


def test_a_family_that_edits_begins_with_a_reference_and_paints_in_its_shape() -> None:
    make_model(EDIT)
    Image.new("RGB", (200, 100)).save("before.png")

    plan = distil(reference=Path("before.png"), sizes=())

    assert plan.teacher.sizes == ((1472, 704),)
    assert plan.teacher.reference is not None
    images, reference, _ = plan.training.files[BACKENDS]
    assert images["conditioning_data"] == [reference["id"]]


def test_a_reference_is_there_where_it_is_needed_and_only_there() -> None:
    Image.new("RGB", (64, 64)).save("before.png")
    assert (
        problem(reference=Path("before.png")) == "--source-image: FLUX.1 generates from text alone"
    )

    make_model(EDIT)
    assert "there is no --source-image" in problem()
    assert "nowhere.png" in problem(reference=Path("nowhere.png"))
    assert "at one size" in problem(
        reference=Path("before.png"), sizes=("64x64", "128x64", "128x64")
    )


# Prompts


def write(content: str | bytes, name: str = "prompts.txt") -> dict[str, Any]:
    """Write a prompt file; return how it is asked for."""
    path = Path(name)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return {"prompts": (), "prompt_file": path}


def test_equal_prompts_are_learnt_from_once_and_it_is_said() -> None:
    plan = distil(**write("a cat\na dog\n a cat \na cat\n"))

    assert plan.teacher.prompts == ("a cat", "a dog")
    assert "2 of 4 prompts are there already: 2 are learnt from" in warnings(plan)


def test_a_json_line_may_hold_several_lines_of_text() -> None:
    plan = distil(**write('"a cat\\nand a dog"\n{"prompt": "a hill"}\n', "prompts.jsonl"))

    assert plan.teacher.prompts == ("a cat\nand a dog", "a hill")
    assert distil(prompts=("a cat\nand a dog",)).teacher.prompts == ("a cat\nand a dog",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "prompt file prompts.txt: there is no prompt in it"),
        ("# nothing\n\n", "prompt file prompts.txt: there is no prompt in it"),
        ("a" * 100_000, "it must have at most 65536 characters"),
        (b"a cat\nun caf\xe9\n", "prompt file prompts.txt is not UTF-8 (byte 12)"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "prompt file prompts.txt is a PNG picture"),
        ("a cat\nGIF\x00\x1b", "prompts.txt:2: prompt: "),
        (b"a\n" * 5_000_001, "prompt file prompts.txt is larger than 10 MB"),
    ],
    ids=["empty", "comments", "one long line", "latin1", "picture", "binary", "huge"],
)
def test_a_bad_prompt_file_is_refused(content: str | bytes, message: str) -> None:
    assert message in problem(**write(content))


@pytest.mark.parametrize("name", ["nowhere.txt", "model"])
def test_what_is_no_file_is_refused(name: str) -> None:
    assert f"prompt file {name} " in problem(prompts=(), prompt_file=Path(name))


def test_all_prompts_are_learnt_from_alike() -> None:
    lines = '{"prompt": "a cat", "seed": 7}\n"a dog"\n{"prompt": "a hill", "width": 64, "count": 2}'

    first, second = problems(**write(lines, "prompts.jsonl"))

    assert first.message.startswith("prompts.jsonl, prompt 1: it says seed as well")
    assert second.message.startswith("prompts.jsonl, prompt 3: it says count, width as well")


def test_a_bad_prompt_is_refused_by_its_number() -> None:
    found = problems(prompts=("a cat", " ", "caf\udce9", "a" * 100_000, "\x1b[2J"))

    assert [one.message.partition(":")[0] for one in found] == [
        f"--prompt, number {number}" for number in (2, 3, 4, 5)
    ]
    assert found[0].message.endswith("It is empty")


def test_prompts_are_given_one_by_one_or_in_a_file() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        distil(prompts=("a cat",), prompt_file=Path("x.txt"))


def test_few_prompts_are_warned_of() -> None:
    found = warnings(distil())

    assert "2 prompts teach what those pictures have, and may make others worse" in found


def test_prompts_that_the_model_does_not_read_whole_are_warned_of() -> None:
    many = tuple(f"{number} " + "cat " * 500 for number in range(5))

    found = [text for text in warnings(distil(prompts=many)) if "token" in text or "long" in text]

    assert len(found) == 4
    assert found[0].startswith("the prompt '0 cat cat")
    assert "has about 651 tokens, but FLUX.1 reads 512" in found[0]
    assert found[-1] == "2 prompts more are too long for FLUX.1"


def test_the_pair_is_judged_on_prompts_that_it_does_not_learn() -> None:
    ours = judging_prompts(32, world=False)

    assert distil(prompts=ours[:30], compares=True).judging == ours[30:]
    assert "all 32 that glance would judge" in problem(prompts=ours, compares=True)
    assert distil(prompts=ours).judging == ()


def test_more_paths_than_anybody_waits_for_are_refused_before_one_is_laid_out() -> None:
    many = tuple(f"hill {number}" for number in range(128))

    assert "--noises 1000: 128 prompts at 1 sizes are 128,000 paths in all" in problem(
        prompts=many, noises=1000
    )


# All at once


def test_everything_that_is_wrong_is_said_at_once() -> None:
    found = problems(
        prompts=("",),
        sizes=("64",),
        noises=0,
        teacher_steps=1,
        guidance=101,
        steps=0,
        rank=0,
        learning_rate=2,
        schedule="fast",
        gpu_ids="x",
        overrides=["nonsense=1"],
        teacher_loras=(Path("nowhere.safetensors"),),
        reference=Path("nowhere.png"),
    )

    messages = "\n".join(one.message for one in found)
    for part in (
        "--prompt, number 1",
        "--size 64",
        "--noises 0",
        "--teacher-steps 1",
        "--guidance 101",
        "--steps 0",
        "--rank 0",
        "--learning-rate 2",
        "schedule 'fast' is not known",
        "--gpu-ids x",
        "--set nonsense",
        "LoRA not found: nowhere.safetensors",
        "--source-image: FLUX.1 generates from text alone",
    ):
        assert part in messages


def test_what_lies_where_the_run_is_emptied_is_refused() -> None:
    lora = write_lora(Path("runs/x/data/x.safetensors"))
    prompts = Path("runs/x/cache/prompts.txt")

    found = problems(run=Path("runs/x"), prompts=(), prompt_file=prompts, teacher_loras=(lora,))

    assert f"{lora} lies in runs/x, which is filled with what is recorded" in [
        one.message for one in found
    ]
    assert lora.exists()


@pytest.mark.parametrize("model", ["x" * 300, "~nobody-here/model", "/proc/1/root/model", "a\x00b"])
def test_a_model_out_of_reach_is_refused_kindly(model: str) -> None:

    with pytest.raises(GlanceError):
        distil(model=model)
