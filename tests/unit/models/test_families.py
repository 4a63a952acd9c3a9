"""Every row of the table of families is complete and fits the rest of glance."""

import json
from importlib.metadata import files
from pathlib import Path
from typing import Any

import pytest

from glance.core.device import Device
from glance.core.errors import SettingsError
from glance.models.families import FAMILIES, Family, families_of_pipeline, find_family
from glance.models.families.refused import REFUSED
from glance.runs.settings import resolve_train_settings
from glance.sampling.settings import resolve_sample_settings
from glance.training.simpletuner.config import parse_overrides

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def simpletuners_families() -> dict[str, Any]:
    """What the installed SimpleTuner says of itself, without importing it."""
    (path,) = (
        file.locate() for file in files("simpletuner") or () if file.name == "model_metadata.json"
    )
    return json.loads(Path(path).read_text())


@pytest.mark.parametrize("name", ["", "FLUX", "flux "])
def test_unknown_family_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^family {name!r} is not supported$") as caught:
        find_family(name)
    assert caught.value.problems[0].hint == f"glance trains: {', '.join(FAMILIES)}"


def test_every_family_of_simpletuner_is_supported_or_refused_with_a_reason() -> None:
    supported = {family.simpletuner_name for family in FAMILIES.values()}
    refused = {name for row in REFUSED for name in row.names}
    known = simpletuners_families()

    assert not supported & refused
    assert supported | refused == {*known, "sd2x"}
    assert {known[name]["prediction_type"] for name in supported} == {"flow_matching"}


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.title)
def test_what_is_refused_is_refused_with_its_reason(row: Any) -> None:
    asked = [(find_family, name) for name in row.names]
    asked += [(families_of_pipeline, pipeline) for pipeline in row.pipelines]
    for find, name in asked:
        with pytest.raises(SettingsError) as caught:
            find(name)
        assert str(caught.value) == f"{row.title} ({name}) is not supported: {row.reason}"


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
def test_a_row_agrees_with_itself(family: Family) -> None:
    assert find_family(family.name) is family
    assert family.guidance.slow > family.guidance.off == family.guidance.fast
    assert not [word for word in family.distilled if word in family.default_model.lower()]
    assert family.training_multiple % family.size_multiple == 0 == 64 % family.training_multiple


def test_flux_is_trained_and_sampled_as_the_guide_and_the_method_say() -> None:
    flux = find_family("flux")
    assert (flux.default_model, flux.pipeline) == ("black-forest-labs/FLUX.1-dev", "FluxPipeline")
    assert (flux.learning_rate, flux.guidance.slow, flux.guidance.fast) == (5e-4, 3.5, 1.0)
    assert flux.training_options["flux_guidance_value"] == 1.0
