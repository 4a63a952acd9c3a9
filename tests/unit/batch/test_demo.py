"""What `glance demo` refuses; that it works is in tests/train."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from PIL import Image

from glance.batch.demo import PROMPTS, TAUGHT, judge
from glance.evaluation.small_world.draw import draw
from glance.evaluation.small_world.world import Scene, describe, read_caption
from glance.sampling.prompts import read_prompts, teaching_prompts


def test_a_strangers_folder_is_refused_and_left_as_it_was(invoke: Callable) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")

    done = invoke("demo", "--output", "mine")

    assert done.code == 4
    assert "mine is no run folder: it holds thesis.txt" in done.err
    assert done.err.endswith("hint: give --output another folder\n")
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]


def test_the_judge_names_what_is_not_shown() -> None:
    scene = Scene("sunset", "large", "low", "right", "sea", "mountains", "boat")
    picture = Image.fromarray(draw(scene))

    assert judge(describe(scene), picture) == "8 of 8 right"
    assert judge("a landscape at night", picture) == "0 of 1 right, not time"


def test_its_prompts_are_captions_of_the_world_that_nobody_learns_from() -> None:
    lines = read_prompts(Path(str(files("glance"))) / "assets" / PROMPTS)
    prompts = [line.prompt for line in lines]

    assert all(read_caption(prompt) for prompt in prompts)
    assert not set(prompts) & set(teaching_prompts(TAUGHT, world=True))
