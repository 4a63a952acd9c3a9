"""Which images are asked for, in which order; where they go, and which are there already."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.pairs import write_run
from fakes.plans import plan, pretend

from glance.core.errors import InputError, Problem, SettingsError, SetupError, UsageError
from glance.models.base import BaseModel
from glance.models.families import find_family
from glance.sampling.images import lay_out
from glance.sampling.lora_pair import LoraPair
from glance.sampling.plan import GenerationPlan
from glance.sampling.request import InferRequest


@pytest.fixture(autouse=True)
def _run() -> None:
    write_run(Path("runs/cat"))


def laid_out(**request: Any) -> list[tuple[str, int]]:
    return [(one.settings.prompt, one.settings.seed) for one in settings_of(**request)]


def settings_of(**request: Any) -> Any:
    base = BaseModel(find_family("sd3"), "acme/tiny")
    return lay_out(InferRequest(**request), LoraPair(base=base, side=64))


def write_prompts(*lines: dict[str, Any]) -> Path:
    Path("p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return Path("p.jsonl")


def test_each_prompt_has_each_seed_and_those_that_follow() -> None:
    assert laid_out(prompts=("a", "b"), seeds=(3, 8), count=2) == [
        *(("a", 3), ("a", 4), ("a", 8), ("a", 9)),
        *(("b", 3), ("b", 4), ("b", 8), ("b", 9)),
    ]


def test_a_line_goes_over_the_flags() -> None:
    file = write_prompts({"prompt": "a", "seed": [1, 2], "width": 128}, {"prompt": "b"})

    found = settings_of(prompt_file=file, seeds=(7,), width=64, slow_scale=0.5)

    made = [(one.settings.seed, one.settings.width, one.settings.slow_scale) for one in found]
    assert made == [(1, 128, 0.5), (2, 128, 0.5), (7, 64, 0.5)]


def test_prompts_of_the_command_line_follow_those_of_the_file_each_once_of_seed_0() -> None:
    file = write_prompts({"prompt": "a"})

    assert laid_out(prompt_file=file, prompts=("b",)) == [("a", 0), ("b", 0)]


def test_no_prompt_is_said_with_the_flags_to_use() -> None:
    with pytest.raises(UsageError) as caught:
        settings_of()

    assert "--prompt" in (caught.value.problems[0].hint or "")


@pytest.mark.parametrize(
    ("prompts", "told"),
    [(("a", " "), "prompt 2: --prompt: it is empty"), (("\udcff",), "no UTF-8")],
)
def test_a_prompt_that_is_no_text_is_refused(prompts: tuple[str, ...], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        settings_of(prompts=prompts)


@pytest.mark.parametrize(
    ("asked", "named", "hint"),
    [
        ({"count": 100_000_000}, "--count 100000000: 100,000,000 images in all", "--count 10000"),
        ({"count": 5_001, "prompts": ("a", "b")}, "--count 5001: 10,002", "--count 5000"),
        ({"count": 2, "seeds": range(10_000)}, "--count 2: 20,000", "--count 1"),
        ({"seeds": range(10_001)}, "the prompts: 10,001", "fewer prompts and seeds"),
    ],
)
def test_more_images_than_a_plan_holds_are_refused_before_one_is_laid_out(
    asked: dict[str, Any], named: str, hint: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        laid_out(**{"prompts": ("a",), **asked})

    (problem,) = caught.value.problems
    assert problem.message.startswith(named)
    assert problem.message.endswith("and one command makes at most 10,000")
    assert hint in (problem.hint or "")
    file = write_prompts(*({"prompt": "a", "count": 100_000} for _ in range(3)))
    with pytest.raises(SettingsError, match="the prompts: 300,000 images in all"):
        laid_out(prompt_file=file)


def test_what_all_prompts_have_is_said_once_and_what_many_have_a_few_times() -> None:
    lines = [{"prompt": "a", "width": 100} for _ in range(9)]
    file = write_prompts(*lines, {"prompt": "b"}, {"prompt": "c", "width": 72})

    with pytest.raises(SettingsError) as of_some:
        settings_of(prompt_file=file)
    with pytest.raises(SettingsError) as of_all:
        settings_of(prompt_file=file, slow_scale=99.0)

    said = [one.message for one in of_some.value.problems]
    assert said[2:] == [
        "p.jsonl, prompt 3: width: 100: it must be a multiple of 16",
        "6 prompts more have it: width: 100: it must be a multiple of 16",
        "p.jsonl, prompt 11: width: 72: it must be a multiple of 16",
    ]
    assert of_all.value.problems == (
        Problem("--slow-scale 99: it must be at most 10", "--slow-scale 1, for example"),
    )


def names(planned: GenerationPlan) -> list[str]:
    return [str(one.output) for one in planned.images]


@pytest.mark.parametrize(
    ("output", "seeds", "places"),
    [
        (None, (1, 2), ["runs/cat/images/a-hill-1.png", "runs/cat/images/a-hill-2.png"]),
        (None, (1, 1), ["runs/cat/images/a-hill-1.png", "runs/cat/images/a-hill-1-2.png"]),
        ("y.png", (1,), ["y.png"]),
        ("x.webp", (1, 2), ["x-1.webp", "x-2.webp"]),
        ("new/pictures", (1,), ["new/pictures/a-hill-1.png"]),
    ],
)
def test_images_go_to_the_runs_images_or_where_they_are_sent(
    output: str | None, seeds: tuple[int, ...], places: list[str]
) -> None:
    Path("x.png").write_bytes(b"older")

    assert names(plan(seeds=seeds, output=output and Path(output))) == places


def test_a_line_may_name_its_picture() -> None:
    Path("p.jsonl").write_text('{"prompt": "a", "output": "first.jpg"}\n{"prompt": "b"}')

    planned = plan(prompts=(), prompt_file=Path("p.jsonl"), output=Path("out"))

    assert names(planned) == ["out/first.jpg", "out/b-0.png"]


@pytest.mark.parametrize(
    ("output", "error", "told"),
    [
        ("x.gif", InputError, "is not an image format"),
        ("file/x.png", SetupError, r"--output file/x\.png: nothing can be written there"),
    ],
)
def test_a_place_for_no_image_is_refused_before_anything_is_loaded(
    output: str, error: type[Exception], told: str
) -> None:
    Path("file").write_text("")

    with pytest.raises(error, match=told):
        plan(output=Path(output))


def test_a_prompt_that_jpeg_has_no_room_for_is_refused_before_anything_is_loaded() -> None:
    long = ("a hill " * 10_000,)

    with pytest.raises(InputError, match="JPEG has room for"):
        plan(prompts=long, output=Path("x.jpg"))
    assert plan(prompts=long, output=Path("x.jpg"), metadata=False).images
    assert plan(prompts=long, output=Path("x.png")).images


@pytest.mark.parametrize("output", [None, Path("x.png")])
def test_a_single_image_that_is_there_is_done_as_one_of_several_is(output: Path | None) -> None:
    first = pretend(plan(output=output).images[0])

    (again,) = plan(output=output).images
    anew, other = plan(output=output, restart=True), plan(output=output, slow_scale=0.5)

    assert (again.output, again.is_done) == (first, True)
    assert [(one.output, one.is_done) for one in anew.images] == [(first, False)]
    (changed,) = other.images
    place = Path("x.png") if output else first.with_stem("a-hill-0-2")
    assert (changed.output, changed.is_done) == (place, False)


def test_what_is_to_lie_beside_a_image_must_be_there_too() -> None:
    picture = pretend(plan().images[0])

    (without,) = plan(save_latents=True).images
    picture.with_suffix(".latents.safetensors").write_text("")

    assert (without.output, without.is_done) == (picture, False)
    assert plan(save_latents=True).images[0].is_done


def test_a_image_that_says_nothing_of_itself_is_never_taken_for_another() -> None:
    pretend(plan().images[0])

    (again,) = plan(metadata=False).images

    assert (again.output.name, again.is_done) == ("a-hill-0-2.png", False)


def test_what_is_there_is_found_again_each_in_its_own_place() -> None:
    for one in plan(seeds=(1, 1, 3)).images:
        pretend(one)

    again = plan(seeds=(1, 1, 1, 2, 3)).images

    assert [one.is_done for one in again] == [True, True, False, False, True]
    assert [one.output.stem for one in again[2:]] == ["a-hill-1-3", "a-hill-2", "a-hill-3"]


def test_prompts_that_begin_alike_are_not_tried_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = tuple(f"{'a very long beginning ' * 3} {number}" for number in range(200))
    looks, exists = [], Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: looks.append(path) or exists(path))

    planned = names(plan(prompts=prompts))

    assert len(set(planned)) == len(prompts)
    assert len(looks) < 20 * len(prompts)  # not their square
