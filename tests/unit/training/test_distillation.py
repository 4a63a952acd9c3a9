"""What a distillation is, decided from a folder that holds no weights.

What the defaults make of FLUX.1-dev is in configs/flux-distill.
"""

from pathlib import Path
from typing import Any

import pytest
from fakes.distillations import MODEL, distil, make_model
from fakes.pairs import write_lora
from PIL import Image

from glance.core.errors import InputError, Problem, UsageError
from glance.core.phase import Phase
from glance.models.base import find_packaged
from glance.sampling.prompts import judging_prompts, teaching_prompts
from glance.sampling.request import ExtraLora
from glance.training.distillation import DistillationPlan, plan_distillation
from glance.training.request import DistillRequest

BACKENDS = "config/multidatabackend.json"


@pytest.fixture(autouse=True)
def model() -> None:
    """A FLUX in the current folder."""
    make_model()


def usual(model: str | None = str(MODEL), device: str = "cpu") -> DistillationPlan:
    """Plan with the defaults of the command."""
    return plan_distillation(DistillRequest(model=model, device=device))


def files(plan: DistillationPlan, name: str) -> list[Any]:
    return [plan.training.files[f"config/glance-{phase}/{name}.json"] for phase in Phase]


def warnings(plan: DistillationPlan) -> list[str]:
    return [warning.message for warning in plan.training.warnings]


def problems(**changes: Any) -> list[Problem]:
    with pytest.raises(InputError) as caught:
        distil(**changes)
    return list(caught.value.problems)


def problem(**changes: Any) -> str:
    (only,) = problems(**changes)
    return only.message


def test_what_is_learnt_where_nothing_is_said() -> None:
    plan = usual()

    assert plan.teacher.prompts == teaching_prompts(128, world=False)
    assert plan.judging == judging_prompts(16, world=False)
    assert (plan.teacher.noises, plan.teacher.steps, len(plan.paths)) == (1, 50, 128)
    assert plan.teacher.sizes == ((1024, 1024),)
    assert plan.run.path == Path("runs/model-distilled")
    assert warnings(plan) == []
    assert plan.training.schedule.name == "own"  # what diffusers steps in four
    assert plan.kept_sigmas == pytest.approx((1, 0.9045, 0.7595, 0.5128, 0), abs=1e-4)
    many = plan.sigmas[1024, 1024]
    assert (len(many), many[0]) == (50, 1.0)


def test_the_packages_small_model_learns_captions_of_its_own_world_at_its_own_size() -> None:
    plan = usual(model=find_packaged("small-flux"))

    assert plan.teacher.prompts == teaching_prompts(128, world=True)
    assert plan.judging == judging_prompts(16, world=True)
    assert plan.teacher.sizes == ((64, 64),)


def test_a_large_model_is_taught_at_a_lower_rate_and_one_sample_at_a_time() -> None:
    (small, _), whole = files(usual(), "config"), usual(model=None, device="cuda")
    large, _ = files(whole, "config")

    assert (small["learning_rate"], large["learning_rate"]) == (1e-3, 2e-4)
    assert (small["train_batch_size"], large["train_batch_size"]) == (4, 1)
    assert large["gradient_accumulation_steps"] == 4
    assert whole.run.path == Path("runs/FLUX.1-dev-distilled")


def test_each_size_has_pictures_of_its_own() -> None:
    plan = distil(sizes=("128x64", "64x192", "128X64"), noises=3, steps=10, batch_size=2)
    images = plan.training.files[BACKENDS][:2]

    assert plan.teacher.sizes == ((128, 64), (64, 192))
    assert len(plan.paths) == 2 * 3 * 2
    keys = ("instance_data_dir", "cache_dir_vae", "repeats")  # 20 samples of 6 pictures each
    assert [tuple(one[key] for key in keys) for one in images] == [
        ("data/128x64", "cache/vae-128x64", 4),
        ("data/64x192", "cache/vae-64x192", 4),
    ]
    names = [one.picture(plan.run).relative_to(plan.run.path) for one in plan.paths]
    assert str(names[0]) == "data/128x64/0001-1-128x64.png"
    assert str(names[-1]) == "data/64x192/0002-3-64x192.png"
    assert set(plan.sigmas) == {(128, 64), (64, 192)}
    assert len({one.settings.seed for one in plan.paths}) == len(plan.paths)
    assert len({one.recording(plan.run) for one in plan.paths}) == len(plan.paths)
    # 6 paths a size, 5 states each of 16 channels at an eighth of the width and height, float32
    assert plan.recorded_bytes == 6 * 5 * 16 * (16 * 8 + 8 * 24) * 4


@pytest.mark.parametrize(
    "size", ["64", "axb", "100x100", "0x64", "64x8256", "-64x64", "64x", "9" * 5000 + "x64"]
)
def test_what_is_no_size_is_refused(size: str) -> None:
    (refused,) = problems(sizes=("64x64", size))

    assert refused.message.startswith(f"--size {size[:40]}: not width x height in multiples of 64")
    assert refused.hint == "--size 1024x1024, or --size 832x1216"


def test_embedded_guidance_is_the_teachers_in_both_phases() -> None:
    plan = distil(teacher_steps=10)

    assert plan.teacher.guidance == 3.5
    assert [plan.teacher.guidance_of(phase) for phase in Phase] == [3.5, 3.5]
    assert [config["flux_guidance_value"] for config in files(plan, "config")] == [3.5, 3.5]
    assert [one["guidance"] for one in files(plan, "targets")] == [3.5, 3.5]
    assert plan.forwards == 2 * 2 * 10
    assert distil(guidance=2).teacher.fast_guidance == 2


def test_classifier_free_guidance_is_learnt_at_two_passes_a_step_and_off_afterwards() -> None:
    make_model("sd3")

    plan = distil(teacher_steps=10)

    assert plan.teacher.guidance == 7
    assert [plan.teacher.guidance_of(phase) for phase in Phase] == [1, 1]
    assert plan.generation.settings.slow_guidance == plan.generation.settings.fast_guidance == 7
    assert ["guidance" in one for one in files(plan, "targets")] == [False, False]
    assert plan.forwards == 2 * 2 * 10 * 2
    assert distil(teacher_steps=10, guidance=1).forwards == 2 * 2 * 10


def test_ten_thousand_prompts_are_planned_and_what_is_never_seen_is_said() -> None:
    Path("many.txt").write_text("".join(f"image {number}\n" for number in range(10_000)))

    plan = distil(prompts=(), prompt_file=Path("many.txt"), steps=600, batch_size=4)

    (warning,) = plan.training.warnings
    assert warning.message == "20,000 paths are recorded, of which 600 steps of batch 4 see 2,400"
    assert (warning.hint or "").startswith("--steps 5000 sees each of them once")
    assert plan.to_json()["recording"]["forwards"] == 20_000 * 50


def test_more_paths_than_anybody_waits_for_are_refused_before_one_is_laid_out() -> None:
    many = tuple(f"hill {number}" for number in range(128))

    said = "--noises 1000: 128 prompts at 1 sizes are 128,000 paths in all"
    assert said in problem(prompts=many, noises=1000)


def test_the_teachers_loras_are_known_by_name_and_content() -> None:
    for name in ("style", "face"):
        write_lora(Path(f"{name}.safetensors"), {"glance.folded_scale": "1.0"}, fill=len(name))
    paths = (Path("style.safetensors"), Path("face.safetensors"))

    plan = distil(teacher_loras=paths)

    assert list(plan.teacher.loras) == ["face.safetensors", "style.safetensors"]
    generation = plan.generation
    assert [one.lora for one in generation.extra_loras.values()] == [
        ExtraLora(path, with_pair=False) for path in paths
    ]
    assert plan.teacher == distil(teacher_loras=paths[::-1]).teacher
    assert "the base model with face.safetensors, style.safetensors, " in plan.teacher.describe()


def test_what_a_teachers_lora_leaves_open_is_said() -> None:
    write_lora(Path("x.safetensors"), {"glance.family": "sd3"})

    found = warnings(distil(teacher_loras=(Path("x.safetensors"),)))

    assert "x.safetensors records no alpha: the base model is sampled with it at scale 1" in found
    assert "x.safetensors was trained for sd3, the model is flux" in found


def test_loras_of_one_name_are_refused() -> None:
    paths = (Path("a/x.safetensors"), Path("b/x.safetensors"))
    for number, path in enumerate(paths, 1):
        write_lora(path, fill=number)

    assert problem(teacher_loras=paths) == "--teacher-lora: 2 files are called x.safetensors"


def test_a_reference_is_there_where_it_is_needed_and_only_there() -> None:
    Image.new("RGB", (200, 100)).save("before.png")
    before = {"reference": Path("before.png")}
    assert problem(**before) == "--source-image: FLUX.1 generates from text alone"

    make_model("qwen_image_edit_2511")
    assert "there is no --source-image" in problem()
    assert "nowhere.png" in problem(reference=Path("nowhere.png"))
    assert "at one size" in problem(**before, sizes=("64x64", "128x64", "128x64"))
    plan = distil(**before, sizes=())
    assert plan.teacher.sizes == ((1472, 704),)  # in its shape
    assert plan.teacher.reference is not None
    images, reference, _ = plan.training.files[BACKENDS]
    assert images["conditioning_data"] == [reference["id"]]
    assert reference["instance_data_dir"] == "{env:PWD}/reference"


def write(content: str, name: str = "prompts.txt") -> dict[str, Any]:
    """Write a prompt file; return how it is asked for."""
    path = Path(name)
    path.write_text(content)
    return {"prompts": (), "prompt_file": path}


def test_equal_prompts_are_learnt_from_once_and_few_are_warned_of() -> None:
    plan = distil(**write("a cat\na dog\n a cat \na cat\n"))

    assert plan.teacher.prompts == ("a cat", "a dog")
    assert warnings(plan)[:2] == [
        "2 of 4 prompts are there already: 2 are learnt from",
        "2 prompts teach what those images have, and may make others worse",
    ]


def test_prompts_and_a_file_of_them_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        distil(prompts=("a cat",), prompt_file=Path("x.txt"))


def test_all_prompts_are_learnt_from_alike() -> None:
    lines = '{"prompt": "a cat", "seed": 7}\n"a dog"\n{"prompt": "a hill", "width": 64, "count": 2}'

    first, second = problems(**write(lines, "prompts.jsonl"))

    assert first.message.startswith("prompts.jsonl, prompt 1: it says seed as well")
    assert second.message.startswith("prompts.jsonl, prompt 3: it says count, width as well")


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


def test_everything_that_is_wrong_is_said_at_once() -> None:
    lora, nowhere = write_lora(Path("runs/x/data/x.safetensors")), Path("nowhere.safetensors")
    wrong = {"noises": 0, "teacher_steps": 1, "guidance": 101, "steps": 0, "rank": 0}
    found = problems(
        **wrong,
        prompts=("a cat", " "),
        sizes=("64",),
        learning_rate=2,
        schedule="fast",
        gpu_ids="x",
        overrides=["nonsense=1"],
        teacher_loras=(nowhere, lora),
        reference=Path("nowhere.png"),
        run=Path("runs/x"),
    )

    messages = "\n".join(one.message for one in found)
    for part in (
        *(f"--{name.replace('_', '-')} {value}" for name, value in wrong.items()),
        *("--prompt, number 2", "--size 64", "--learning-rate 2", "schedule 'fast' is not known"),
        *("--gpu-ids x", "--set nonsense", "LoRA not found: nowhere.safetensors"),
        "--source-image: FLUX.1 generates from text alone",
        f"{lora} lies in runs/x, which is filled with what is recorded",
    ):
        assert part in messages
    assert lora.exists()
