"""At which area a picture is trained, and how much of it is shown."""

from pathlib import Path

import pytest
from fakes.runs import make_plan
from PIL import Image

from glance.core.errors import InputError, SampleError
from glance.dataset.sample import fitting_area
from glance.dataset.view import Crop


@pytest.mark.parametrize(
    ("size", "area"),
    [((2000, 1000), 1024), ((1024, 1024), 1024), ((900, 900), 896), ((1200, 300), 576)],
)
def test_a_picture_is_not_enlarged(tmp_path: Path, size: tuple[int, int], area: int) -> None:
    Image.new("RGB", size).save(tmp_path / "x.png")

    assert fitting_area(tmp_path / "x.png", 1024) == area


def test_one_that_is_much_too_small_is_left_to_be_refused(pair: Path) -> None:
    assert fitting_area(pair, 1024) == 1024
    with pytest.raises(SampleError, match="64x64 pixels, too small for resolution 1024"):
        make_plan(resolution=None)


def test_a_file_that_is_no_picture_gets_the_usual_one(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no picture")

    assert fitting_area(tmp_path / "x.png", 1024) == 1024
    assert fitting_area(tmp_path, 1024) == 1024
    assert fitting_area(tmp_path / "none.png", 1024) == 1024


def test_the_choice_is_said_unless_it_was_made(pair: Path) -> None:
    Image.effect_noise((900, 900), 90).convert("RGB").save(pair)

    chosen, given = make_plan(resolution=None), make_plan(resolution="896")

    told = [warning.message for warning in chosen.warnings]
    assert chosen.settings.resolution == given.settings.resolution == 896
    assert "it is trained at resolution 896" in "".join(told)
    assert "896" not in "".join(warning.message for warning in given.warnings)


def test_several_are_trained_at_once_and_the_largest_counts(pair: Path) -> None:
    Image.effect_noise((256, 256), 90).convert("RGB").save(pair)

    settings = make_plan(resolution="64, 256,64", crop="whole, corner").settings

    assert (settings.resolution, settings.also_resolutions) == (256, (64,))
    assert settings.crops == (Crop.WHOLE, Crop.CORNER)


@pytest.mark.parametrize(
    "asked",
    [
        {"resolution": "large"},
        {"resolution": ""},
        {"resolution": "64,"},
        {"resolution": "64,65"},
        {"crop": "face"},
        {"crop": ""},
    ],
)
def test_what_cannot_be_is_refused(pair: Path, asked: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"crop|resolution"):
        make_plan(**asked)
