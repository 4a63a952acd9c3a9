"""What is decided before anything is loaded: places, and what is there already."""

from pathlib import Path

import pytest
from fakes.pairs import glance_header, write_lora, write_run
from fakes.plans import plan, pretend

from glance.core.errors import InputError, SetupError
from glance.core.phase import Phase
from glance.sampling.plan import GenerationPlan


def names(planned: GenerationPlan) -> list[str]:
    return [str(one.output) for one in planned.images]


@pytest.fixture(autouse=True)
def _run() -> None:
    write_run(Path("runs/cat"))


# --- places --------------------------------------------------------------------------------------


def test_pictures_go_to_the_runs_images_and_are_named_for_prompt_and_seed() -> None:
    assert names(plan(seeds=(1, 2))) == [
        "runs/cat/images/a-hill-1.png",
        "runs/cat/images/a-hill-2.png",
    ]


def test_one_picture_goes_exactly_where_it_is_sent() -> None:
    Path("x.png").write_bytes(b"older")

    assert names(plan(output=Path("x.png"))) == ["x.png"]


def test_several_pictures_sent_to_one_file_get_their_seeds() -> None:
    assert names(plan(seeds=(1, 2), output=Path("x.webp"))) == ["x-1.webp", "x-2.webp"]


def test_a_path_without_an_ending_is_a_folder() -> None:
    assert names(plan(output=Path("new/pictures"))) == ["new/pictures/a-hill-0.png"]


def test_equal_pictures_of_one_command_get_numbers() -> None:
    assert names(plan(seeds=(1, 1))) == [
        "runs/cat/images/a-hill-1.png",
        "runs/cat/images/a-hill-1-2.png",
    ]


def test_a_line_may_name_its_picture() -> None:
    Path("p.jsonl").write_text('{"prompt": "a", "output": "first.jpg"}\n{"prompt": "b"}')

    planned = plan(prompts=(), prompt_file=Path("p.jsonl"), output=Path("out"))

    assert names(planned) == ["out/first.jpg", "out/b-0.png"]


@pytest.mark.parametrize("output", ["x.gif", "x.bmp"])
def test_an_unknown_format_is_refused_before_anything_is_loaded(output: str) -> None:
    with pytest.raises(InputError, match="is not a picture format"):
        plan(output=Path(output))


def test_a_prompt_that_jpeg_has_no_room_for_is_refused_before_anything_is_loaded() -> None:
    long = ("a hill " * 10_000,)

    with pytest.raises(InputError, match="JPEG has room for"):
        plan(prompts=long, output=Path("x.jpg"))
    assert plan(prompts=long, output=Path("x.jpg"), metadata=False).images
    assert plan(prompts=long, output=Path("x.png")).images


def test_a_place_that_cannot_be_written_is_refused() -> None:
    Path("file").write_text("")

    with pytest.raises(SetupError, match=r"--output file/x\.png: nothing can be written there"):
        plan(output=Path("file/x.png"))


# --- going on ------------------------------------------------------------------------------------


def test_an_interrupted_command_goes_on_with_what_is_missing() -> None:
    pretend(plan(seeds=(1, 2, 3)).images[1])

    again = plan(seeds=(1, 2, 3))

    assert [one.is_done for one in again.images] == [False, True, False]
    assert names(again)[1] == "runs/cat/images/a-hill-2.png"


@pytest.mark.parametrize("output", [None, Path("x.png")])
def test_a_single_picture_that_is_there_is_done_as_one_of_several_is(output: Path | None) -> None:
    first = pretend(plan(output=output).images[0])

    (again,) = plan(output=output).images
    anew, other = plan(output=output, restart=True), plan(output=output, slow_scale=0.5)

    assert (again.output, again.is_done) == (first, True)
    assert [(one.output, one.is_done) for one in anew.images] == [(first, False)]
    (changed,) = other.images
    place = Path("x.png") if output else first.with_stem("a-hill-0-2")
    assert (changed.output, changed.is_done) == (place, False)


def test_what_is_to_lie_beside_a_picture_must_be_there_too() -> None:
    picture = pretend(plan().images[0])

    (without,) = plan(save_latents=True).images
    picture.with_suffix(".latents.safetensors").write_text("")

    assert (without.output, without.is_done) == (picture, False)
    assert plan(save_latents=True).images[0].is_done


def test_a_picture_that_says_nothing_of_itself_is_never_taken_for_another() -> None:
    pretend(plan().images[0])

    (again,) = plan(metadata=False).images

    assert (again.output.name, again.is_done) == ("a-hill-0-2.png", False)


def test_equal_pictures_are_found_again_each_in_its_own_place() -> None:
    for one in plan(seeds=(1, 1)).images:
        pretend(one)

    again = plan(seeds=(1, 1, 1)).images

    assert [one.is_done for one in again] == [True, True, False]
    assert again[2].output.name == "a-hill-1-3.png"


def test_prompts_that_begin_alike_are_not_looked_for_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = tuple(f"{'a very long beginning ' * 3} {number}" for number in range(200))
    looks, exists = [], Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: looks.append(path) or exists(path))

    planned = names(plan(prompts=prompts))

    assert len(set(planned)) == len(prompts)
    assert len(looks) < 20 * len(prompts)  # not their square


def test_a_picture_of_other_settings_is_neither_taken_nor_lost() -> None:
    pretend(plan(seeds=(1, 2), slow_scale=0.5).images[0])

    first, second = plan(seeds=(1, 2)).images

    assert (first.output.name, first.is_done) == ("a-hill-1-2.png", False)
    assert (second.output.name, second.is_done) == ("a-hill-2.png", False)


def test_restart_paints_over_what_the_same_command_has_painted() -> None:
    pretend(plan(seeds=(1, 2)).images[0])

    first, _ = plan(seeds=(1, 2), restart=True).images

    assert (first.output.name, first.is_done) == ("a-hill-1.png", False)


def test_another_lora_is_another_picture() -> None:
    pretend(plan(seeds=(1, 2)).images[0])
    lora = Path("runs/cat/output/glance-slow/pytorch_lora_weights.safetensors")
    write_lora(lora, glance_header(Phase.SLOW), fill=2.0)

    assert [one.is_done for one in plan(seeds=(1, 2)).images] == [False, False]


def test_a_moved_run_goes_on_where_it_was() -> None:
    pretend(plan(seeds=(1, 2)).images[0])
    Path("elsewhere").mkdir()
    moved = Path("runs/cat").rename("elsewhere/dog")

    first, second = plan(seeds=(1, 2), run=moved).images

    assert (first.is_done, second.is_done) == (True, False)
