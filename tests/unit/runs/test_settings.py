"""What the defaults are, and which values are refused."""

from typing import Any

import pytest

from glance.core.device import Device
from glance.core.errors import Problem, SettingsError
from glance.models.families import find_family
from glance.runs.settings import TrainSettings, resolve_train_settings
from glance.runs.view import Crop
from glance.sampling.settings import SampleSettings, resolve_sample_settings


def train_problems(**values: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        resolve_train_settings(device=Device.CPU, **values)
    return [problem.message for problem in caught.value.problems]


def sample_settings(prompt: str = "a cat", **values: Any) -> SampleSettings:
    return resolve_sample_settings(find_family("flux"), prompt=prompt, **values)


def test_defaults_of_training_are_the_guides_and_the_methods() -> None:
    assert resolve_train_settings(device=Device.CUDA).model_dump() == {
        "family": "flux",
        "model": "black-forest-labs/FLUX.1-dev",
        "transformer": None,
        "device": "cuda",
        "preset": "24gb",
        "weights": {"transformer": 11.89, "text_encoders": (0.12, 4.76), "known": False},
        "steps": 60,
        "batch_size": 1,
        "rank": 32,
        "alpha_per_rank": 4,
        "layers": "attention",
        "learning_rate": 5e-4,
        "learning_rate_schedule": "constant_with_warmup",
        "resolution": 1024,
        "also_resolutions": (),
        "crops": ("whole",),
        "seed": 1,
        "sample_every": None,
        "sample_prompt": None,
        "overrides": {},
        "teacher": None,
    }


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("steps", 0, "--steps 0: it must be at least 1"),
        ("steps", 1_000_001, "--steps 1000001: it must be at most 1000000"),
        ("rank", 0, "--rank 0: it must be at least 1"),
        ("rank", 4097, "--rank 4097: it must be at most 4096"),
        ("learning_rate", 0.0, "--learning-rate 0: it must be above 0"),
        ("learning_rate", 1.5, "--learning-rate 1.5: it must be at most 1"),
        ("learning_rate", float("nan"), "--learning-rate nan: it must be a finite number"),
        ("resolution", 0, "--resolution 0: it must be at least 64"),
        ("resolution", 1000, "--resolution 1000: it must be a multiple of 64"),
        ("resolution", (1024, 1000), "--resolution 1000: it must be a multiple of 64"),
        ("resolution", 8256, "--resolution 8256: it must be at most 8192"),
        ("seed", 0, "--seed 0: it must be at least 1"),
        ("seed", 2**32, "--seed 4294967296: it must be at most 4294967295"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_flag_and_one_that_works(
    name: str, value: float, reason: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve_train_settings(device=Device.CPU, **{name: value})

    (problem,) = caught.value.problems
    assert problem.message == reason
    flag, example = (problem.hint or "").removesuffix(", for example").split()
    works = {"1024,512": (1024, 512)}.get(example, float(example.replace(",", "")))
    works = works if isinstance(works, tuple) or name == "learning_rate" else int(works)
    assert flag == reason.split()[0]
    assert resolve_train_settings(device=Device.CPU, **{name: works})


def test_all_bad_values_and_unknown_names_are_refused() -> None:
    problems = train_problems(steps=0, rank=0, seed=0)
    assert [problem.split()[0] for problem in problems] == ["--steps", "--rank", "--seed"]
    assert train_problems(family="sd1") == ["family 'sd1' is not supported"]
    with pytest.raises(SettingsError, match="--colour red: nothing of that name is known"):
        TrainSettings.checked(**resolve_train_settings(device="cpu").model_dump(), colour="red")


def test_overrides_keep_their_types() -> None:
    given = {str(place): one for place, one in enumerate((True, 1, 1.0, 0.5, "1", "true"))}
    settings = resolve_train_settings(device=Device.CPU, overrides=given)
    restored = TrainSettings.model_validate_json(settings.model_dump_json())
    for item in (settings, restored):
        assert list(map(repr, item.overrides.values())) == list(map(repr, given.values()))


def test_defaults_of_sampling_are_the_guides() -> None:
    assert sample_settings().model_dump() == {
        "prompt": "a cat",
        "negative_prompt": "",
        "seed": 0,
        "slow_guidance": 3.5,
        "fast_guidance": 1.0,
        "true_cfg": None,
        "slow_scale": 1.0,
        "fast_scale": 1.0,
        "loras": ("slow", "fast"),
        "width": 1024,
        "height": 1024,
        "reference": None,
        "reference_side": 1024,
    }


def test_what_is_given_goes_before_the_familys_and_the_runs() -> None:
    settings = sample_settings(slow_guidance=2.0, fast_guidance=0.0, resolution=512, height=256)
    assert (settings.slow_guidance, settings.fast_guidance) == (2.0, 0.0)
    assert (settings.width, settings.height) == (512, 256)


@pytest.mark.parametrize(
    ("aspect", "size"),
    [((1600, 900), (1376, 768)), ((900, 1600), (768, 1376)), ((5, 5), (1024, 1024))],
)
def test_size_follows_the_shape_of_what_is_edited(
    aspect: tuple[int, int], size: tuple[int, int]
) -> None:
    settings = resolve_sample_settings(
        find_family("qwen_image_edit_2511"), prompt="by night", aspect=aspect
    )
    assert (settings.width, settings.height) == size


def test_size_that_the_family_cannot_make_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(SettingsError) as caught:
        sample_settings(width=1000, height=17, prompt=" \n")
    assert caught.value.problems == (
        Problem("--width 1000: it must be a multiple of 16", "use --width 992"),
        Problem("--height 17: it must be a multiple of 16", "use --height 16"),
        Problem("--prompt: it is empty", "describe the image in it"),
    )


@pytest.mark.parametrize("values", [{"resolution": (1024, 512)}, {"crops": (Crop.CENTER,)}])
def test_a_family_that_edits_has_one_data_set(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="is trained on one data set"):
        resolve_train_settings(device=Device.CPU, family="qwen_image_edit_2511", **values)


@pytest.mark.parametrize(
    ("family", "values", "remedy"),
    [
        ("flux", {"negative_prompt": "blur"}, "add --true-cfg 2"),
        ("flux2", {"negative_prompt": "blur"}, "distilled to follow the prompt alone"),
        ("sd3", {"negative_prompt": "blur", "slow_guidance": 1.0}, "--slow-guidance 7"),
        ("sd3", {"true_cfg": 3.0}, "use --slow-guidance and --fast-guidance"),
    ],
)
def test_guidance_that_would_change_nothing_is_refused(
    family: str, values: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve_sample_settings(find_family(family), prompt="a cat", **values)
    (problem,) = caught.value.problems
    assert remedy in (problem.hint or "")
