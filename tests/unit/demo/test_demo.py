"""What `glance demo` refuses; that it works is in tests/train."""

from collections.abc import Callable
from pathlib import Path

from glance.demo.run import judge


def test_a_strangers_folder_is_refused_and_left_as_it_was(glance: Callable) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")

    done = glance("demo", "--output", "mine")

    assert done.code == 4
    assert "mine is no run folder: it holds thesis.txt" in done.err
    assert done.err.endswith("hint: give --output another folder\n")
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]


def test_the_judge_names_what_is_not_shown() -> None:
    from PIL import Image

    from glance.demo.draw import draw
    from glance.demo.world import Scene, describe

    scene = Scene("sunset", "large", "low", "right", "sea", "mountains", "boat")
    picture = Image.fromarray(draw(scene))

    assert judge(describe(scene), picture) == "8 of 8 right"
    assert judge("a landscape at night", picture) == "0 of 1 right, not time"


def test_its_prompts_are_captions_of_the_world_that_nobody_learns_from() -> None:
    from importlib.resources import as_file, files

    from glance.demo.run import PROMPTS, TAUGHT
    from glance.demo.world import read_caption
    from glance.sampling.prompts import read_prompts, teaching_prompts

    with as_file(files("glance") / "assets" / PROMPTS) as path:
        prompts = [line.prompt for line in read_prompts(path)]

    assert all(read_caption(prompt) for prompt in prompts)
    assert not set(prompts) & set(teaching_prompts(TAUGHT, world=True))
