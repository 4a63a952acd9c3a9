"""Every row of the table of families is complete and fits the rest of glance."""

import pytest

from glance.errors import SettingsError
from glance.families import FAMILIES, Family, find_family
from glance.settings import Device, resolve_sample_settings, resolve_train_settings
from glance.simpletuner.options import parse_overrides

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def test_rows_are_found_by_their_own_names() -> None:
    assert {name: find_family(name).name for name in FAMILIES} == {name: name for name in FAMILIES}


@pytest.mark.parametrize("name", ["", "FLUX", "flux "])
def test_unknown_family_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^family {name!r} is not supported$") as caught:
        find_family(name)
    assert caught.value.problems[0].hint == f"choose one of: {', '.join(FAMILIES)}"


@every_family
def test_defaults_of_the_family_are_valid_settings(family: Family) -> None:
    training = resolve_train_settings(device=Device.CUDA, family=family.name)
    sampling = resolve_sample_settings(family, prompt="a cat", resolution=training.resolution)
    assert training.model == family.default_model
    assert sampling.slow_guidance == family.guidance.slow


@every_family
def test_training_options_of_the_family_are_simpletuners(family: Family) -> None:
    pairs = [f"{key}={value}" for key, value in family.training_options.items()]
    assert parse_overrides(pairs) == family.training_options


@every_family
def test_prompt_embedding_is_among_the_outputs(family: Family) -> None:
    assert "prompt_embeds" in family.text.outputs


@every_family
def test_guidance_is_on_in_the_slow_phase_and_off_in_the_fast_one(family: Family) -> None:
    assert family.guidance.slow > family.guidance.off == family.guidance.fast


def test_flux_is_trained_and_sampled_as_the_guide_and_the_method_say() -> None:
    flux = find_family("flux")
    assert (flux.default_model, flux.pipeline) == ("black-forest-labs/FLUX.1-dev", "FluxPipeline")
    assert (flux.learning_rate, flux.guidance.slow, flux.guidance.fast) == (5e-4, 3.5, 1.0)
    assert flux.training_options["flux_guidance_value"] == 1.0
