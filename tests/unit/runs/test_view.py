"""What is trained of a picture: its size, where it is cut, and how that is said."""

from pathlib import Path

import numpy as np
import pytest
from fakes.runs import make_plan
from PIL import Image

from glance.core.device import Device
from glance.core.errors import SampleError
from glance.models.families import FAMILIES
from glance.runs.manifest import Manifest, SampleRecord, record_schedule
from glance.runs.settings import resolve_train_settings
from glance.runs.view import Crop, View, fit_reference, fit_view
from glance.sampling.settings import resolve_sample_settings
from glance.schedule.lists import resolve_schedule


@pytest.mark.parametrize(
    ("picture", "area", "step", "said"),
    [
        ((1024, 1024), 1024, 64, "1024x1024"),
        ((3000, 2000), 1024, 64, "1280x832 of 1280x853, 2 % cut at top and bottom"),
        ((3000, 2000), 1024, 16, "1248x832"),
        ((2000, 3000), 512, 64, "384x576"),
        ((4000, 3000), 512, 64, "576x448 of 597x448, 4 % cut at the sides"),
        ((4000, 3000), 512, 32, "608x448 of 608x456, 2 % cut at top and bottom"),
        ((4000, 3000), 512, 16, "576x432"),
        ((122, 63), 64, 64, "128x64 of 128x66, 3 % cut at top and bottom, enlarged 1.05 times"),
        ((4096, 64), 64, 64, "512x64 of 4096x64, 88 % cut at the sides"),
        ((64, 4096), 512, 64, "64x4096"),
        ((1060, 1000), 1024, 64, "1024x960 of 1024x966, 1 % cut at top and bottom"),
        ((720, 720), 704, 64, "704x704"),
    ],
)
def test_a_picture_keeps_its_shape_as_far_as_the_steps_allow(
    picture: tuple[int, int], area: int, step: int, said: str
) -> None:
    view = fit_view(picture, area, step=step)

    assert view.describe() == said
    assert (view.width % step, view.height % step) == (0, 0)


def test_a_square_of_it_is_cut_only_if_it_is_asked_for() -> None:
    center = fit_view((768, 512), 512, step=64, crop=Crop.CENTER)
    corner = fit_view((512, 768), 512, step=64, crop=Crop.CORNER)

    assert center.describe() == "512x512 of 768x512, 33 % cut at the sides"
    assert corner.describe() == "512x512 of 512x768, 33 % cut at the bottom"


def test_a_fixed_area_is_not_exceeded() -> None:
    assert fit_view((3000, 2000), 1024, step=64, most=1024).size == (1216, 832)
    assert fit_view((2000, 2000), 1536, step=64, most=1024).size == (1024, 1024)
    assert fit_view((20000, 100), 1024, step=64, most=1024).size == (14464, 64)


@pytest.mark.parametrize("crop", Crop)
def test_any_picture_has_a_view_that_is_never_larger_than_it_must_be(crop: Crop) -> None:
    rng = np.random.default_rng(1)
    for width, height, area in rng.integers(64, 4096, (500, 3)).tolist():
        area = min(area, int((width * height) ** 0.5)) // 64 * 64
        if area == 0:
            continue
        view = fit_view((width, height), area, step=64, crop=crop)
        assert 0 <= view.cut < 1
        assert view.size == tuple(side // 64 * 64 for side in view.size)
        assert view.scale <= max(1.34, 64 / min(width, height) * 1.01), view


def test_the_middle_is_shown_and_of_a_corner_the_upper_left() -> None:
    picture = Image.linear_gradient("L").rotate(90).resize((300, 100)).convert("RGB")

    center = View(Crop.CENTER, 100, 100, picture.size).show(picture)
    corner = View(Crop.CORNER, 100, 100, picture.size).show(picture)

    assert center.tobytes() == picture.crop((100, 0, 200, 100)).tobytes()
    assert corner.tobytes() == picture.crop((0, 0, 100, 100)).tobytes()


def test_it_is_smoothed_before_it_is_made_smaller() -> None:
    noise = Image.effect_noise((2048, 2048), 100).convert("RGB")

    small = View(Crop.WHOLE, 128, 128, noise.size).show(noise)

    assert np.asarray(small).std() < np.asarray(noise).std() / 8


def test_a_reference_is_shown_as_diffusers_shows_it() -> None:
    assert fit_reference((3000, 2000), 1024, step=32) == (1248, 832)
    assert fit_reference((64, 64), 64, step=32) == (64, 64)


def noise(path: Path, size: tuple[int, int]) -> None:
    Image.effect_noise(size, 90).convert("RGB").save(path)


def test_a_tenth_may_be_cut_and_more_is_warned_of(pair: Path) -> None:
    noise(pair, (300, 200))
    little = make_plan(resolution=192)
    much = make_plan(resolution=64)

    assert little.told[0] == "cat.png is trained at 192x128"
    assert little.warnings == ()
    (warning,) = much.warnings
    assert much.told[0] == "cat.png is trained at 128x64 of 128x85, 25 % cut at top and bottom"
    assert warning.message == "image cat.png loses 25 % at top and bottom: it is trained at 128x64"
    assert warning.hint is not None
    assert "--crop center" in warning.hint


def test_more_than_half_is_refused_unless_crop_says_so(pair: Path) -> None:
    noise(pair, (4096, 64))

    with pytest.raises(SampleError) as caught:
        make_plan()

    assert "image cat.png loses 88 % at the sides: it is trained at 512x64" in str(caught.value)
    assert caught.value.problems[0].hint is not None
    assert caught.value.problems[0].hint.startswith("--resolution 512 trains it at 4096x64; or")
    assert make_plan(resolution=512).told[0] == "cat.png is trained at 4096x64"
    told, *_ = make_plan(crop="center").told
    assert told == "cat.png is trained at 64x64 of 4096x64, 98 % cut at the sides"


def test_a_pair_is_sampled_in_the_shape_that_it_was_trained_in() -> None:
    manifest = Manifest(
        sample=SampleRecord(
            image="data/x.png", caption="data/x.txt", width=3000, height=2000, sha256="0"
        ),
        settings=resolve_train_settings(device=Device.CPU, resolution=512),
        base_model="a/b",
        schedule=record_schedule(resolve_schedule("guide")),
        versions={},
    )

    asked = {"prompt": "a", "resolution": 512, "trained": manifest.sampling}
    usual = resolve_sample_settings(FAMILIES["flux"], **asked)
    wide = resolve_sample_settings(FAMILIES["flux"], width=1024, **asked)

    assert (usual.width, usual.height) == (576, 384)
    assert (wide.width, wide.height) == (1024, 384)
