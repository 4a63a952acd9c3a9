"""What a finished LoRA says of itself: ModelSpec, kohya's keys, and runs from before all that."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.pairs import make_origin, write_run
from fakes.runs import RUN
from safetensors.numpy import load_file

from glance.core.phase import Phase
from glance.models.families import FAMILIES, find_family
from glance.models.lora.file import (
    hash_data,
    hash_file,
    read_header,
    read_metadata,
    rewrite_metadata,
)
from glance.runs.folder import RunFolder
from glance.runs.lora import complete_metadata, copy_completed, describe_origin, find_origin
from glance.runs.manifest import ImportRecord, Manifest, load_manifest
from glance.schedule.lists import Schedule

SLOW, FAST = Phase
COPY = Path("copy.safetensors")


def spec(phase: Phase = SLOW, **changes: Any) -> dict[str, str]:
    found = describe_origin(make_origin(phase, **changes), rank=4, data_sha256="ab")
    return {key.split(".", 1)[1]: text for key, text in found.items() if "modelspec." in key}


def record(run: RunFolder, **changes: Any) -> Manifest:
    manifest = load_manifest(run).model_copy(update=changes)
    manifest.save(run)
    return manifest


def test_all_that_modelspec_must_and_should_have_is_there() -> None:
    assert spec(SLOW) == {
        "sai_model_spec": "1.0.1",
        "architecture": "flux-1-dev/lora",
        "implementation": "diffusers",
        "title": "cat-01234567 (slow)",
        "description": "The slow half of a pair of LoRAs for FLUX.1 for 10 steps, "
        "trained by glance from one image. This one is for the early, noisy steps; its other "
        "half has the same glance.pair_id, 0123456789abcdef.",
        "usage_hint": "Strength 1, from sigma 1 to 0.8867, in steps from timesteps 1000, 979.192, "
        "957.516, 934.917, 911.335; then the fast half.",
        "timestep_range": "887,1000",
        "hash_sha256": "0xab",
        "resolution": "1024x1024",
    }


@pytest.mark.parametrize(
    ("boundary", "slow", "fast"),
    [(886.7053, "887,1000", "0,887"), (500.4, "500,1000", "0,500"), (1.0, "1,1000", "0,1")],
)
def test_range_is_rounded_to_the_nearest(boundary: float, slow: str, fast: str) -> None:
    schedule = Schedule("own", (1000.0, 900.5), (boundary,))

    assert spec(SLOW, schedule=schedule)["timestep_range"] == slow
    assert spec(FAST, schedule=schedule)["timestep_range"] == fast
    hint = f"Strength 1, from sigma {boundary / 1000:.4g} to 0, in steps from"
    assert spec(FAST, schedule=schedule)["usage_hint"].startswith(hint)


def test_kohyas_keys_say_that_alpha_is_the_rank() -> None:
    found = describe_origin(make_origin(FAST), rank=16, data_sha256="")

    assert {key: text for key, text in found.items() if key.startswith("ss_")} == {
        "ss_network_dim": "16",
        "ss_network_alpha": "16",
        "ss_output_name": "cat-01234567-fast",
        "ss_sd_model_name": "black-forest-labs/FLUX.1-dev",
        "ss_base_model_version": "flux1",
    }


def test_every_family_has_an_architecture_of_its_own() -> None:
    names = [row.architecture.modelspec for row in FAMILIES.values()]

    assert len(set(names)) == len(FAMILIES)
    assert not [name for name in names if " " in name]


@pytest.mark.parametrize(
    ("family", "model", "architecture"),
    [
        ("flux2_klein", "black-forest-labs/FLUX.2-klein-base-9B", "Flux.2-klein-9b/lora"),
        ("flux2_klein", "black-forest-labs/FLUX.2-klein-base-4B", "Flux.2-klein-4b/lora"),
        ("sd3", "stabilityai/stable-diffusion-3.5-large", "stable-diffusion-v3.5-large/lora"),
        ("flux", "black-forest-labs/FLUX.1-schnell", "flux-1-schnell/lora"),
        ("flux", "anything", "flux-1-dev/lora"),
    ],
)
def test_larger_models_are_told_apart(family: str, model: str, architecture: str) -> None:
    assert spec(family=find_family(family), model=model)["architecture"] == architecture


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"model": "../models/my-flux", "transformer": None}, "my-flux"),
        ({"model": "acme/base", "transformer": "../merge.safetensors"}, "merge.safetensors"),
        ({"model": ".", "transformer": None}, "FLUX.1"),
    ],
)
def test_no_path_leaves_the_run(settings: dict[str, Any], name: str) -> None:
    run = write_run(Path("x"))
    manifest = load_manifest(run)
    manifest = record(run, settings=manifest.settings.model_copy(update=settings))

    assert find_origin(manifest, SLOW).model == name


def test_an_imported_pair_is_not_said_to_be_glances() -> None:
    run = write_run(Path("x"))
    named = dict.fromkeys(Phase, "x")
    imported = ImportRecord(sources=named, sha256=named, folded=named, unknown=("resolution",))

    origin = find_origin(record(run, imported=imported, sample=None), SLOW)
    found = describe_origin(origin, rank=2, data_sha256="")

    assert origin.pair == f"flux-{origin.pair_id[:8]}"
    assert "modelspec.resolution" not in found
    assert "trained by glance" not in found["modelspec.description"]


@pytest.mark.usefixtures("fully_trained")
def test_a_new_runs_loras_say_all_know_each_other_and_are_copied_as_they_are() -> None:
    manifest = load_manifest(RUN)
    slow, fast = (read_metadata(RUN.lora(phase)) for phase in Phase)

    for phase, metadata in ((SLOW, slow), (FAST, fast)):
        copy_completed(manifest, phase, source=RUN.lora(phase), target=COPY)
        assert COPY.read_bytes() == RUN.lora(phase).read_bytes()
        assert metadata["glance.pair_id"] == manifest.pair_id
        assert metadata["glance.base_model"] == manifest.base_model == "acme/tiny"
        assert metadata["glance.boundary"] == slow["glance.boundary"]
        assert metadata["modelspec.hash_sha256"] == f"0x{hash_data(read_header(COPY))}"
        assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "4"
        assert "modelspec.date" not in metadata  # equal trainings give equal files
    assert float(slow["glance.boundary"]) == json.loads(fast["glance.sigmas"])[0]
    assert slow["glance.boundary"] == slow["glance.end_sigma"]


def test_an_older_runs_lora_is_completed_and_stays() -> None:
    run = write_run(Path("x"))
    manifest, source = load_manifest(run), run.lora(SLOW)
    before = hash_file(source)

    copy_completed(manifest, SLOW, source=source, target=COPY)

    metadata, old = read_metadata(COPY), read_metadata(source)
    assert hash_file(source) == before
    assert old.items() < metadata.items()
    assert metadata["modelspec.timestep_range"] == "887,1000"
    assert (metadata["glance.pair_id"], metadata["ss_network_dim"]) == (manifest.pair_id, "2")
    tensors, copied = load_file(source), load_file(COPY)
    assert all((tensors[key] == copied[key]).all() for key in tensors)
    for name, begin in (("b", source), ("c", COPY)):
        copy_completed(manifest, SLOW, source=begin, target=Path(name))
    assert Path("b").read_bytes() == Path("c").read_bytes() == COPY.read_bytes()


def test_what_the_file_says_already_is_believed() -> None:
    run = write_run(Path("x"))
    header = read_header(run.lora(SLOW))
    own = {**header.metadata, "modelspec.title": "My cat", "modelspec.author": "me"}
    rewrite_metadata(header, own, run.lora(SLOW))

    found = complete_metadata(load_manifest(run), SLOW, read_header(run.lora(SLOW)))

    assert (found["modelspec.title"], found["modelspec.author"]) == ("My cat", "me")
    assert found["glance.folded_scale"] == "4.0"
