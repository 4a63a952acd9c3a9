"""A pair that is trained on several images: which those are, their names, the part of each."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fakes.commands import Glance
from fakes.runs import make_plan
from fakes.trainer import FakeSimpleTuner
from PIL import Image

from glance.core.errors import InputError, Problem
from glance.evaluation.compare import plan_comparison
from glance.evaluation.request import CompareRequest
from glance.runs.folder import RunFolder
from glance.runs.manifest import load_manifest
from glance.training.execute import run_training
from glance.training.plan import TrainingPlan


def draw(name: str, size: tuple[int, int] = (64, 64), caption: str | None = "a cat") -> Path:
    """Write an image unlike any of another name, and its caption."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    tint = Image.new("RGB", size, (sum(map(ord, name)) % 256, len(name), 90))
    image = Image.blend(Image.radial_gradient("L").resize(size).convert("RGB"), tint, 0.5)
    image.save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(f"{caption} {size}, {name.encode().hex()}")
    return path


def plan(*images: str, **changes: Any) -> TrainingPlan:
    return make_plan(image=tuple(map(Path, images)), **changes)


def problems(*images: str, **changes: Any) -> list[Problem]:
    with pytest.raises(InputError) as caught:
        plan(*images, **changes)
    return list(caught.value.problems)


def backends(made: TrainingPlan) -> dict[str, Any]:
    listed = made.files["config/multidatabackend.json"]
    return {one["instance_data_dir"]: one for one in listed if one["dataset_type"] == "image"}


# Which they are


def test_a_folder_stands_for_the_pictures_in_it() -> None:
    for name in ("b.png", "A.JPG", "c.webp", ".hidden.png", "sub/d.png"):
        draw(f"pics/{name}")
    Path("pics/notes.md").write_text("no picture")
    Path("pics/e.png").mkdir()
    draw("x.png")

    made = plan("pics", "x.png", "pics/b.png")

    assert [str(one.image) for one in made.samples] == [
        *("pics/A.JPG", "pics/b.png", "pics/c.webp", "x.png"),
    ]
    assert made.run.path == Path("runs/pics"), "it is called after what is named first"


def test_everything_that_is_wrong_with_any_is_told_at_once() -> None:
    for number in range(5):
        draw(f"pics/{number}.png", caption=None if number in (1, 3) else "a cat")
    draw("pics/4.png", (32, 32))

    found = [one.message for one in problems("pics")]

    assert len(found) == 3
    assert [one.split(":")[0] for one in found[:2]] == [
        f"no caption for pics/{number}.png" for number in (1, 3)
    ]
    assert "pics/4.png is 32x32 pixels, too small for resolution 64" in found[2]


def test_what_is_no_set_of_images_is_refused_with_what_to_give() -> None:
    draw("a/x.png")
    Path("void").mkdir()
    Path("runs/cat").mkdir(parents=True)
    Path("runs/cat/glance.json").touch()

    void, run = problems("void", "runs/cat", "a")
    (several,) = problems("a", str(draw("b/y.png")), caption="a cat")
    (twice,) = problems("a/x.png", str(Path("a/x.png").absolute()))

    assert void.message.startswith("void is a folder without an image")
    assert run.hint == "to continue it: --resume runs/cat"
    assert several.hint == "write each one's caption beside it, as a/x.txt"
    assert twice.message.endswith("are the same image with the same caption")


# What they are called in the run


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (("a/x.png", "b/x.png", "c/x.png"), ["x", "x-2", "x-3"]),
        (("a/x.png", "b/x.png", "c/x-2.png"), ["x", "x-2", "x-2-2"]),
        (("a/x-2.png", "b/x.png", "c/X.png"), ["x-2", "x", "X-3"]),
        (("a/my x.png", "b/my-x.png"), ["my-x", "my-x-2"]),
    ],
)
def test_no_two_have_one_name(images: tuple[str, ...], names: list[str]) -> None:
    for one in images:
        draw(one)

    assert [one.name for one in plan(*images).samples] == names


def test_a_run_of_several_is_trained_on_all_and_knows_them_again(
    simpletuner: FakeSimpleTuner, invoke: Glance
) -> None:
    images = [str(draw(f"{folder}/x.png")) for folder in "abc"]

    run_training(plan(*images), lambda _: None)

    staged = [f"x{number}.{kind}" for number in ("", "-2", "-3") for kind in ("png", "txt")]
    assert simpletuner.starts[0]["data"] == sorted(staged)
    manifest = load_manifest(RunFolder(Path("runs/x")))
    assert [one.image for one in manifest.samples] == ["data/x.png", "data/x-2.png", "data/x-3.png"]
    assert plan(*reversed(images)).run.path.name == "x", "their order makes no difference"
    fewer = plan(*images[:2])
    assert fewer.run.path.name == "x-2"
    assert any("sample: data/x-3.png there, not asked" in one for one in fewer.notes)
    compared = plan_comparison(CompareRequest(run=Path("runs/x"), device="cpu"))
    captions = {one.caption for one in plan(*images).samples}
    assert {row.settings.prompt for row in compared.rows} == captions
    (listed,) = invoke("runs", "list", "--json").document["runs"]
    assert listed["images"] == ["x.png", "x-2.png", "x-3.png"]


# What part each has


def test_images_of_other_shapes_are_data_sets_that_share_the_steps() -> None:
    sizes = [(64, 64)] * 3 + [(64, 128)] * 2 + [(256, 128)]
    images = [str(draw(f"{number}.png", size)) for number, size in enumerate(sizes)]

    made = plan(*images)

    sets = backends(made)
    assert {name: one["probability"] for name, one in sets.items()} == {
        "cache/pictures/whole-64x64": 3,
        "cache/pictures/whole-64x128": 2,
        "cache/pictures/whole-128x64": 1,
    }
    assert len({one["cache_dir_vae"] for one in sets.values()}) == 3
    large = [str(draw(f"large/{side}.png", (side, side))) for side in (900, 2000, 700)]
    assert plan(*large, resolution=None).settings.resolution == 640, "what the smallest has"
    assert "probability" not in str(backends(plan(*images[:3])))


def test_of_several_views_each_image_has_all() -> None:
    images = [str(draw("a.png", (128, 128))), str(draw("b.png", (256, 128)))]

    made = plan(*images, crop="whole,center", resolution="128")

    shares = {Path(name).name: one.get("probability") for name, one in backends(made).items()}
    assert (
        shares["center-128x128"] == Counter(view.name for view in made.views)["center-128x128"] == 2
    )
    assert sum(shares.values()) == len(made.views) == 4


def test_fifty_are_a_short_plan(invoke: Glance) -> None:
    for number in range(50):
        draw(f"pics/{number:02}.png")
    options = ("--model", "acme/tiny", "--resolution", "64")

    done = invoke("train", "--image", "pics", *options, "--device", "cpu", "--dry-run")
    checked = invoke("check", "pics", *options, "--json").document["samples"]

    assert done.code == 0, done.err
    assert re.search(r"^images +50 in all, 46 more$", done.out, re.MULTILINE)
    assert [one["image"] for one in checked] == [f"pics/{number:02}.png" for number in range(50)]
